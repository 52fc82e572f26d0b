"""Conformal prediction sets: contiguous grades that hold the true grade with a target coverage.

The set of a photograph grows from the predicted grade, each time by the more probable neighbor (ordinal adaptive
prediction sets: Lu, Angelopoulos and Pomerantz, MICCAI 2022), up to a limit chosen on validation. Where validation and
new photographs are exchangeable, the proportion of sets that hold the true grade is at least the target coverage (split
conformal prediction: Vovk, Gammerman and Shafer 2005).

A set is never empty: the predicted grade is always in it, and its conformity score is 0, so that the limit is fitted to
the sets as they are given. (Scored by its probability, it would remain in sets beyond the limit, and sets would hold
the true grade more often than the target.) A model whose accuracy exceeds the target gets sets of one grade, which
hold the true grade as often as the model is right: more often than the target.
The coverage is marginal: that of all photographs together, not of those of one grade.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusgrade.errors import MetricsError
from fundusgrade.grades import NUM_GRADES
from fundusgrade.metrics.bootstrap import Resamples, estimate_proportion
from fundusgrade.metrics.estimates import Estimate
from fundusgrade.metrics.predictions import PredictionSet, ScoredPhotographs

NO_LIMIT = 1.0
"""The limit at which every set holds all grades."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GradeSets:
    """Lowest and highest grade (N,), 0 to 4, of the prediction sets of N photographs."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetCoverage:
    """Prediction sets of the photographs of one grade: the proportion that holds the true grade, and their mean size.

    `grade` is None for all photographs; `mean_size` is 1 to 5 grades, None without photographs.
    """

    grade: int | None
    num_photographs: int
    covered: Estimate
    mean_size: float | None


def conformity_scores(
    probabilities: NDArray[np.float64], grades: NDArray[np.int64], predicted: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """How far each set must grow to hold the true grade (N,), 0 to 1, from probabilities (N, 5).

    The probability of the set that has just grown to the true grade; 0 where that is the predicted grade (N,), by
    default the most probable one.
    """
    return _masses(probabilities, predicted)[np.arange(len(grades)), grades]


def score_limit(scores: NDArray[np.float64], coverage: float) -> float:
    """The limit (0 to 1) under which a new photograph's score lies with probability `coverage`, from scores (N,).

    The ceil((N + 1) * coverage)-th smallest; `NO_LIMIT` where there are too few. Raises MetricsError where the coverage
    is not between 0 and 1.
    """
    if not 0 < coverage < 1:
        raise MetricsError(f"The target coverage of prediction sets is {coverage}: it must lie between 0 and 1.")
    # Rounded, because 10 * 0.9 may be a little more than 9.
    rank = math.ceil(round((len(scores) + 1) * coverage, 9))
    return NO_LIMIT if rank > len(scores) else float(np.sort(scores)[rank - 1])


def grade_sets(
    probabilities: NDArray[np.float64], limit: float, predicted: NDArray[np.int64] | None = None
) -> GradeSets:
    """The set of each photograph from probabilities (N, 5); it always holds the predicted grade (N,)."""
    inside = _masses(probabilities, predicted) <= limit
    low = inside.argmax(axis=1)
    high = NUM_GRADES - 1 - inside[:, ::-1].argmax(axis=1)
    return GradeSets(low=np.asarray(low, np.int64), high=np.asarray(high, np.int64))


def measure_sets(predictions: PredictionSet, resamples: Resamples, *, coverage: float) -> tuple[SetCoverage, ...]:
    """How often the sets of the test photographs hold the true grade: of all photographs, then of each grade.

    The limit is that of the validation photographs of the same fold. Empty where a fold has none.
    """
    test, validation = predictions.test, predictions.validation
    if not set(test.folds.tolist()) <= set(validation.folds.tolist()):
        return ()
    low, high = np.zeros(len(test), np.int64), np.zeros(len(test), np.int64)
    for fold in np.unique(test.folds):
        calibration, in_fold = validation.subset(validation.folds == fold), test.folds == fold
        scores = conformity_scores(calibration.probabilities, calibration.grades, calibration.predicted)
        sets = grade_sets(test.probabilities[in_fold], score_limit(scores, coverage), test.predicted[in_fold])
        low[in_fold], high[in_fold] = sets.low, sets.high
    rows = [(None, np.ones(len(test), bool)), *((grade, test.grades == grade) for grade in range(NUM_GRADES))]
    return tuple(_set_coverage(grade, among, test, GradeSets(low=low, high=high), resamples) for grade, among in rows)


def _set_coverage(
    grade: int | None,
    among: NDArray[np.bool_],
    test: ScoredPhotographs,
    sets: GradeSets,
    resamples: Resamples,
) -> SetCoverage:
    is_covered = (sets.low <= test.grades) & (test.grades <= sets.high)
    return SetCoverage(
        grade=grade,
        num_photographs=int(among.sum()),
        covered=estimate_proportion(resamples, is_covered, among),
        mean_size=float((sets.high - sets.low + 1)[among].mean()) if among.any() else None,
    )


def _masses(probabilities: NDArray[np.float64], predicted: NDArray[np.int64] | None) -> NDArray[np.float64]:
    """The probability (N, 5) of the set when it has just grown to each grade; 0 for the predicted one.

    Of equals the lower grade is taken. The last grade to be reached gets exactly 1, whatever the sum is rounded to.
    """
    rows = np.arange(len(probabilities))
    low = high = probabilities.argmax(axis=1) if predicted is None else predicted
    masses = np.zeros(probabilities.shape)
    total = probabilities[rows, low]
    padded = np.pad(probabilities, ((0, 0), (1, 1)), constant_values=-np.inf)
    for step in range(1, NUM_GRADES):
        downward = padded[rows, low] >= padded[rows, high + 2]
        joined = np.where(downward, low - 1, high + 1)
        low, high = np.minimum(low, joined), np.maximum(high, joined)
        total = total + probabilities[rows, joined]
        masses[rows, joined] = np.minimum(total, 1.0) if step < NUM_GRADES - 1 else 1.0
    return masses
