"""Random photographs with grades and probabilities, for tests of scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fundusgrade.metrics.predictions import PredictionSet, ScoredPhotographs
from fundusgrade.metrics.score_keys import ScoreKey
from fundusgrade.metrics.scores import NamedEstimate

MIX = (0.49, 0.10, 0.27, 0.06, 0.08)


def scored(
    grades: ArrayLike, probabilities: ArrayLike, *, predicted: ArrayLike | None = None, groups: ArrayLike | None = None
) -> ScoredPhotographs:
    """Photographs of fold 0, by default each of its own group and with the most probable grade predicted."""
    table = np.asarray(probabilities, np.float64).reshape(-1, 5)
    count = len(table)
    return ScoredPhotographs(
        sources=tuple(f"{i}.png" for i in range(count)),
        grades=np.asarray(grades, np.int64),
        predicted=np.asarray(table.argmax(axis=1) if predicted is None else predicted, np.int64),
        probabilities=table,
        groups=np.asarray(np.arange(count) if groups is None else groups, np.int64),
        folds=np.zeros(count, np.int64),
    )


def draw_photographs(num_photographs: int, seed: int, *, skill: float = 1.5) -> ScoredPhotographs:
    """Photographs and a model that measures the grade with an error; its probabilities are roughly calibrated."""
    rng = np.random.default_rng(seed)
    grades = rng.choice(5, num_photographs, p=MIX)
    return grade_again(scored(grades, np.full((num_photographs, 5), 0.2)), seed + 1, skill=skill)


def grade_again(photographs: ScoredPhotographs, seed: int, *, skill: float = 1.5) -> ScoredPhotographs:
    """The same photographs by another model."""
    rng = np.random.default_rng(seed)
    severity = photographs.grades + rng.normal(0, 1 / skill, len(photographs))
    closeness = np.exp(-(skill**2) * (severity[:, None] - np.arange(5)) ** 2 / 2) + 0.002
    return scored(photographs.grades, closeness / closeness.sum(axis=1, keepdims=True), groups=photographs.groups)


def prediction_set(
    test: ScoredPhotographs, validation: ScoredPhotographs | None = None, *, model: str = "model"
) -> PredictionSet:
    """One model's predictions; without validation photographs unless they are given."""
    nothing = test.subset(np.zeros(0, np.int64))
    return PredictionSet(model=model, data="eyes", test=test, validation=nothing if validation is None else validation)


def repeated(photographs: ScoredPhotographs, times: int) -> ScoredPhotographs:
    """Each photograph as several identical copies of one group."""
    count = len(photographs)
    rows: NDArray[np.int64] = np.tile(np.arange(count), times)
    copies = photographs.subset(rows)
    return scored(copies.grades, copies.probabilities, predicted=copies.predicted, groups=rows)


def by_key(scores: tuple[NamedEstimate, ...]) -> dict[ScoreKey, float | None]:
    """The values of scores."""
    return {score.key: score.estimate.value for score in scores}
