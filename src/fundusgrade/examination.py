"""Explanations of models tested on data sets: which photographs undergo which tests, and what is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fundusgrade.dataset import ManifestRow, PreparedDataset
from fundusgrade.errors import DatasetError, ExplanationError, UngradableError
from fundusgrade.explain import ExplainOptions, fits
from fundusgrade.faithfulness import Plan, Subject, examine_all
from fundusgrade.findings import Findings, summarize
from fundusgrade.grading import Grader
from fundusgrade.images import FoundImage
from fundusgrade.intake import open_photograph, take_in
from fundusgrade.lesions import find_lesion_photographs, read_lesions
from fundusgrade.options import Attribution
from fundusgrade.resampling import resample
from fundusgrade.targets import Target

CLAIMED = (Attribution.AUTO, Attribution.GRAD_CAM)
"""Methods whose concentration is measured on all photographs: the default, and the one that is used most."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What is asked: the target, methods (all that fit if empty), and how many photographs undergo the slow tests."""

    target: Target
    methods: tuple[ExplainOptions, ...] = ()
    limit: int = 40
    num_draws: int = 1000


def examine_dataset(
    graders: Sequence[Grader],
    dataset: PreparedDataset,
    split: str,
    asked: Examination,
    on_progress: Progress = lambda done, total: None,
) -> Findings:
    """Concentration of every photograph's maps, and all tests on `limit` of them, drawn at random with a fixed seed.

    Raises DatasetError where photographs are missing or models need pictures of different kinds, ExplanationError where
    a method does not fit a model.
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
    first, then = _subjects(dataset, rows, range(len(rows)), graders[0]), _subjects(dataset, rows, chosen, graders[0])
    measured = examine_all(graders, everywhere, first, lambda done: on_progress(done, total))
    measured += examine_all(graders, closely, then, lambda done: on_progress(len(rows) + done, total))
    grades = np.array([int(row.grade or 0) for row in rows], np.int64)
    groups = np.array([row.group for row in rows], np.int64)
    sample = resample(grades, groups, num_draws=asked.num_draws)
    return summarize(measured, sample, data=f"{dataset.name}, {split}", target=asked.target.name)


def examine_lesions(
    graders: Sequence[Grader], folder: Path, asked: Examination, on_progress: Progress = lambda done, total: None
) -> Findings:
    """All tests on the photographs of a folder in IDRiD's layout, which says where their lesions are.

    Raises DatasetError where there are none, and as `examine_dataset` does.
    """
    found = find_lesion_photographs(folder)
    return examine_photographs(graders, found, folder / "masks", asked, folder.name, on_progress)


def examine_photographs(
    graders: Sequence[Grader],
    found: Sequence[FoundImage],
    masks: Path | None,
    asked: Examination,
    data: str,
    on_progress: Progress = lambda done, total: None,
) -> Findings:
    """All tests on photographs; with a folder of masks those of lesions too. Those that cannot be graded are left out.

    Raises DatasetError where a mask does not fit its photograph, and as `examine_dataset` does.
    """
    _check(graders, asked)
    plan = Plan(methods=_methods(graders, asked))
    subjects = _photographs(found, masks, graders[0])
    measured = examine_all(graders, plan, subjects, lambda done: on_progress(done, len(found)))
    # Nothing is known of grades or patients: each photograph is drawn by itself.
    sample = resample(np.zeros(len(found), np.int64), np.arange(len(found)), num_draws=asked.num_draws)
    return summarize(measured, sample, data=data, target=asked.target.name)


def _photographs(found: Sequence[FoundImage], masks: Path | None, grader: Grader) -> Iterator[Subject]:
    for number, each in enumerate(found):
        try:
            opened = open_photograph(each.path, grader.recipe)
        except UngradableError:
            continue
        lesions = () if masks is None else read_lesions(each.path.stem, masks, opened.photograph.shape)
        yield Subject(number=number, intake=opened.intake, lesions=lesions)


def _subjects(
    dataset: PreparedDataset, rows: Sequence[ManifestRow], numbers: Sequence[int], grader: Grader
) -> Iterator[Subject]:
    for number in numbers:
        path = dataset.photograph_path(rows[number])
        try:
            yield Subject(number=number, intake=take_in(path, grader.recipe))
        except UngradableError as error:
            raise DatasetError(
                f"{path} cannot be read ({error}); prepare the data set where its photographs are"
            ) from error


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
    names = [grader.name for grader in graders]
    if len(set(names)) < len(names):
        raise ExplanationError(
            f"models are told apart by name, and these are called {', '.join(names)}; name each once"
        )
    kinds = {grader.recipe.describe() for grader in graders}
    if len(kinds) > 1:
        raise ExplanationError(
            f"these models look at different pictures ({'; '.join(sorted(kinds))}), so that their maps cannot be laid "
            "side by side; test them one at a time"
        )
    for method in asked.methods:
        if not any(fits(grader.network, method) for grader in graders):
            raise ExplanationError(f"--method {method.describe()} fits none of {', '.join(names)}")
