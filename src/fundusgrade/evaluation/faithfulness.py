"""Tests of explanations on photographs: do heat maps depend on the network, and agree with the disease?

Perturbation and lesion tests are run on baseline maps too (`baselines`), which do not depend on the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from fundusgrade.evaluation.baselines import RANDOMIZED, is_baseline
from fundusgrade.evaluation.cases import Case, PreparedCase, prepare_case
from fundusgrade.evaluation.findings import Measured
from fundusgrade.evaluation.map_tests import (
    MapMeasure,
    baseline_maps,
    concentration_measures,
    lesion_measures,
    perturbation_measures,
)
from fundusgrade.evaluation.randomization import DEPTHS, compare_maps, randomized
from fundusgrade.explanation.attribution import explain_image, fits
from fundusgrade.explanation.explainer import explain_prepared
from fundusgrade.explanation.heat_map import ExplainOptions, HeatMap
from fundusgrade.explanation.targets import PREDICTED, Target, grade_target
from fundusgrade.grading.grader import Grader
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.tensors import to_tensor

SHIFT_PX = 3
"""Columns, of 224, by which an image is shifted to test whether its map shifts with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which tests are run, and for which methods; the targets of all methods are the same."""

    methods: tuple[ExplainOptions, ...]
    with_concentration: bool = True
    with_perturbation: bool = True
    with_randomization: bool = True
    with_stability: bool = True
    with_baselines: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _ModelMap:
    model: str
    values: NDArray[np.float32]


class ExplanationTester:
    """Runs the tests of a plan on models with the same preprocessing; keeps each model's randomized copies."""

    def __init__(self, graders: Sequence[Grader], plan: Plan) -> None:
        self._graders = list(graders)
        self._plan = plan
        self._randomized: dict[str, list[GradingNetwork]] = {}

    def measure(self, case: Case) -> Iterator[Measured]:
        """All numbers of one photograph."""
        maps: dict[tuple[str, Target], list[_ModelMap]] = {}
        prepared = prepare_case(case, self._graders[0], self._plan.methods[0].target)
        for grader in self._graders:
            each = replace(prepared, grader=grader, target=self._target(case, grader))
            for options in [method for method in self._plan.methods if fits(grader.network, method)]:
                heat_map = explain_prepared(grader, each.preprocessed, replace(options, target=each.target))
                name = replace(options, method=heat_map.method).describe()
                model_map = _ModelMap(model=grader.name, values=heat_map.values)
                maps.setdefault((name, each.target), []).append(model_map)
                yield from self._test_map(each, name, heat_map.values)
                yield from self._test_stability(each, options, name, heat_map)
                yield from self._test_randomization(each, options, name, heat_map)
            if self._plan.with_baselines:
                for name, values in baseline_maps(each):
                    yield from self._test_map(each, name, values)
        if self._plan.with_stability:
            yield from _compare_models(case, maps)

    def _target(self, case: Case, grader: Grader) -> Target:
        target = self._plan.methods[0].target
        return grade_target(grader.grade_loaded(case.loaded).grade) if target is PREDICTED else target

    def _test_map(self, prepared: PreparedCase, name: str, values: NDArray[np.float32]) -> Iterator[Measured]:
        """The tests that need only a map, and are therefore run on baselines too."""
        measures: list[MapMeasure] = []
        if self._plan.with_concentration and not is_baseline(name):
            measures += concentration_measures(prepared, values)
        if self._plan.with_perturbation:
            measures += perturbation_measures(prepared, values)
        for each in measures + lesion_measures(prepared, values):
            yield _measured(prepared, name, each.test, each.measure, each.value)

    def _test_stability(
        self, prepared: PreparedCase, options: ExplainOptions, name: str, heat_map: HeatMap
    ) -> Iterator[Measured]:
        """Whether the map of a shifted image is the shifted map."""
        if self._plan.with_stability:
            similarity = compare_maps(*_shifted_maps(prepared, options, heat_map))
            yield _measured(prepared, name, "stability", "rank correlation after a shift", similarity.rank_correlation)

    def _test_randomization(
        self, prepared: PreparedCase, options: ExplainOptions, name: str, heat_map: HeatMap
    ) -> Iterator[Measured]:
        """Whether the map changes with the network's weights."""
        if not self._plan.with_randomization:
            return
        for depth, network in zip(DEPTHS, self._randomized_networks(prepared), strict=True):
            randomized_map = _explained(prepared, options, network)
            similarity = compare_maps(heat_map.values, randomized_map.values, prepared.preprocessed.mask)
            where = "last layer" if depth == 0 else f"{100 * depth:.0f} % of the layers"
            for measure, value in (
                ("rank correlation", similarity.rank_correlation),
                ("SSIM", similarity.structural_similarity),
            ):
                yield _measured(prepared, name, "randomization", f"{measure}, {where}", value)
            if depth == DEPTHS[-1] and prepared.case.lesions:
                yield from self._test_map(prepared, f"{name}{RANDOMIZED}", randomized_map.values)

    def _randomized_networks(self, prepared: PreparedCase) -> list[GradingNetwork]:
        """A randomized copy of the model for each depth, made at the first photograph and kept."""
        grader = prepared.grader
        if grader.name not in self._randomized:
            images = to_tensor(prepared.preprocessed.image)[None].to(grader.choice.device)
            mirrored = torch.cat([images, images.flip(2), images.flip(3), images.flip(2, 3)])
            self._randomized[grader.name] = [randomized(grader.network, depth, mirrored) for depth in DEPTHS]
        return self._randomized[grader.name]


