"""Tests of explanations, on one photograph or on a data set: does the map have to do with the network and the disease?

Perturbations and lesions are tested on decoys too, maps that know nothing of the network (`decoys`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from fundusgrade.data.lesion_masks import LESION_NAMES, LesionMask, any_lesion
from fundusgrade.evaluation.baselines import DECOYS, RANDOMIZED, decoy_map, is_decoy
from fundusgrade.evaluation.concentration import coarsened, measure_concentration
from fundusgrade.evaluation.findings import Measured
from fundusgrade.evaluation.landmarks import Landmarks, find_landmarks
from fundusgrade.evaluation.lesion_agreement import Agreement, lesion_coverage, measure_agreement
from fundusgrade.evaluation.perturbation import FRACTIONS, measure_curves, measure_road
from fundusgrade.evaluation.randomization import DEPTHS, MapSimilarity, compare_maps, randomized
from fundusgrade.explanation.attribution import explain_image, fits
from fundusgrade.explanation.explainer import explain_prepared, visible_region
from fundusgrade.explanation.heat_map import ExplainOptions, HeatMap
from fundusgrade.explanation.targets import PREDICTED, Target, grade_target
from fundusgrade.grading.grader import Grader
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.tensors import to_tensor
from fundusgrade.photographs.loading import LoadedPhotograph
from fundusgrade.photographs.preprocess import PreprocessedImage, preprocess
from fundusgrade.photographs.recipe import Method, Outline

SHIFT_PX = 3
"""Columns that a picture is moved by, of 224, to see whether its map moves along."""

_EARLY = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which tests are run; methods as `ExplainOptions`, whose targets are all the same."""

    methods: tuple[ExplainOptions, ...]
    with_concentration: bool = True
    with_perturbation: bool = True
    with_randomization: bool = True
    with_stability: bool = True
    with_decoys: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """A photograph under test: its number, what is graded of it, and masks of its lesions where they are known."""

    number: int
    loaded: LoadedPhotograph
    lesions: tuple[LesionMask, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _View:
    """What tests look at besides the map; all but `grader` and `target` is the same for every model.

    `coverages` says of each test of lesions what share of each pixel (S, S) they cover.
    """

    subject: Subject
    grader: Grader
    target: Target
    prepared: PreprocessedImage
    natural: PreprocessedImage
    outline: NDArray[np.bool_]
    landmarks: Landmarks
    coverages: tuple[tuple[str, NDArray[np.float32]], ...]


class Examiner:
    """Runs the tests of a plan on models that look at the same pictures; keeps each model's randomized copies."""

    def __init__(self, graders: Sequence[Grader], plan: Plan) -> None:
        self._graders = list(graders)
        self._plan = plan
        self._randomized: dict[str, list[GradingNetwork]] = {}

    def examine(self, subject: Subject) -> Iterator[Measured]:
        """All numbers of one photograph."""
        maps: dict[tuple[str, Target], list[tuple[str, NDArray[np.float32]]]] = {}
        seen = _view(subject, self._graders[0], self._plan.methods[0].target)
        for grader in self._graders:
            view = replace(seen, grader=grader, target=self._target(subject, grader))
            for options in [each for each in self._plan.methods if fits(grader.network, each)]:
                heat_map = explain_prepared(grader, view.prepared, replace(options, target=view.target))
                name = replace(options, method=heat_map.method).describe()
                maps.setdefault((name, view.target), []).append((grader.name, heat_map.values))
                yield from self._examine_map(view, name, heat_map.values)
                yield from self._examine_dependence(view, options, name, heat_map)
            if self._plan.with_decoys:
                for name, values in _decoys(view):
                    yield from self._examine_map(view, name, values)
        if self._plan.with_stability:
            yield from _between_models(subject, maps)

    def _target(self, subject: Subject, grader: Grader) -> Target:
        target = self._plan.methods[0].target
        return grade_target(grader.grade_loaded(subject.loaded).grade) if target is PREDICTED else target

    def _examine_map(self, view: _View, name: str, values: NDArray[np.float32]) -> Iterator[Measured]:
        """The tests that need nothing but a map, so that decoys undergo them too."""
        tests: list[tuple[str, str, float | None]] = []
        if self._plan.with_concentration and not is_decoy(name):
            tests += _concentration(view, values)
        if self._plan.with_perturbation:
            tests += _perturbation(view, values)
        tests += _lesions(view, values)
        for test, measure, value in tests:
            yield _measured(view, name, test, measure, value)

    def _examine_dependence(
        self, view: _View, options: ExplainOptions, name: str, heat_map: HeatMap
    ) -> Iterator[Measured]:
        """The tests that need other maps of the same method."""
        if self._plan.with_stability:
            likeness = compare_maps(*_shifted_maps(view, options, heat_map))
            yield _measured(view, name, "stability", "rank correlation after a shift", likeness.rank_correlation)
        if not self._plan.with_randomization:
            return
        for depth, network in zip(DEPTHS, self._forgetful(view), strict=True):
            again = _explained(view, options, network)
            likeness = compare_maps(heat_map.values, again.values, view.prepared.mask)
            where = "last layer" if depth == 0 else f"{100 * depth:.0f} % of the layers"
            for measure, value in _likeness_values(likeness):
                yield _measured(view, name, "randomization", f"{measure}, {where}", value)
            if depth == DEPTHS[-1] and view.subject.lesions:
                yield from self._examine_map(view, f"{name}{RANDOMIZED}", again.values)

    def _forgetful(self, view: _View) -> list[GradingNetwork]:
        """Randomized copies, made at the first photograph and kept."""
        grader = view.grader
        if grader.name not in self._randomized:
            images = to_tensor(view.prepared.image)[None].to(grader.choice.device)
            mirrored = torch.cat([images, images.flip(2), images.flip(3), images.flip(2, 3)])
            self._randomized[grader.name] = [randomized(grader.network, depth, mirrored) for depth in DEPTHS]
        return self._randomized[grader.name]


def examine_all(
    graders: Sequence[Grader],
    plan: Plan,
    subjects: Iterable[Subject],
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[Measured]:
    """Run a plan on photographs, which are read one at a time; methods that do not fit a model are left out."""
    examiner = Examiner(graders, plan)
    measured: list[Measured] = []
    for done, subject in enumerate(subjects, start=1):
        measured += examiner.examine(subject)
        on_progress(done)
    return measured


def _view(subject: Subject, grader: Grader, target: Target) -> _View:
    """What is prepared once for a photograph: masks of many megapixels are not laid on the picture for every map."""
    prepared, lesions = subject.loaded.prepared, subject.lesions
    natural, landmarks = _natural(subject.loaded, grader)
    masks = [("lesions", any_lesion(lesions))] if lesions else []
    masks += [(LESION_NAMES[each.kind], each.mask) for each in lesions]
    return _View(
        subject=subject,
        grader=grader,
        target=target,
        prepared=prepared,
        outline=visible_region(grader.recipe, prepared),
        natural=natural,
        landmarks=landmarks,
        coverages=tuple((test, lesion_coverage(mask, prepared.placement, len(prepared.image))) for test, mask in masks),
    )


def _natural(loaded: LoadedPhotograph, grader: Grader) -> tuple[PreprocessedImage, Landmarks]:
    """The photograph in natural colors, pixel for pixel as the model's own picture, and where its landmarks are."""
    recipe = replace(grader.recipe, method=Method.NATURAL, outline=Outline.DISC)
    natural = preprocess(loaded.photograph, loaded.prepared.field_of_view, recipe)
    # Looked for on all of the disc: the model's picture may leave its rim out.
    landmarks = find_landmarks(natural, recipe.radius_px)
    scale, middle = grader.recipe.radius_px / recipe.radius_px, (recipe.size_px - 1) / 2
    matrix = np.array([[scale, 0, middle - scale * middle], [0, scale, middle - scale * middle]])
    size = (recipe.size_px, recipe.size_px)
    image = cv2.warpAffine(natural.image, matrix, size, flags=cv2.INTER_LINEAR)
    mask = cv2.warpAffine(natural.mask.astype(np.uint8), matrix, size, flags=cv2.INTER_NEAREST) > 0
    placed = replace(natural, image=np.asarray(image, np.uint8), mask=mask)
    return placed, landmarks.magnified(scale, middle)


def _decoys(view: _View) -> Iterator[tuple[str, NDArray[np.float32]]]:
    radius_px = view.grader.recipe.radius_px
    for name in DECOYS:
        values = decoy_map(name, view.prepared, view.natural, view.landmarks, radius_px, seed=view.subject.number)
        if values is not None:
            yield name, values


def _measured(view: _View, method: str, test: str, measure: str, value: float | None) -> Measured:
    return Measured(
        photograph=view.subject.number,
        model=view.grader.name,
        method=method,
        test=test,
        measure=measure,
        value=value,
    )


_Values = list[tuple[str, str, float | None]]


def _concentration(view: _View, values: NDArray[np.float32]) -> _Values:
    found: _Values = []
    for test, heat in (("concentration", values), ("concentration, one resolution", coarsened(values))):
        numbers = measure_concentration(heat, view.prepared.mask, view.grader.recipe.radius_px, view.landmarks)
        found += [
            (test, "area with half the heat", numbers.half_area),
            (test, "entropy", numbers.entropy),
            (test, "peaks", numbers.num_peaks),
            (test, "distance to the disc", numbers.disc_distance),
            (test, "distance to the fovea", numbers.fovea_distance),
        ]
    return found


def _perturbation(view: _View, values: NDArray[np.float32]) -> _Values:
    setting = (view.grader.network, view.prepared.image, view.outline, values, view.target, view.grader.choice)
    curves, road = measure_curves(*setting), measure_road(*setting)
    early = FRACTIONS.index(_EARLY)
    return [
        ("perturbation", "deletion", curves.deletion_area),
        ("perturbation", "insertion", curves.insertion_area),
        ("perturbation", "left without 2 %", curves.deletion[early]),
        ("perturbation", "there with 2 %", curves.insertion[early]),
        ("perturbation", "ROAD", road),
    ]


def _lesions(view: _View, values: NDArray[np.float32]) -> _Values:
    found: _Values = []
    for test, coverage in view.coverages:
        found += _agreement_values(test, measure_agreement(values, view.prepared.mask, coverage))
    return found


def _agreement_values(test: str, agreement: Agreement) -> _Values:
    peak = agreement.peak_on_lesion
    return [
        (test, "heat on lesions", agreement.heat_share),
        (test, "heat on lesions / their area", agreement.lift),
        (test, "average precision", agreement.average_precision),
        (test, "average precision by chance", agreement.area_share),
        (test, "peak on lesion", None if peak is None else float(peak)),
    ]


def _likeness_values(likeness: MapSimilarity) -> list[tuple[str, float | None]]:
    return [("rank correlation", likeness.rank_correlation), ("SSIM", likeness.structural_similarity)]


def _explained(view: _View, options: ExplainOptions, network: GradingNetwork) -> HeatMap:
    chosen = replace(options, target=view.target)
    choice = view.grader.choice
    return explain_image(network, view.prepared.image, options=chosen, choice=choice, outline=view.outline)


def _shifted_maps(
    view: _View, options: ExplainOptions, heat_map: HeatMap
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """The map, that of the picture moved sideways and moved back, and the retina that both pictures show."""
    shift_px = max(1, round(SHIFT_PX * len(heat_map.values) / 224))
    image = np.roll(view.prepared.image, shift_px, axis=1)
    image[:, :shift_px] = image[:, -1:]
    moved = replace(view.prepared, image=image, mask=np.roll(view.prepared.mask, shift_px, axis=1))
    again = explain_prepared(view.grader, moved, replace(options, target=view.target)).values
    both = view.prepared.mask.copy()
    both[:, -shift_px:] = False
    return heat_map.values, np.roll(again, -shift_px, axis=1), both


def _between_models(
    subject: Subject, maps: dict[tuple[str, Target], list[tuple[str, NDArray[np.float32]]]]
) -> Iterator[Measured]:
    """How alike the maps of any two models are by the same method and for the same target."""
    mask = subject.loaded.prepared.mask
    for (method, _), named in maps.items():
        for place, (first, one) in enumerate(named):
            for second, other in named[place + 1 :]:
                yield Measured(
                    photograph=subject.number,
                    model=f"{first} and {second}",
                    method=method,
                    test="stability",
                    measure="rank correlation between models",
                    value=compare_maps(one, other, mask).rank_correlation,
                )
