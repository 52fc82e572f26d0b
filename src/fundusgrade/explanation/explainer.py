"""A photograph and a grader -> an explanation on the photograph's own pixels, for one or several models and methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fundusgrade.errors import ExplanationError
from fundusgrade.explanation.attribution import heat_maps
from fundusgrade.explanation.heat_map import ExplainOptions, HeatMap
from fundusgrade.explanation.sources import graph_for, obstacle
from fundusgrade.explanation.targets import AUTO, REFERABLE, Target, target_for_grade
from fundusgrade.grades import REFERABLE_FROM, Prediction
from fundusgrade.grading.grader import Grader
from fundusgrade.options import Attribution
from fundusgrade.photographs.inputs import Photograph
from fundusgrade.photographs.loading import OpenedPhotograph, open_photograph
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.preprocess import PreprocessedImage, canonical_outline
from fundusgrade.photographs.recipe import PreprocessRecipe

DEFAULT_OPTIONS = ExplainOptions()
DEFAULT_METHODS = (Attribution.GRAD_CAM.value, Attribution.INTEGRATED_GRADIENTS.value)
"""Methods of a figure where none is named: the one that readers know, and the most faithful one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explanation:
    """A photograph (H, W, 3), its prediction, and `heat` (H, W) float32 >= 0 on the photograph's own pixels.

    `heat_map` is the same on the preprocessed image; `options` name the method that was used.
    """

    photograph: Image
    prediction: Prediction
    target: Target
    options: ExplainOptions
    heat: NDArray[np.float32]
    heat_map: HeatMap
    preprocessed: PreprocessedImage

    def __repr__(self) -> str:
        height, width = self.heat.shape
        return (
            f"Explanation({self.prediction!r}, {self.options.describe()} of {self.target.name}, heat on "
            f"{width} x {height} pixels up to {float(self.heat.max()):.2f}, {self.heat_map.scale.unit})"
        )


Explanations = tuple[tuple[Explanation, ...], ...]
"""A row for each method, in it one explanation for each model."""


def explain(grader: Grader, photograph: Photograph, options: ExplainOptions = DEFAULT_OPTIONS) -> Explanation:
    """Grade a photograph and highlight the regions that drove the grade.

    Raises UngradableError where it cannot be graded, ExplanationError where the method does not fit the network, and
    TypeError or ValueError for what is no photograph.
    """
    return explain_opened(grader, open_photograph(photograph, grader.recipe), [options])[0]


def explain_photograph(
    photograph: Photograph,
    graders: Sequence[Grader],
    methods: Sequence[ExplainOptions],
    *,
    at_least_px: int | None = None,
) -> Explanations:
    """Explain a photograph by every method and model.

    Where the target is `AUTO` and a model gives the grade 0 or 1, all models are explained for referable disease, so
    that their maps can be compared. The photograph is read at its full size or, if that is faster, at a smaller one of
    `at_least_px` a side. Raises UngradableError where it cannot be graded, ExplanationError where a method does not fit
    a model.
    """
    check_fit(graders, methods)
    opened: dict[PreprocessRecipe, OpenedPhotograph] = {}
    for grader in graders:
        if grader.recipe not in opened:
            opened[grader.recipe] = open_photograph(photograph, grader.recipe, at_least_px=at_least_px)
    predictions = [grader.grade_loaded(opened[grader.recipe].loaded, opened[grader.recipe].name) for grader in graders]
    if any(prediction.grade < REFERABLE_FROM for prediction in predictions):
        methods = [replace(each, target=REFERABLE) if each.target == AUTO else each for each in methods]
    columns = [
        _explain(grader, opened[grader.recipe], prediction, methods)
        for grader, prediction in zip(graders, predictions, strict=True)
    ]
    return tuple(zip(*columns, strict=True))


def explain_opened(grader: Grader, opened: OpenedPhotograph, methods: Sequence[ExplainOptions]) -> list[Explanation]:
    """Explain a photograph that was opened with the grader's recipe, by one or more methods.

    Raises ExplanationError where a method does not fit the network.
    """
    return _explain(grader, opened, grader.grade_loaded(opened.loaded, opened.name), methods)


