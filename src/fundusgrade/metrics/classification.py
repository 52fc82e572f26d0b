"""Scores of predictions without intervals: confusion matrix, quadratic weighted kappa, each grade, binary decisions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fundusgrade.errors import MetricsError
from fundusgrade.grades import NUM_GRADES, REFERABLE_FROM, SIGHT_THREATENING_FROM
from fundusgrade.metrics import confusion
from fundusgrade.metrics.auc import weighted_aucs
from fundusgrade.metrics.estimates import defined_or_none, mean_of_defined

PROBABILITY_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class GradeScores:
    """Scores of one grade against all others.

    Precision is None where the grade is never predicted, recall where no photograph has it, F1 where both hold.
    """

    grade: int
    num_photographs: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryScores:
    """Scores of "this grade or worse"; sensitivity and specificity are those of the predicted grade.

    Sensitivity is None without positive photographs, specificity without negative ones, the AUC without either.
    """

    num_positive: int
    num_negative: int
    sensitivity: float | None
    specificity: float | None
    auc: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All scores of one model on one set of photographs; rows of the matrix are true grades, columns predicted ones.

    The kappa is None where all photographs have one grade and are predicted so.
    """

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


def probability_from_grade(probabilities: NDArray[np.float64], from_grade: int) -> NDArray[np.float64]:
    """Probability (N,) of this grade or worse, 0 to 1, from probabilities (N, 5)."""
    return np.asarray(probabilities[:, from_grade:].sum(axis=1), np.float64)


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
    matrices = matrix[None].astype(np.float64)
    return Evaluation(
        num_photographs=true_grades.size,
        confusion_matrix=tuple(tuple(row) for row in matrix.tolist()),
        kappa=defined_or_none(confusion.kappas(matrices)[0]),
        accuracy=defined_or_none(confusion.accuracies(matrices)[0]),
        balanced_accuracy=defined_or_none(mean_of_defined(confusion.grade_recalls(matrices))[0]),
        macro_f1=defined_or_none(mean_of_defined(confusion.grade_f1s(matrices))[0]),
        mean_absolute_error=defined_or_none(confusion.mean_absolute_errors(matrices)[0]),
        grades=_grade_scores(matrices),
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
    """Agreement beyond chance, weighted by the squared distance of grades, at most 1.0; see `confusion.kappas`.

    None where chance alone leaves no disagreement: no photographs, or all of one grade and predicted so.
    """
    return defined_or_none(confusion.kappas(confusion_matrix(grades, predicted)[None].astype(np.float64))[0])


def _grade_scores(matrices: NDArray[np.float64]) -> tuple[GradeScores, ...]:
    """Scores of each grade from one matrix (1, 5, 5)."""
    precisions, recalls, f1s = (
        score(matrices)[0] for score in (confusion.grade_precisions, confusion.grade_recalls, confusion.grade_f1s)
    )
    return tuple(
        GradeScores(
            grade=grade,
            num_photographs=int(matrices[0, grade].sum()),
            precision=defined_or_none(precisions[grade]),
            recall=defined_or_none(recalls[grade]),
            f1=defined_or_none(f1s[grade]),
        )
        for grade in range(NUM_GRADES)
    )


def _binary_scores(
    grades: NDArray[np.int64], predicted: NDArray[np.int64], probabilities: NDArray[np.float64], from_grade: int
) -> BinaryScores:
    positive = grades >= from_grade
    called_positive = predicted >= from_grade
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    unweighted = np.ones((1, len(positive)), np.float32)
    return BinaryScores(
        num_positive=num_positive,
        num_negative=num_negative,
        sensitivity=int((positive & called_positive).sum()) / num_positive if num_positive else None,
        specificity=int((~positive & ~called_positive).sum()) / num_negative if num_negative else None,
        auc=defined_or_none(weighted_aucs(unweighted, positive, probability_from_grade(probabilities, from_grade))[0]),
    )


def _checked_grades(grades: ArrayLike, name: str) -> NDArray[np.int64]:
    try:
        array = np.asarray(grades)
    except ValueError as error:
        raise MetricsError(f"The {name} are not a list of numbers: {error}.") from error
    if array.ndim != 1:
        raise MetricsError(f"The {name} have shape {array.shape}: expected (N,), one whole number per photograph.")
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.dtype.kind not in "iuf":
        raise MetricsError(f"The {name} are of type {array.dtype}: expected whole numbers 0 to {NUM_GRADES - 1}.")
    is_grade = np.isin(array, np.arange(NUM_GRADES))
    if not is_grade.all():
        row = int(np.flatnonzero(~is_grade)[0])
        raise MetricsError(
            f"Row {row} of the {name} is {array[row]}: expected a whole number 0 to {NUM_GRADES - 1}. "
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
    # NaN fails every comparison and infinity the upper one, so a test for valid rows finds them too.
    in_range = (array >= -PROBABILITY_TOLERANCE) & (array <= 1 + PROBABILITY_TOLERANCE)
    sums = np.where(in_range, array, np.nan).sum(axis=1)
    is_valid = np.abs(sums - 1) <= PROBABILITY_TOLERANCE
    if not is_valid.all():
        row = int(np.flatnonzero(~is_valid)[0])
        raise MetricsError(
            f"Row {row} of the probabilities is {array[row].tolist()}: expected {NUM_GRADES} numbers of 0 to 1 that "
            "sum to 1. Give probabilities, not logits; a model whose output is NaN has diverged."
        )
    return array


def order_of_errors(
    grades: NDArray[np.int64], predicted: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Positions of the wrongly graded of N photographs: the furthest from the true grade first, of equals that whose
    true grade was least probable. Grades are (N,), probabilities (N, 5).
    """
    distance = np.abs(predicted - grades)
    order = np.lexsort((probabilities[np.arange(len(grades)), grades], -distance))
    return np.asarray(order[: int((distance > 0).sum())], np.int64)
