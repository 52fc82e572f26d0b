"""How good predictions are: confusion matrix, quadratic weighted kappa, scores of each grade and operating point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fundusgrade.errors import MetricsError
from fundusgrade.grades import NUM_GRADES, REFERABLE_FROM, SIGHT_THREATENING_FROM

PROBABILITY_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class GradeScores:
    """Scores of one grade against all others; None where no photograph defines the score."""

    grade: int
    num_photographs: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryScores:
    """Scores of "this grade or worse"; sensitivity and specificity are those of the predicted grade."""

    num_positive: int
    num_negative: int
    sensitivity: float | None
    specificity: float | None
    auc: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All scores of one model on one set of photographs; rows of the matrix are true grades, columns predicted."""

    num_photographs: int
    confusion_matrix: tuple[tuple[int, ...], ...]
    kappa: float | None
    accuracy: float | None
    balanced_accuracy: float | None
    macro_f1: float | None
    mean_absolute_error: float | None
    grades: tuple[GradeScores, ...]
    referable: BinaryScores
    sight_threatening: BinaryScores


def decide_grades(probabilities: NDArray[np.float64], thresholds: tuple[float, ...] | None) -> NDArray[np.int64]:
    """Grades (N,) from probabilities (N, 5): the most probable one, or the number of thresholds that are reached.

    `thresholds` are four rising values of the expected grade; of equally probable grades the lower is taken.
    """
    if thresholds is None:
        return np.asarray(probabilities.argmax(axis=1), np.int64)
    return np.asarray(np.searchsorted(thresholds, expected_grades(probabilities), side="right"), np.int64)