def run_plan(
    graders: Sequence[Grader],
    plan: Plan,
    cases: Iterable[Case],
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[Measured]:
    """Run a plan on photographs, which are read one at a time; methods that do not fit a model are left out."""
    tester = ExplanationTester(graders, plan)
    measured: list[Measured] = []
    for done, case in enumerate(cases, start=1):
        measured += tester.measure(case)
        on_progress(done)
    return measured


def _measured(prepared: PreparedCase, method: str, test: str, measure: str, value: float | None) -> Measured:
    return Measured(
        photograph=prepared.case.number,
        model=prepared.grader.name,
        method=method,
        test=test,
        measure=measure,
        value=value,
    )


def _explained(prepared: PreparedCase, options: ExplainOptions, network: GradingNetwork) -> HeatMap:
    chosen = replace(options, target=prepared.target)
    choice = prepared.grader.choice
    return explain_image(network, prepared.preprocessed.image, options=chosen, choice=choice, outline=prepared.outline)


def _shifted_maps(
    prepared: PreparedCase, options: ExplainOptions, heat_map: HeatMap
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """The map, that of the image shifted sideways and shifted back, and the retina that is visible in both images."""
    shift_px = max(1, round(SHIFT_PX * len(heat_map.values) / 224))
    image = np.roll(prepared.preprocessed.image, shift_px, axis=1)
    image[:, :shift_px] = image[:, -1:]
    shifted = replace(prepared.preprocessed, image=image, mask=np.roll(prepared.preprocessed.mask, shift_px, axis=1))
    values = explain_prepared(prepared.grader, shifted, replace(options, target=prepared.target)).values
    both = prepared.preprocessed.mask.copy()
    both[:, -shift_px:] = False
    return heat_map.values, np.roll(values, -shift_px, axis=1), both


def _compare_models(case: Case, maps: dict[tuple[str, Target], list[_ModelMap]]) -> Iterator[Measured]:
    """Similarity of the maps of any two models by the same method and for the same target."""
    mask = case.loaded.preprocessed.mask
    for (method, _), of_models in maps.items():
        for first, second in combinations(of_models, 2):
            yield Measured(
                photograph=case.number,
                model=f"{first.model} and {second.model}",
                method=method,
                test="stability",
                measure="rank correlation between models",
                value=compare_maps(first.values, second.values, mask).rank_correlation,
            )
