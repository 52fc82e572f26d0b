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
from fundusgrade.evaluation.cases import Case, ModelCase, make_model_case
from fundusgrade.evaluation.findings import Measurement
from fundusgrade.evaluation.map_tests import (
    MapMeasure,
    baseline_maps,
    concentration_measures,
    lesion_measures,
    perturbation_measures,
)
from fundusgrade.evaluation.randomization import DEPTHS, compare_maps, randomized
from fundusgrade.explanation.explainer import explain_preprocessed
from fundusgrade.explanation.heat_map import ExplainOptions, HeatMap
from fundusgrade.explanation.targets import AUTO, PREDICTED, Target, target_for_grade
from fundusgrade.explanation.torch_gradients import explain_image, fits
from fundusgrade.grading.grader import Grader
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.tensors import to_tensor
from fundusgrade.photographs.preprocess import PreprocessedImage

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

    def measure(self, case: Case) -> Iterator[Measurement]:
        """All measurements on one photograph."""
        maps: dict[tuple[str, Target], list[_ModelMap]] = {}
        model_case = make_model_case(case, self._graders[0], self._plan.methods[0].target)
        for grader in self._graders:
            model_case = replace(model_case, grader=grader, target=self._target(case, grader))
            for options in [method for method in self._plan.methods if fits(grader.pytorch.network, method)]:
                heat_map = _explain(model_case, model_case.preprocessed, options)
                name = replace(options, method=heat_map.method).describe()
                model_map = _ModelMap(model=grader.name, values=heat_map.values)
                maps.setdefault((name, model_case.target), []).append(model_map)
                yield from self._test_map(model_case, name, heat_map.values)
                yield from self._test_stability(model_case, options, name, heat_map)
                yield from self._test_randomization(model_case, options, name, heat_map)
            if self._plan.with_baselines:
                for name, values in baseline_maps(model_case):
                    yield from self._test_map(model_case, name, values)
        if self._plan.with_stability:
            yield from _compare_models(case, maps)

    def _target(self, case: Case, grader: Grader) -> Target:
        target = self._plan.methods[0].target
        if target not in (AUTO, PREDICTED):
            return target
        return target_for_grade(target, grader.grade_loaded(case.loaded).grade)

    def _test_map(self, model_case: ModelCase, name: str, values: NDArray[np.float32]) -> Iterator[Measurement]:
        """The tests that need only a map, and are therefore run on baselines too."""
        measures: list[MapMeasure] = []
        if self._plan.with_concentration and not is_baseline(name):
            measures += concentration_measures(model_case, values)
        if self._plan.with_perturbation:
            measures += perturbation_measures(model_case, values)
        for measure in measures + lesion_measures(model_case, values):
            yield _measurement(model_case, name, measure.test, measure.measure, measure.value)

    def _test_stability(
        self, model_case: ModelCase, options: ExplainOptions, name: str, heat_map: HeatMap
    ) -> Iterator[Measurement]:
        """Whether the map of a shifted image is the shifted map."""
        if self._plan.with_stability:
            similarity = compare_maps(*_shifted_maps(model_case, options, heat_map))
            yield _measurement(
                model_case, name, "stability", "rank correlation after a shift", similarity.rank_correlation
            )

    def _test_randomization(
        self, model_case: ModelCase, options: ExplainOptions, name: str, heat_map: HeatMap
    ) -> Iterator[Measurement]:
        """Whether the map changes with the network's weights."""
        if not self._plan.with_randomization:
            return
        for depth, network in zip(DEPTHS, self._randomized_networks(model_case), strict=True):
            randomized_map = _explain_randomized(model_case, network, options)
            similarity = compare_maps(heat_map.values, randomized_map.values, model_case.preprocessed.mask)
            layers = "last layer" if depth == 0 else f"{100 * depth:.0f} % of the layers"
            for measure, value in (
                ("rank correlation", similarity.rank_correlation),
                ("SSIM", similarity.structural_similarity),
            ):
                yield _measurement(model_case, name, "randomization", f"{measure}, {layers}", value)
            if depth == DEPTHS[-1] and model_case.case.lesions:
                yield from self._test_map(model_case, f"{name}{RANDOMIZED}", randomized_map.values)

    def _randomized_networks(self, model_case: ModelCase) -> list[GradingNetwork]:
        """A randomized copy of the model for each depth, made at the first photograph and kept."""
        grader = model_case.grader
        if grader.name not in self._randomized:
            images = to_tensor(model_case.preprocessed.image)[None].to(grader.pytorch.choice.device)
            mirrored = torch.cat([images, images.flip(2), images.flip(3), images.flip(2, 3)])
            self._randomized[grader.name] = [randomized(grader.pytorch.network, depth, mirrored) for depth in DEPTHS]
        return self._randomized[grader.name]


def run_plan(
    graders: Sequence[Grader],
    plan: Plan,
    cases: Iterable[Case],
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[Measurement]:
    """Run a plan on photographs, which are read one at a time; methods that do not fit a model are left out."""
    tester = ExplanationTester(graders, plan)
    measurements: list[Measurement] = []
    for done, case in enumerate(cases, start=1):
        measurements += tester.measure(case)
        on_progress(done)
    return measurements


def _measurement(model_case: ModelCase, method: str, test: str, measure: str, value: float | None) -> Measurement:
    return Measurement(
        photograph=model_case.case.number,
        model=model_case.grader.name,
        method=method,
        test=test,
        measure=measure,
        value=value,
    )


def _explain(model_case: ModelCase, preprocessed: PreprocessedImage, options: ExplainOptions) -> HeatMap:
    """The heat map of a preprocessed image by the case's model, for the case's target."""
    return explain_preprocessed(model_case.grader, preprocessed, replace(options, target=model_case.target))


def _explain_randomized(model_case: ModelCase, network: GradingNetwork, options: ExplainOptions) -> HeatMap:
    return explain_image(
        network,
        model_case.preprocessed.image,
        options=replace(options, target=model_case.target),
        choice=model_case.grader.pytorch.choice,
        outline=model_case.outline,
    )


def _shifted_maps(
    model_case: ModelCase, options: ExplainOptions, heat_map: HeatMap
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """The map, that of the image shifted sideways and shifted back, and the retina that is visible in both images."""
    shift_px = max(1, round(SHIFT_PX * len(heat_map.values) / 224))
    image = np.roll(model_case.preprocessed.image, shift_px, axis=1)
    image[:, :shift_px] = image[:, -1:]
    shifted = replace(
        model_case.preprocessed, image=image, mask=np.roll(model_case.preprocessed.mask, shift_px, axis=1)
    )
    values = _explain(model_case, shifted, options).values
    both = model_case.preprocessed.mask.copy()
    both[:, -shift_px:] = False
    return heat_map.values, np.roll(values, -shift_px, axis=1), both


def _compare_models(case: Case, maps: dict[tuple[str, Target], list[_ModelMap]]) -> Iterator[Measurement]:
    """Similarity of the maps of any two models by the same method and for the same target."""
    mask = case.loaded.preprocessed.mask
    for (method, _), model_maps in maps.items():
        for first, second in combinations(model_maps, 2):
            yield Measurement(
                photograph=case.number,
                model=f"{first.model} and {second.model}",
                method=method,
                test="stability",
                measure="rank correlation between models",
                value=compare_maps(first.values, second.values, mask).rank_correlation,
            )
