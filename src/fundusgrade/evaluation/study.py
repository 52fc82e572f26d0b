"""Studies of explanations on data sets and folders: which photographs are tested how, and the findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.lesion_masks import find_lesion_photographs, read_lesions
from fundusgrade.errors import DatasetError, ExplanationError, UngradableError
from fundusgrade.evaluation.cases import Case
from fundusgrade.evaluation.faithfulness import Plan, run_plan
from fundusgrade.evaluation.findings import Findings, summarize
from fundusgrade.evaluation.resampling import resample_independent, resample_rows
from fundusgrade.explanation.explainer import check_comparable, check_fit
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.explanation.targets import Target
from fundusgrade.explanation.torch_gradients import find_obstacle
from fundusgrade.grading.grader import Grader
from fundusgrade.options import Attribution
from fundusgrade.photographs.loading import load_photograph, open_photograph
from fundusgrade.photographs.sources import PhotographSource

CONCENTRATION_METHODS = (Attribution.AUTO, Attribution.GRAD_CAM)
"""Methods whose concentration is measured on all photographs: the default, and the most widely used one."""

Progress = Callable[[int, int], None]

Skipped = Callable[[str], None]
"""Called with the reason for each photograph, and each method of a model, that is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOptions:
    """Configuration of the tests of explanations."""

    target: Target
    """The output that is explained."""
    methods: tuple[ExplainOptions, ...] = ()
    """The methods under test; if empty, all that fit any of the models."""
    limit: int = 40
    """Number of photographs of a data set for the slow tests: all but concentration."""
    num_resamples: int = 1000
    """Number of bootstrap resamples."""


def study_dataset(
    graders: Sequence[Grader],
    dataset: PreparedDataset,
    split: str,
    options: StudyOptions,
    on_progress: Progress = lambda done, total: None,
    on_skipped: Skipped = lambda reason: None,
) -> Findings:
    """Concentration of every photograph's maps, and all tests on `limit` of them, chosen at random with a fixed seed.

    Photographs that cannot be read are left out. Raises DatasetError where none can be, ExplanationError where models
    differ in preprocessing or a method fits none of them.
    """
    _check(graders, options)
    rows = dataset.graded_rows(split)
    if not rows:
        raise DatasetError(f"the data set {dataset.name!r} has no graded photographs in the split {split!r}")
    chosen = sorted(np.random.default_rng(0).permutation(len(rows))[: options.limit].tolist())
    concentration_plan = Plan(
        methods=_with_target(_concentration_methods(options), options.target),
        with_perturbation=False,
        with_randomization=False,
        with_stability=False,
        with_baselines=False,
    )
    slow_plan = Plan(methods=_methods(graders, options, on_skipped), with_concentration=False)
    total = len(rows) + len(chosen)
    paths = [dataset.photograph_path(row) for row in rows]
    cases = _cases(paths, range(len(rows)), graders[0], on_skipped)
    measurements = run_plan(graders, concentration_plan, cases, lambda done: on_progress(done, total))
    if not measurements:
        raise DatasetError(
            f"the photographs of the data set {dataset.name!r} cannot be read, such as {paths[0]}; prepare it again "
            "where its photographs are"
        )
    chosen_cases = _cases(paths, chosen, graders[0])
    measurements += run_plan(graders, slow_plan, chosen_cases, lambda done: on_progress(len(rows) + done, total))
    resamples = resample_rows(rows, num_resamples=options.num_resamples)
    return summarize(measurements, resamples, data=study_name(dataset.name, split), target=options.target.name)


def study_name(data: str, split: str) -> str:
    """What the study of a split of a data set is called in tables and files."""
    return f"{data}, {split}"


def study_lesions(
    graders: Sequence[Grader],
    folder: Path,
    options: StudyOptions,
    on_progress: Progress = lambda done, total: None,
    on_skipped: Skipped = lambda reason: None,
) -> Findings:
    """All tests on the photographs of a folder in IDRiD's layout, with masks of their lesions.

    Raises DatasetError where there are none, and as `study_photographs` does.
    """
    found = find_lesion_photographs(folder)
    return study_photographs(graders, found, folder / "masks", options, folder.name, on_progress, on_skipped)


def study_photographs(
    graders: Sequence[Grader],
    found: Sequence[PhotographSource],
    masks: Path | None,
    options: StudyOptions,
    data: str,
    on_progress: Progress = lambda done, total: None,
    on_skipped: Skipped = lambda reason: None,
) -> Findings:
    """All tests on photographs; with a folder of masks those of lesions too.

    Photographs that cannot be graded, or whose masks have another size, are left out. Raises DatasetError where all
    are, and ExplanationError as `study_dataset` does.
    """
    _check(graders, options)
    plan = Plan(methods=_methods(graders, options, on_skipped))
    cases = _photographs(found, masks, graders[0], on_skipped)
    measurements = run_plan(graders, plan, cases, lambda done: on_progress(done, len(found)))
    if not measurements:
        raise DatasetError(f"none of {len(found)} photographs could be tested")
    resamples = resample_independent(len(found), num_resamples=options.num_resamples)
    return summarize(measurements, resamples, data=data, target=options.target.name)


def _photographs(
    found: Sequence[PhotographSource], masks: Path | None, grader: Grader, on_skipped: Skipped
) -> Iterator[Case]:
    for number, each in enumerate(found):
        try:
            opened = open_photograph(each, grader.recipe)
            lesions = () if masks is None else read_lesions(Path(each.name).stem, masks, opened.photograph.shape)
        except (UngradableError, DatasetError) as error:
            on_skipped(str(error))
            continue
        yield Case(number=number, loaded=opened.loaded, lesions=lesions)


def _cases(
    paths: Sequence[Path], numbers: Sequence[int], grader: Grader, on_skipped: Skipped = lambda reason: None
) -> Iterator[Case]:
    for number in numbers:
        try:
            yield Case(number=number, loaded=load_photograph(paths[number], grader.recipe))
        except UngradableError as error:
            on_skipped(f"{paths[number]}: {error}")


def _concentration_methods(options: StudyOptions) -> tuple[ExplainOptions, ...]:
    return options.methods or tuple(ExplainOptions(method=method) for method in CONCENTRATION_METHODS)


def _methods(graders: Sequence[Grader], options: StudyOptions, on_skipped: Skipped) -> tuple[ExplainOptions, ...]:
    """The given methods, or all that fit any of the models; what does not fit a model is said."""
    methods = options.methods or tuple(
        ExplainOptions(method=method) for method in Attribution if method is not Attribution.AUTO
    )
    fitting = []
    for method in methods:
        obstacles = {grader.name: find_obstacle(grader.pytorch.network, method) for grader in graders}
        for name, obstacle in obstacles.items():
            if obstacle is not None:
                on_skipped(f"{method.describe()} of {name}: {obstacle}")
        if None in obstacles.values():
            fitting.append(method)
    return _with_target(fitting, options.target)


def _with_target(methods: Sequence[ExplainOptions], target: Target) -> tuple[ExplainOptions, ...]:
    return tuple(replace(method, target=target) for method in methods)


def _check(graders: Sequence[Grader], options: StudyOptions) -> None:
    check_fit(graders, ())
    check_comparable(graders)
    for method in options.methods:
        obstacles = [find_obstacle(grader.pytorch.network, method) for grader in graders]
        if None not in obstacles:
            names = ", ".join(grader.name for grader in graders)
            raise ExplanationError(f"--method {method.describe()} fits none of {names}: {obstacles[0]}")
