"""Every score equals scikit-learn's where that is defined, and is None where it is not."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from fundusgrade.errors import MetricsError
from fundusgrade.metrics.classification import (
    BinaryScores,
    Evaluation,
    confusion_matrix,
    evaluate_predictions,
    quadratic_weighted_kappa,
)

GRADES = range(5)


def draw(seed: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Random grades and probabilities: every third seed lacks classes, every second has many equal probabilities."""
    generator = np.random.default_rng(seed)
    num_photographs = int(generator.integers(2, 80))
    classes = generator.choice(5, size=int(generator.integers(1, 4)), replace=False) if seed % 3 == 0 else np.arange(5)
    grades = generator.choice(classes, size=num_photographs)
    probabilities = generator.dirichlet(np.ones(5), size=num_photographs)
    if seed % 2 == 0:
        # Multiples of 1/8 add up exactly, so ties stay ties on both sides of the comparison.
        probabilities = generator.multinomial(8, np.full(5, 0.2), size=num_photographs) / 8
    return grades, probabilities


def same(ours: float | None, theirs: float) -> bool:
    return ours is None if np.isnan(theirs) else ours == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("seed", range(60))
def test_scores_equal_scikit_learn(seed: int) -> None:
    grades, probabilities = draw(seed)
    predicted = probabilities.argmax(axis=1)
    ours = evaluate_predictions(grades, probabilities)

    expected_matrix = sklearn_metrics.confusion_matrix(grades, predicted, labels=GRADES)
    assert np.array_equal(ours.confusion_matrix, expected_matrix)
    assert ours.num_photographs == len(grades)
    assert ours.accuracy == pytest.approx(sklearn_metrics.accuracy_score(grades, predicted))
    assert ours.mean_absolute_error == pytest.approx(sklearn_metrics.mean_absolute_error(grades, predicted))
    assert ours.macro_f1 == pytest.approx(sklearn_metrics.f1_score(grades, predicted, average="macro"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of grades that are predicted but absent, and of undefined kappa
        balanced = sklearn_metrics.balanced_accuracy_score(grades, predicted)
        kappa = sklearn_metrics.cohen_kappa_score(grades, predicted, labels=GRADES, weights="quadratic")
    assert ours.balanced_accuracy == pytest.approx(balanced)
    assert same(ours.kappa, kappa)
    assert ours.kappa == quadratic_weighted_kappa(grades, predicted)


@pytest.mark.parametrize("seed", range(60))
def test_scores_of_each_grade_equal_scikit_learn(seed: int) -> None:
    grades, probabilities = draw(seed)
    precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
        grades, probabilities.argmax(axis=1), labels=GRADES, zero_division=np.nan
    )
    for grade, ours in enumerate(evaluate_predictions(grades, probabilities).grades):
        assert (ours.grade, ours.num_photographs) == (grade, support[grade])
        assert same(ours.precision, precision[grade])
        assert same(ours.recall, recall[grade])
        assert same(ours.f1, f1[grade])


@pytest.mark.parametrize("seed", range(60))
def test_operating_points_equal_scikit_learn(seed: int) -> None:
    grades, probabilities = draw(seed)
    ours = evaluate_predictions(grades, probabilities)
    assert_binary_scores(ours.referable, grades >= 2, probabilities, from_grade=2)
    assert_binary_scores(ours.sight_threatening, grades >= 3, probabilities, from_grade=3)


def assert_binary_scores(
    ours: BinaryScores, positive: NDArray[np.bool_], probabilities: NDArray[np.float64], from_grade: int
) -> None:
    called = probabilities.argmax(axis=1) >= from_grade
    assert (ours.num_positive, ours.num_negative) == (positive.sum(), (~positive).sum())
    assert same(ours.sensitivity, sklearn_metrics.recall_score(positive, called, zero_division=np.nan))
    assert same(ours.specificity, sklearn_metrics.recall_score(~positive, ~called, zero_division=np.nan))
    if positive.any() and not positive.all():
        auc = sklearn_metrics.roc_auc_score(positive, probabilities[:, from_grade:].sum(axis=1))
        assert ours.auc == pytest.approx(auc, abs=1e-12)
    else:
        assert ours.auc is None


def test_auc_counts_ties_one_half() -> None:
    scores = evaluate_predictions([0, 4], np.full((2, 5), 0.2))
    assert scores.referable.auc == 0.5
    assert scores.sight_threatening.auc == 0.5


def test_all_in_one_cell_leaves_kappa_and_absent_grades_undefined() -> None:
    scores = evaluate_predictions([0, 0], [[1.0, 0, 0, 0, 0]] * 2)
    assert scores.kappa is None
    assert (scores.accuracy, scores.balanced_accuracy, scores.macro_f1, scores.mean_absolute_error) == (1, 1, 1, 0)
    absent = scores.grades[3]
    assert (absent.num_photographs, absent.precision, absent.recall, absent.f1) == (0, None, None, None)
    assert (scores.referable.sensitivity, scores.referable.specificity, scores.referable.auc) == (None, 1.0, None)


def test_grade_never_predicted_has_no_precision_but_an_f1_of_zero() -> None:
    scores = evaluate_predictions([0, 1], [[1.0, 0, 0, 0, 0]] * 2)
    assert (scores.grades[1].precision, scores.grades[1].recall, scores.grades[1].f1) == (None, 0.0, 0.0)
    assert scores.kappa == 0.0


def test_kappa_keeps_the_distance_across_a_missing_grade() -> None:
    assert quadratic_weighted_kappa([0, 0, 4, 4], [0, 0, 4, 4]) == 1.0
    # Without the fixed grades 0-4 scikit-learn would count grade 4 as the neighbor of grade 1.
    grades, predicted = [0, 1, 4, 4, 0], [0, 4, 4, 1, 1]
    expected = sklearn_metrics.cohen_kappa_score(grades, predicted, labels=GRADES, weights="quadratic")
    assert quadratic_weighted_kappa(grades, predicted) == pytest.approx(expected)
    assert quadratic_weighted_kappa([], []) is None
    assert quadratic_weighted_kappa([0, 4], [4, 0]) == -1.0


def test_matrix_has_true_grades_in_rows() -> None:
    matrix = confusion_matrix([1, 1, 4], [0, 0, 4])
    assert (matrix.shape, matrix.dtype) == ((5, 5), np.int64)
    assert (matrix[1, 0], matrix[4, 4], matrix.sum()) == (2, 1, 3)
    assert confusion_matrix([], []).sum() == 0


def test_equal_probabilities_give_the_lower_grade() -> None:
    assert evaluate_predictions([1], [[0.1, 0.4, 0.4, 0.1, 0.0]]).accuracy == 1.0


def test_evaluation_holds_plain_numbers_only() -> None:
    def leaves(value: object) -> list[object]:
        if isinstance(value, dict):
            return [leaf for item in value.values() for leaf in leaves(item)]
        return [leaf for item in value for leaf in leaves(item)] if isinstance(value, tuple) else [value]

    scores: Evaluation = evaluate_predictions(*draw(1))
    assert {type(leaf) for leaf in leaves(dataclasses.asdict(scores))} <= {int, float, type(None)}


CERTAIN = [1.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("grades", "probabilities", "message"),
    [
        ([], np.zeros((0, 5)), "no photographs"),
        ([0, 1], [CERTAIN], r"shape \(1, 5\): expected \(2, 5\)"),
        ([0], [[0.5, 0.5]], r"shape \(1, 2\)"),
        ([[0]], [CERTAIN], r"grades have shape \(1, 1\)"),
        ([5], [CERTAIN], "Row 0 of the grades is 5"),
        ([0, -1], [CERTAIN] * 2, "Row 1 of the grades is -1"),
        ([0.5], [CERTAIN], "is 0.5"),
        ([float("nan")], [CERTAIN], "is nan"),
        (["0"], [CERTAIN], "of type"),
        ([None], [CERTAIN], "of type"),
        ([[0], [1, 2]], [CERTAIN], "not a list of numbers"),
        ([0], [[float("nan"), 0, 0, 0, 1]], "Row 0 of the probabilities"),
        ([0], [[float("inf"), float("-inf"), 0, 0, 1]], "Row 0 of the probabilities"),
        ([0, 0], [CERTAIN, [0.9, 0, 0, 0, 0]], "Row 1 of the probabilities"),
        ([0], [[1.5, -0.5, 0, 0, 0]], "Row 0 of the probabilities"),
        ([0], [["a"] * 5], "not a table of numbers"),
    ],
)
def test_what_cannot_be_scored_is_refused(grades: object, probabilities: object, message: str) -> None:
    with pytest.raises(MetricsError, match=message):
        evaluate_predictions(grades, probabilities)  # type: ignore[arg-type]


def test_matrix_refuses_lists_of_different_length() -> None:
    with pytest.raises(MetricsError, match="2 grades but 1 predicted"):
        confusion_matrix([0, 1], [0])


def test_rows_may_be_a_rounding_error_off() -> None:
    assert evaluate_predictions([0], np.asarray([[0.9995, 0, 0, 0, 0]], dtype=np.float32)).accuracy == 1.0
