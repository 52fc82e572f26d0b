"""Conformal prediction: sets of contiguous grades, and upper bounds, that hold the true grade with a target coverage.

The set of a photograph grows from the predicted grade, each time by the more probable neighbor (ordinal adaptive
prediction sets: Lu, Angelopoulos and Pomerantz, MICCAI 2022), up to a limit chosen on other photographs. Where those
and new photographs are exchangeable, the proportion of sets that hold the true grade is at least the target coverage
(split conformal prediction: Vovk, Gammerman and Shafer 2005). This coverage is marginal: that of all photographs
together. Fewer sets of the rare grades hold the true grade.

The upper bound is the highest grade that is not excluded, for screening: the eye could be as bad as this. Each grade
has a limit of its own, from photographs of that grade, so that for each true grade the proportion of bounds at or above
it is at least the target coverage (class-conditional, or Mondrian, conformal prediction: Vovk et al., section 4.5).

A set is never empty: the predicted grade is always in it, and its conformity score is 0, so that the limit is fitted to
the sets as they are given. (Scored by its probability, it would remain in sets beyond the limit, and sets would hold
the true grade more often than the target.) A model whose accuracy exceeds the target gets sets of one grade, which
hold the true grade as often as the model is right: more often than the target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusgrade.data.splits import held_out_half
from fundusgrade.errors import MetricsError
from fundusgrade.grades import NUM_GRADES
from fundusgrade.metrics.bootstrap import Resamples, estimate_proportion
from fundusgrade.metrics.estimates import Estimate
from fundusgrade.metrics.predictions import PredictionSet, ScoredPhotographs

NO_LIMIT = 1.0
"""The limit at which every set holds all grades."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConformalLimits:
    """The limits, 0 to 1, for one target coverage: of the scores of sets, and of the bound scores of each grade (5).

    `NO_LIMIT` for a grade: too few photographs of it are known for the target coverage, so it is never excluded.
    """

    sets: float
    bounds: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conformity:
    """Sorted scores of photographs with a known grade, from which sets and bounds of any target coverage follow.

    `sets` are the conformity scores of all photographs, `set_grades` the true grade of each; `bounds` (5) are the bound
    scores of the photographs of each grade.
    """

    sets: tuple[float, ...] = ()
    bounds: tuple[tuple[float, ...], ...] = ((),) * NUM_GRADES
    set_grades: tuple[int, ...] = ()

    def limits(self, coverage: float) -> ConformalLimits:
        """The limits for a target coverage. Raises MetricsError where that is not between 0 and 1."""
        return ConformalLimits(
            sets=score_limit(np.array(self.sets), coverage),
            bounds=tuple(score_limit(np.array(scores), coverage) for scores in self.bounds),
        )

    def known_coverage(self, coverage: float) -> tuple[KnownCoverage, ...]:
        """How often sets of a target coverage hold the true grade: of all these photographs, then of each grade.

        Each photograph's limit is that of all others, so that none is counted by a limit that it has moved. Empty where
        there are no photographs.
        """
        if not self.sets:
            return ()
        scores, grades = np.array(self.sets), np.array(self.set_grades)
        # The limit of a photograph is the r-th smallest score of the N - 1 others, r = ceil(N * coverage). The r
        # smallest of all N scores are within it, and of larger ones those that equal the r-th.
        is_covered = scores <= score_limit(scores[:-1], coverage)
        groups = [(None, np.ones(len(grades), bool)), *((grade, grades == grade) for grade in range(NUM_GRADES))]
        return tuple(
            KnownCoverage(grade=grade, num_photographs=int(among.sum()), num_covered=int((is_covered & among).sum()))
            for grade, among in groups
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCoverage:
    """Photographs of a grade, None for all, that gave a model its limits, and how many sets held their grade."""

    grade: int | None
    num_photographs: int
    num_covered: int


NO_CONFORMITY = Conformity()
"""No photographs: every set and bound reaches all grades."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GradeSets:
    """Lowest and highest grade (N,), 0 to 4, of the prediction sets of N photographs, and their upper bounds (N,).

    `low` <= the predicted grade <= `high` <= `upper_bound`.
    """

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    upper_bound: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetCoverage:
    """Prediction sets and upper bounds of the photographs of one grade, None for all photographs.

    `covered` is the proportion of sets that hold the true grade, `bound_covered` that of bounds at or above it;
    `mean_size` of a set is 1 to 5 grades, `mean_bound` 0 to 4; both are None without photographs.
    """

    grade: int | None
    num_photographs: int
    covered: Estimate
    mean_size: float | None
    bound_covered: Estimate
    mean_bound: float | None


def measure_conformity(
    probabilities: NDArray[np.float64], grades: NDArray[np.int64], predicted: NDArray[np.int64] | None = None
) -> Conformity:
    """The scores of photographs with probabilities (N, 5), true grades (N,) and predicted ones, to four decimals.

    The grades predicted by default are the most probable ones.
    """
    rows = np.arange(len(grades))
    bounds = _bound_scores(probabilities, predicted)[rows, grades]
    scores = conformity_scores(probabilities, grades, predicted).round(4)
    order = np.lexsort((grades, scores))
    return Conformity(
        sets=_sorted(scores),
        set_grades=tuple(grades[order].tolist()),
        bounds=tuple(_sorted(bounds[grades == grade]) for grade in range(NUM_GRADES)),
    )


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
    probabilities: NDArray[np.float64], limits: ConformalLimits, predicted: NDArray[np.int64] | None = None
) -> GradeSets:
    """Set and upper bound of each photograph from probabilities (N, 5); both include the predicted grade (N,).

    The bound is the highest grade whose bound score is within the grade's limit, and never below the set.
    """
    inside = _masses(probabilities, predicted) <= limits.sets
    possible = _bound_scores(probabilities, predicted) <= np.array(limits.bounds)
    return GradeSets(
        low=np.asarray(inside.argmax(axis=1), np.int64),
        high=_last(inside),
        upper_bound=np.maximum(_last(possible), _last(inside)),
    )


def measure_sets(
    predictions: PredictionSet, resamples: Resamples, *, coverage: float, conformity: Conformity = NO_CONFORMITY
) -> tuple[SetCoverage, ...]:
    """How often sets and bounds of the test photographs hold the true grade: of all photographs, then of each grade.

    The limits are those of the validation photographs of the same fold that chose nothing (`held_out_half`); where a
    fold has none, those of `conformity`, which the model holds. Empty where that has none either.
    """
    test, validation = predictions.test, predictions.validation
    held_out = np.zeros(len(validation), bool)
    for fold in np.unique(validation.folds):
        of_fold = validation.folds == fold
        held_out[of_fold] = held_out_half(validation.groups[of_fold], validation.grades[of_fold])
    if not set(test.folds.tolist()) <= set(validation.folds[held_out].tolist()):
        if not conformity.sets:
            return ()
        return _coverages(grade_sets(test.probabilities, conformity.limits(coverage), test.predicted), test, resamples)
    low, high, bound = (np.zeros(len(test), np.int64) for _ in range(3))
    for fold in np.unique(test.folds):
        known, in_fold = validation.subset(held_out & (validation.folds == fold)), test.folds == fold
        limits = measure_conformity(known.probabilities, known.grades, known.predicted).limits(coverage)
        sets = grade_sets(test.probabilities[in_fold], limits, test.predicted[in_fold])
        low[in_fold], high[in_fold], bound[in_fold] = sets.low, sets.high, sets.upper_bound
    return _coverages(GradeSets(low=low, high=high, upper_bound=bound), test, resamples)


def _coverages(sets: GradeSets, test: ScoredPhotographs, resamples: Resamples) -> tuple[SetCoverage, ...]:
    rows = [(None, np.ones(len(test), bool)), *((grade, test.grades == grade) for grade in range(NUM_GRADES))]
    return tuple(_set_coverage(grade, among, test, sets, resamples) for grade, among in rows)


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
        bound_covered=estimate_proportion(resamples, test.grades <= sets.upper_bound, among),
        mean_bound=float(sets.upper_bound[among].mean()) if among.any() else None,
    )


def _bound_scores(probabilities: NDArray[np.float64], predicted: NDArray[np.int64] | None) -> NDArray[np.float64]:
    """How strongly each grade (N, 5) is excluded as too high: P(grade below it), and 0 up to the predicted one."""
    low = probabilities.argmax(axis=1) if predicted is None else predicted
    below = np.clip(probabilities.cumsum(axis=1) - probabilities, 0.0, 1.0)
    return np.where(np.arange(NUM_GRADES) <= low[:, None], 0.0, below)


def _last(inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The highest grade (N,) that is inside (N, 5)."""
    return np.asarray(NUM_GRADES - 1 - inside[:, ::-1].argmax(axis=1), np.int64)


def _sorted(scores: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(sorted(round(float(score), 4) for score in scores))


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
