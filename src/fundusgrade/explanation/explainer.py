"""A photograph and a grader -> an explanation on the photograph's own pixels, for one or several models and methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fundusgrade.errors import ExplanationError
from fundusgrade.explanation.attribution import explain_image, fits
from fundusgrade.explanation.heat_map import ExplainOptions, HeatMap
from fundusgrade.explanation.targets import PREDICTED, Target, grade_target
from fundusgrade.grades import Prediction
from fundusgrade.grading.grader import Grader
from fundusgrade.photographs.inputs import Photograph
from fundusgrade.photographs.loading import OpenedPhotograph, open_photograph
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.preprocess import PreprocessedImage, canonical_outline
from fundusgrade.photographs.recipe import PreprocessRecipe

DEFAULT_OPTIONS = ExplainOptions()


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

    The photograph is read at its full size or, if that is faster, at a smaller one of `at_least_px` a side. Raises
    UngradableError where it cannot be graded, ExplanationError where a method does not fit a model.
    """
    check_fit(graders, methods)
    opened: dict[PreprocessRecipe, OpenedPhotograph] = {}
    columns = []
    for grader in graders:
        if grader.recipe not in opened:
            opened[grader.recipe] = open_photograph(photograph, grader.recipe, at_least_px=at_least_px)
        columns.append(explain_opened(grader, opened[grader.recipe], methods))
    return tuple(zip(*columns, strict=True))


def explain_opened(grader: Grader, opened: OpenedPhotograph, methods: Sequence[ExplainOptions]) -> list[Explanation]:
    """Explain a photograph that was opened with the grader's recipe, by one or more methods.

    Raises ExplanationError where a method does not fit the network.
    """
    prediction = grader.grade_loaded(opened.loaded, opened.name)
    return [_explain(grader, opened, prediction, options) for options in methods]


def explain_preprocessed(grader: Grader, preprocessed: PreprocessedImage, options: ExplainOptions) -> HeatMap:
    """The heat map of an image preprocessed with the grader's recipe, on that image.

    Raises ExplanationError where the method does not fit the network.
    """
    outline = visible_region(grader.recipe, preprocessed)
    return explain_image(grader.network, preprocessed.image, options=options, choice=grader.choice, outline=outline)


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
            if not fits(grader.network, method):
                raise ExplanationError(
                    f"--method {method.describe()} does not fit {grader.name} ({grader.description.network.arch}); "
                    "integrated-gradients fits every network, attention-rollout plain vision transformers, and the CAM "
                    "family the cnn, timm's convolutional networks and plain vision transformers"
                )


def check_comparable(graders: Sequence[Grader]) -> None:
    """Raises ExplanationError where models differ in preprocessing, so that their heat maps cannot be compared."""
    kinds = {grader.recipe.describe() for grader in graders}
    if len(kinds) > 1:
        raise ExplanationError(
            f"these models preprocess photographs differently ({'; '.join(sorted(kinds))}), so that their heat maps "
            "cannot be compared pixel by pixel; test one model at a time"
        )


def _explain(grader: Grader, opened: OpenedPhotograph, prediction: Prediction, options: ExplainOptions) -> Explanation:
    if options.target is PREDICTED:
        options = replace(options, target=grade_target(prediction.grade))
    preprocessed = opened.loaded.preprocessed
    heat_map = explain_preprocessed(grader, preprocessed, options)
    height, width = opened.photograph.shape[:2]
    return Explanation(
        photograph=opened.photograph,
        prediction=prediction,
        target=heat_map.target,
        options=replace(options, method=heat_map.method),
        # Beyond the mask the network sees mirrored or black pixels, which are not on the photograph.
        heat=preprocessed.placement.resized_to(height, width).to_photograph(heat_map.values * preprocessed.mask),
        heat_map=heat_map,
        preprocessed=preprocessed,
    )