def expected_grades(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the grade (N,), 0 to 4, under probabilities (N, 5)."""
    return np.asarray(probabilities @ np.arange(NUM_GRADES), np.float64)


def evaluate_predictions(
    grades: ArrayLike,
    probabilities: ArrayLike,
    thresholds: tuple[float, ...] | None = None,
    *,
    predicted: ArrayLike | None = None,
) -> Evaluation:
    """Score predictions against true grades.

    `grades` are (N,) whole numbers 0-4, `probabilities` (N, 5) with rows that sum to 1; the predicted grades are those
    given (N,), else those of `decide_grades`. Raises MetricsError where they are anything else or empty.
    """
    true_grades = _checked_grades(grades, "grades")
    scores = _checked_probabilities(probabilities, num_photographs=true_grades.size)
    decided = decide_grades(scores, thresholds) if predicted is None else _checked_grades(predicted, "predicted grades")
    matrix = confusion_matrix(true_grades, decided)
    per_grade = tuple(_grade_scores(matrix, grade) for grade in range(NUM_GRADES))
    return Evaluation(
        num_photographs=true_grades.size,
        confusion_matrix=tuple(tuple(row) for row in matrix.tolist()),
        kappa=_matrix_kappa(matrix),
        accuracy=_ratio(int(matrix.trace()), true_grades.size),
        balanced_accuracy=_mean_of_defined([scores_of.recall for scores_of in per_grade]),
        macro_f1=_mean_of_defined([scores_of.f1 for scores_of in per_grade]),
        mean_absolute_error=float(np.abs(true_grades - decided).mean()),
        grades=per_grade,
        referable=_binary_scores(true_grades, decided, scores, REFERABLE_FROM),
        sight_threatening=_binary_scores(true_grades, decided, scores, SIGHT_THREATENING_FROM),
    )


def confusion_matrix(grades: ArrayLike, predicted: ArrayLike) -> NDArray[np.int64]:
    """Count photographs in a (5, 5) table: rows are true grades, columns predicted ones.

    Both are (N,) whole numbers 0-4, N may be 0. Raises MetricsError on anything else.
    """
    rows = _checked_grades(grades, "grades")
    columns = _checked_grades(predicted, "predicted grades")
    if rows.size != columns.size:
        raise MetricsError(
            f"There are {rows.size} grades but {columns.size} predicted grades: give one prediction per grade."
        )
    counts = np.bincount(rows * NUM_GRADES + columns, minlength=NUM_GRADES**2)
    return counts.reshape(NUM_GRADES, NUM_GRADES).astype(np.int64)


def quadratic_weighted_kappa(grades: ArrayLike, predicted: ArrayLike) -> float | None:
    """Agreement beyond chance, weighted by the squared distance of grades (Cohen, Psychological Bulletin 1968).

    At most 1.0; None where chance alone leaves no disagreement: no photographs, or all of one grade and predicted so.
    Weights always count all five grades, so a grade missing from both does not move the others together.
    """
    return _matrix_kappa(confusion_matrix(grades, predicted))


def kappa_interval(
    grades: ArrayLike, predicted: ArrayLike, groups: ArrayLike, *, num_resamples: int = 1000, seed: int = 0
) -> tuple[float, float] | None:
    """95 % percentile interval of the kappa by a bootstrap that draws whole groups (Efron and Tibshirani 1993).

    All are (N,) whole numbers; photographs of one group (copies, a patient) are not independent and stay together. None
    where the kappa of every draw is undefined.
    """
    rows, columns = _checked_grades(grades, "grades"), _checked_grades(predicted, "predicted grades")
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    if group.size == 0:
        return None
    num_groups = int(group.max()) + 1
    cells = np.zeros((num_groups, NUM_GRADES**2), np.int64)
    np.add.at(cells, (group, rows * NUM_GRADES + columns), 1)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=num_resamples)
    kappas = [_matrix_kappa(matrix.reshape(NUM_GRADES, NUM_GRADES)) for matrix in draws @ cells]
    defined = [kappa for kappa in kappas if kappa is not None]
    return _percentile_interval(np.array(defined)) if defined else None


def mean_interval(values: ArrayLike, *, num_resamples: int = 1000, seed: int = 0) -> tuple[float, float] | None:
    """95 % percentile interval of a mean by the bootstrap; `values` are (N,), None where there are none."""
    array = np.asarray(values, np.float64)
    if array.size == 0:
        return None
    draws = np.random.default_rng(seed).integers(0, array.size, (num_resamples, array.size))
    return _percentile_interval(array[draws].mean(axis=1))


def _percentile_interval(draws: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(draws, (2.5, 97.5))
    return float(low), float(high)


def _matrix_kappa(matrix: NDArray[np.int64]) -> float | None:
    distance = np.subtract.outer(np.arange(NUM_GRADES), np.arange(NUM_GRADES)) ** 2
    by_chance = np.outer(matrix.sum(axis=1), matrix.sum(axis=0))
    # Whole numbers up to here: the comparison with zero is exact.
    chance_disagreement = int((distance * by_chance).sum())
    if chance_disagreement == 0:
        return None
    disagreement = int((distance * matrix).sum()) * int(matrix.sum())
    return 1.0 - disagreement / chance_disagreement


def _grade_scores(matrix: NDArray[np.int64], grade: int) -> GradeScores:
    hits = int(matrix[grade, grade])
    num_true = int(matrix[grade].sum())
    num_predicted = int(matrix[:, grade].sum())
    return GradeScores(
        grade=grade,
        num_photographs=num_true,
        precision=_ratio(hits, num_predicted),
        recall=_ratio(hits, num_true),
        # Counted, not made of precision and recall: a grade that is never predicted has no precision but an F1 of 0.
        f1=_ratio(2 * hits, num_true + num_predicted),
    )


def _binary_scores(
    grades: NDArray[np.int64], predicted: NDArray[np.int64], probabilities: NDArray[np.float64], from_grade: int
) -> BinaryScores:
    positive = grades >= from_grade
    called_positive = predicted >= from_grade
    num_positive = int(positive.sum())
    num_negative = int(positive.size) - num_positive
    return BinaryScores(
        num_positive=num_positive,
        num_negative=num_negative,
        sensitivity=_ratio(int((positive & called_positive).sum()), num_positive),
        specificity=_ratio(int((~positive & ~called_positive).sum()), num_negative),
        auc=_area_under_curve(positive, probabilities[:, from_grade:].sum(axis=1)),
    )


def _area_under_curve(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> float | None:
    """Area under the ROC curve from mean ranks, ties counting one half (Hanley and McNeil, Radiology 1982)."""
    num_positive = int(positive.sum())
    num_pairs = num_positive * (positive.size - num_positive)
    if num_pairs == 0:
        return None
    _, position, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(mean_ranks[position][positive].sum())
    return (rank_sum - num_positive * (num_positive + 1) / 2) / num_pairs


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean_of_defined(values: list[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def _checked_grades(grades: ArrayLike, what: str) -> NDArray[np.int64]:
    try:
        array = np.asarray(grades)
    except ValueError as error:
        raise MetricsError(f"The {what} are not a list of numbers: {error}.") from error
    if array.ndim != 1:
        raise MetricsError(f"The {what} have shape {array.shape}: expected (N,), one whole number per photograph.")
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.dtype.kind not in "iuf":
        raise MetricsError(f"The {what} are of type {array.dtype}: expected whole numbers 0 to {NUM_GRADES - 1}.")
    is_grade = np.isin(array, np.arange(NUM_GRADES))
    if not is_grade.all():
        row = int(np.flatnonzero(~is_grade)[0])
        raise MetricsError(
            f"Row {row} of the {what} is {array[row]}: expected a whole number 0 to {NUM_GRADES - 1}. "
            "Remove photographs without a grade before scoring."
        )
    return array.astype(np.int64)


def _checked_probabilities(probabilities: ArrayLike, *, num_photographs: int) -> NDArray[np.float64]:
    try:
        array = np.asarray(probabilities, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise MetricsError(f"The probabilities are not a table of numbers: {error}.") from error
    if num_photographs == 0:
        raise MetricsError("There are no photographs to score: the split or the selection is empty.")
    if array.shape != (num_photographs, NUM_GRADES):
        raise MetricsError(
            f"The probabilities have shape {array.shape}: expected {(num_photographs, NUM_GRADES)}, "
            f"one row per grade given and one column per grade 0 to {NUM_GRADES - 1}."
        )
    # NaN fails every comparison and infinity the upper one, so asking what is good also finds them.
    in_range = (array >= -PROBABILITY_TOLERANCE) & (array <= 1 + PROBABILITY_TOLERANCE)
    sums = np.where(in_range, array, np.nan).sum(axis=1)
    is_good = np.abs(sums - 1) <= PROBABILITY_TOLERANCE
    if not is_good.all():
        row = int(np.flatnonzero(~is_good)[0])
        raise MetricsError(
            f"Row {row} of the probabilities is {array[row].tolist()}: expected {NUM_GRADES} numbers of 0 to 1 that "
            "sum to 1. Give probabilities, not logits; a model whose output is NaN has diverged."
        )
    return array