def explain_preprocessed(grader: Grader, preprocessed: PreprocessedImage, options: ExplainOptions) -> HeatMap:
    """The heat map of an image preprocessed with the grader's recipe, on that image.

    Raises ExplanationError where the method does not fit the network.
    """
    return _heat_maps(grader, preprocessed, [options])[0]


def visible_region(recipe: PreprocessRecipe, preprocessed: PreprocessedImage) -> NDArray[np.bool_]:
    """Where a preprocessed image (S, S) can show retina: in the whole band, mirrored parts included, or in its mask."""
    return canonical_outline(recipe) if recipe.has_fixed_outline else preprocessed.mask


def check_fit(graders: Sequence[Grader], methods: Sequence[ExplainOptions]) -> None:
    """Raises ExplanationError where a method does not fit a model, or where two models have the same name."""
    names = [grader.name for grader in graders]
    if len(set(names)) < len(names):
        raise ExplanationError(
            f"models are identified by name, and these are called {', '.join(names)}; name each model once"
        )
    for method in methods:
        for grader in graders:
            if (reason := obstacle(grader, method)) is not None:
                raise ExplanationError(
                    f"--method {method.describe()} does not fit {grader.name} ({grader.description.network.arch}): "
                    f"{reason}; integrated-gradients fits every network"
                )


def choose_methods(
    graders: Sequence[Grader], methods: Sequence[ExplainOptions]
) -> tuple[list[ExplainOptions], tuple[str, ...]]:
    """Those methods that fit all models, and a sentence on each of the others."""
    fitting, notes = [], []
    for method in methods:
        unfit = [grader.name for grader in graders if obstacle(grader, method) is not None]
        if not unfit:
            fitting.append(method)
        else:
            notes.append(f"{method.describe()} is not shown: it does not fit the architecture of {', '.join(unfit)}.")
    return fitting, tuple(notes)


def check_comparable(graders: Sequence[Grader]) -> None:
    """Raises ExplanationError where models differ in preprocessing, so that their heat maps cannot be compared."""
    kinds = {grader.recipe.describe() for grader in graders}
    if len(kinds) > 1:
        raise ExplanationError(
            f"these models preprocess photographs differently ({'; '.join(sorted(kinds))}), so that their heat maps "
            "cannot be compared pixel by pixel; test one model at a time"
        )


def _heat_maps(grader: Grader, preprocessed: PreprocessedImage, methods: Sequence[ExplainOptions]) -> list[HeatMap]:
    outline = visible_region(grader.recipe, preprocessed)
    graph = graph_for(grader, methods)
    if graph is not None:
        return heat_maps(graph, preprocessed.image, methods, outline)
    from fundusgrade.explanation.torch_gradients import explain_image_by_methods

    runtime = grader.pytorch
    return explain_image_by_methods(
        runtime.network, preprocessed.image, methods=methods, choice=runtime.choice, outline=outline
    )


def _explain(
    grader: Grader, opened: OpenedPhotograph, prediction: Prediction, methods: Sequence[ExplainOptions]
) -> list[Explanation]:
    resolved = [replace(each, target=target_for_grade(each.target, prediction.grade)) for each in methods]
    preprocessed = opened.loaded.preprocessed
    placement = preprocessed.placement.resized_to(*opened.photograph.shape[:2])
    return [
        Explanation(
            photograph=opened.photograph,
            prediction=prediction,
            target=heat_map.target,
            options=replace(options, method=heat_map.method),
            # Beyond the mask the network sees mirrored or black pixels, which are not on the photograph.
            heat=placement.to_photograph(heat_map.values * preprocessed.mask),
            heat_map=heat_map,
            preprocessed=preprocessed,
        )
        for options, heat_map in zip(resolved, _heat_maps(grader, preprocessed, resolved), strict=True)
    ]
