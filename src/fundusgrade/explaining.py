"""One photograph explained by several models and methods, opened once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fundusgrade.errors import ExplanationError
from fundusgrade.explain import ExplainOptions, fits
from fundusgrade.grading import Explanation, Grader
from fundusgrade.images import FoundImage
from fundusgrade.intake import OpenedPhotograph, open_photograph
from fundusgrade.preprocess import MAX_SIZE_PX, PreprocessRecipe

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
        columns.append(grader.explain_opened(opened[grader.recipe], methods))
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
