"""A photograph and a grader -> an explanation on the photograph's own pixels; one model or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fundusgrade.errors import ExplanationError
from fundusgrade.explanation.attribution import explain_image, fits
from fundusgrade.explanation.heat_map import ExplainOptions, HeatMap
from fundusgrade.explanation.targets import PREDICTED, Target, grade_target
from fundusgrade.explanation.tiling import explain_in_tiles
from fundusgrade.grades import Prediction
from fundusgrade.grading.grader import Grader
from fundusgrade.photographs.loading import OpenedPhotograph, load_pixels, open_photograph
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.preprocess import PreprocessedImage, canonical_outline
from fundusgrade.photographs.recipe import MAX_SIZE_PX, Outline, PreprocessRecipe
from fundusgrade.photographs.sources import FoundImage

DEFAULT_EXPLANATION = ExplainOptions()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explanation:
    """A photograph (H, W, 3), its grade, and `heat` (H, W) float32 >= 0 on the photograph's own pixels.

    `heat_map` is the same on the preprocessed image in `prepared`; `options` name the method that was used.
    """

    photograph: Image
    prediction: Prediction
    target: Target
    options: ExplainOptions
    heat: NDArray[np.float32]
    heat_map: HeatMap
    prepared: PreprocessedImage


def explain(
    grader: Grader, photograph: Path | FoundImage, options: ExplainOptions = DEFAULT_EXPLANATION
) -> Explanation:
    """Grade a photograph and say where the evidence lies.

    Raises UngradableError where it cannot be graded and ExplanationError where this network cannot be explained so.
    """
    return explain_opened(grader, open_photograph(photograph, grader.recipe), [options])[0]


def explain_opened(grader: Grader, opened: OpenedPhotograph, options: Sequence[ExplainOptions]) -> list[Explanation]:
    """Explain a photograph that was opened with this model's recipe, in one or more ways.

    Raises ExplanationError where this network cannot be explained so.
    """
    prediction = grader.grade_loaded(opened.loaded, opened.name)
    return [_explain(grader, opened, prediction, each) for each in options]


def explain_prepared(grader: Grader, prepared: PreprocessedImage, options: ExplainOptions) -> HeatMap:
    """The heat map of a picture prepared with this model's recipe, on that picture; `tiles` is not heeded.

    Raises ExplanationError where this network cannot be explained so.
    """
    outline = visible_region(grader.recipe, prepared)
    return explain_image(grader.network, prepared.image, options=options, choice=grader.choice, outline=outline)


def visible_region(recipe: PreprocessRecipe, prepared: PreprocessedImage) -> NDArray[np.bool_]:
    """What a prepared picture (S, S) can show: the band, mirrored parts too, or what the photograph shows."""
    return canonical_outline(recipe) if recipe.outline is Outline.BAND else prepared.mask


def _explain(grader: Grader, opened: OpenedPhotograph, prediction: Prediction, options: ExplainOptions) -> Explanation:
    if options.target is PREDICTED:
        options = replace(options, target=grade_target(prediction.grade))
    prepared = opened.loaded.prepared
    heat_map = explain_prepared(grader, prepared, options)
    if options.tiles > 1:
        recipe = replace(grader.recipe, size_px=grader.recipe.size_px * options.tiles)
        prepared = load_pixels(opened.photograph, recipe).prepared
        outline = visible_region(recipe, prepared)
        heat_map = explain_in_tiles(grader.network, heat_map, prepared, outline, options, grader.choice)
    height, width = opened.photograph.shape[:2]
    return Explanation(
        photograph=opened.photograph,
        prediction=prediction,
        target=heat_map.target,
        options=replace(options, method=heat_map.method),
        # The network sees no more of the photograph than the mask: outside of it there is no evidence.
        heat=prepared.placement.resized_to(height, width).to_photograph(heat_map.values * prepared.mask),
        heat_map=heat_map,
        prepared=prepared,
    )


Explanations = tuple[tuple[Explanation, ...], ...]
"""A row for each method, in it one explanation for each model."""


def explain_photograph(
    photograph: Path | FoundImage,
    graders: Sequence[Grader],
    methods: Sequence[ExplainOptions],
    *,
    at_least_px: int | None = None,
) -> Explanations:
    """Explain a photograph by every method and model, at its full size or at one that keeps so many pixels a side.

    Raises UngradableError where it cannot be graded, ExplanationError where a method does not fit a model.
    """
    check_fit(graders, methods)
    opened: dict[PreprocessRecipe, OpenedPhotograph] = {}
    columns = []
    for grader in graders:
        if grader.recipe not in opened:
            opened[grader.recipe] = open_photograph(photograph, grader.recipe, at_least_px=at_least_px)
        columns.append(explain_opened(grader, opened[grader.recipe], methods))
    return tuple(zip(*columns, strict=True))


def check_fit(graders: Sequence[Grader], methods: Sequence[ExplainOptions]) -> None:
    """Raises ExplanationError where a method does not fit a model or two have one name, before anything is read."""
    names = [grader.name for grader in graders]
    if len(set(names)) < len(names):
        raise ExplanationError(
            f"models are told apart by name, and these are called {', '.join(names)}; name each once"
        )
    for method in methods:
        for grader in graders:
            if not fits(grader.network, method):
                raise ExplanationError(
                    f"--method {method.describe()} does not fit {grader.name} ({grader.description.network.arch}); "
                    "integrated fits every network, rollout plain vision transformers, the others networks whose last "
                    "map is known: the cnn, timm's convolutional networks and plain vision transformers"
                )
            size_px = method.tiles * grader.recipe.size_px
            if size_px > MAX_SIZE_PX:
                raise ExplanationError(
                    f"--tiles {method.tiles}: pictures of {grader.name} would have {size_px} "
                    f"px, more than {MAX_SIZE_PX}; take fewer tiles"
                )


def check_comparable(graders: Sequence[Grader]) -> None:
    """Raises ExplanationError where models look at different pictures, so that their maps cannot be compared."""
    kinds = {grader.recipe.describe() for grader in graders}
    if len(kinds) > 1:
        raise ExplanationError(
            f"these models look at different pictures ({'; '.join(sorted(kinds))}), so that their maps cannot be laid "
            "side by side; test them one at a time"
        )
