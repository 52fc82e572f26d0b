"""One photograph explained by several models and methods, opened once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fundusgrade.errors import ExplanationError
from fundusgrade.explain import ExplainOptions, fits
from fundusgrade.grading import Explanation, Grader
from fundusgrade.intake import OpenedPhotograph, open_photograph
from fundusgrade.preprocess import PreprocessRecipe

Explanations = tuple[tuple[Explanation, ...], ...]
"""A row for each method, in it one explanation for each model."""


def explain_photograph(
    path: Path, graders: Sequence[Grader], methods: Sequence[ExplainOptions], *, at_least_px: int | None = None
) -> Explanations:
    """Explain a photograph by every method and model, at its full size or at one that keeps so many pixels a side.

    Raises UngradableError where it cannot be graded, ExplanationError where a method does not fit a model.
    """
    check_fit(graders, methods)
    opened: dict[PreprocessRecipe, OpenedPhotograph] = {}
    columns = []
    for grader in graders:
        if grader.recipe not in opened:
            opened[grader.recipe] = open_photograph(path, grader.recipe, at_least_px=at_least_px)
        columns.append(grader.explain_opened(opened[grader.recipe], methods))
    return tuple(zip(*columns, strict=True))


def check_fit(graders: Sequence[Grader], methods: Sequence[ExplainOptions]) -> None:
    """Raises ExplanationError where a method does not fit a model, before any photograph is read."""
    for method in methods:
        for grader in graders:
            if not fits(grader.network, method):
                raise ExplanationError(
                    f"--method {method.describe()} does not fit {grader.name} ({grader.description.network.arch}); "
                    "integrated fits every network, rollout plain vision transformers, the others networks whose last "
                    "map is known: the cnn, timm's convolutional networks and plain vision transformers"
                )
