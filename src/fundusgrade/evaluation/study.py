"""Explanations of models tested on data sets: which photographs undergo which tests, and what is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.lesion_masks import find_lesion_photographs, read_lesions
from fundusgrade.errors import DatasetError, ExplanationError, UngradableError
from fundusgrade.evaluation.faithfulness import Plan, Subject, examine_all
from fundusgrade.evaluation.findings import Findings, summarize
from fundusgrade.explanation.attribution import fits
from fundusgrade.explanation.explainer import check_comparable, check_fit
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.explanation.targets import Target
from fundusgrade.grading.grader import Grader
from fundusgrade.metrics.bootstrap import resample
from fundusgrade.options import Attribution
from fundusgrade.photographs.loading import load_photograph, open_photograph
from fundusgrade.photographs.sources import FoundImage

CLAIMED = (Attribution.AUTO, Attribution.GRAD_CAM)
"""Methods whose concentration is measured on all photographs: the default, and the one that is used most."""

Progress = Callable[[int, int], None]

Skipped = Callable[[str], None]
"""Is told of a photograph that was left out, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What is asked: the target, methods (all that fit if empty), and how many photographs undergo the slow tests."""

    target: Target
    methods: tuple[ExplainOptions, ...] = ()
    limit: int = 40
    num_resamples: int = 1000


def examine_dataset(
    graders: Sequence[Grader],
    dataset: PreparedDataset,
    split: str,
    asked: Examination,
    on_progress: Progress = lambda done, total: None,
    on_skipped: Skipped = lambda reason: None,
) -> Findings:
    """Concentration of every photograph's maps, and all tests on `limit` of them, drawn at random with a fixed seed.

    Photographs that cannot be read are left out. Raises DatasetError where none can, ExplanationError where models look
    at different pictures or a method fits none of them.
    """
    _check(graders, asked)
    rows = dataset.graded_rows(split)
    if not rows:
        raise DatasetError(f"the data set {dataset.name!r} has no graded photographs in the split {split!r}")
    chosen = sorted(np.random.default_rng(0).permutation(len(rows))[: asked.limit].tolist())
    everywhere = Plan(
        methods=_of_target(_claimed(asked), asked.target),
        with_perturbation=False,
        with_randomization=False,
        with_stability=False,
        with_decoys=False,
    )
    closely = Plan(methods=_methods(graders, asked), with_concentration=False)
    total = len(rows) + len(chosen)
    paths = [dataset.photograph_path(row) for row in rows]
    first, then = _subjects(paths, range(len(rows)), graders[0], on_skipped), _subjects(paths, chosen, graders[0])
    measured = examine_all(graders, everywhere, first, lambda done: on_progress(done, total))
    if not measured:
        raise DatasetError(
            f"the photographs of the data set {dataset.name!r} cannot be read, such as {paths[0]}; prepare it again "
            "where its photographs are"
        )
    measured += examine_all(graders, closely, then, lambda done: on_progress(len(rows) + done, total))
    grades = np.array([int(row.grade or 0) for row in rows], np.int64)
    groups = np.array([row.group for row in rows], np.int64)
    sample = resample(grades, groups, num_resamples=asked.num_resamples)
    return summarize(measured, sample, data=f"{dataset.name}, {split}", target=asked.target.name)


def examine_lesions(
    graders: Sequence[Grader],
    folder: Path,
    asked: Examination,
    on_progress: Progress = lambda done, total: None,
    on_skipped: Skipped = lambda reason: None,
) -> Findings:
    """All tests on the photographs of a folder in IDRiD's layout, which says where their lesions are.

    Raises DatasetError where there are none, and as `examine_photographs` does.
    """
    found = find_lesion_photographs(folder)
    return examine_photographs(graders, found, folder / "masks", asked, folder.name, on_progress, on_skipped)


def examine_photographs(
    graders: Sequence[Grader],
    found: Sequence[FoundImage],
    masks: Path | None,
    asked: Examination,
    data: str,
    on_progress: Progress = lambda done, total: None,
    on_skipped: Skipped = lambda reason: None,
) -> Findings:
    """All tests on photographs; with a folder of masks those of lesions too.

    Photographs that cannot be graded, or whose masks do not fit, are left out. Raises DatasetError where all are, and
    ExplanationError as `examine_dataset` does.
    """
    _check(graders, asked)
    plan = Plan(methods=_methods(graders, asked))
    subjects = _photographs(found, masks, graders[0], on_skipped)
    measured = examine_all(graders, plan, subjects, lambda done: on_progress(done, len(found)))
    if not measured:
        raise DatasetError(f"none of {len(found)} photographs could be tested")
    # Nothing is known of grades or patients: each photograph is drawn by itself.
    sample = resample(np.zeros(len(found), np.int64), np.arange(len(found)), num_resamples=asked.num_resamples)
    return summarize(measured, sample, data=data, target=asked.target.name)


def _photographs(
    found: Sequence[FoundImage], masks: Path | None, grader: Grader, on_skipped: Skipped
) -> Iterator[Subject]:
    for number, each in enumerate(found):
        try:
            opened = open_photograph(each, grader.recipe)
            lesions = () if masks is None else read_lesions(Path(each.name).stem, masks, opened.photograph.shape)
        except (UngradableError, DatasetError) as error:
            on_skipped(str(error))
            continue
        yield Subject(number=number, loaded=opened.loaded, lesions=lesions)


def _subjects(
    paths: Sequence[Path], numbers: Sequence[int], grader: Grader, on_skipped: Skipped = lambda reason: None
) -> Iterator[Subject]:
    for number in numbers:
        try:
            yield Subject(number=number, loaded=load_photograph(paths[number], grader.recipe))
        except UngradableError as error:
            on_skipped(f"{paths[number]}: {error}")


def _claimed(asked: Examination) -> tuple[ExplainOptions, ...]:
    return asked.methods or tuple(ExplainOptions(method=method) for method in CLAIMED)


def _methods(graders: Sequence[Grader], asked: Examination) -> tuple[ExplainOptions, ...]:
    """The methods asked for, or all that any of the models can be explained by."""
    if asked.methods:
        return _of_target(asked.methods, asked.target)
    known = [ExplainOptions(method=method) for method in Attribution if method is not Attribution.AUTO]
    return _of_target([each for each in known if any(fits(grader.network, each) for grader in graders)], asked.target)


def _of_target(methods: Sequence[ExplainOptions], target: Target) -> tuple[ExplainOptions, ...]:
    return tuple(replace(method, target=target) for method in methods)


def _check(graders: Sequence[Grader], asked: Examination) -> None:
    check_fit(graders, ())
    check_comparable(graders)
    for method in asked.methods:
        if not any(fits(grader.network, method) for grader in graders):
            names = ", ".join(grader.name for grader in graders)
            raise ExplanationError(f"--method {method.describe()} fits none of {names}")
