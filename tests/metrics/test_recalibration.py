"""Logistic recalibration equals scikit-learn's and a search, and is undefined exactly where no maximum exists."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from fundusgrade.metrics.recalibration import Recalibration, calibration_intercepts, calibration_slopes, log_odds

Outcomes = tuple[NDArray[np.bool_], NDArray[np.float64]]


def outcomes(seed: int, count: int = 200, *, slope: float = 1.0, intercept: float = 0.0) -> Outcomes:
    """Outcomes whose log odds are `intercept` + `slope` times those predicted."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-0.5, 2, count)
    return rng.random(count) < expit(intercept + slope * logits), logits


def random_weights(seed: int, num_rows: int, count: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).poisson(1, (num_rows, count)).astype(np.float32)


@pytest.mark.parametrize("slope", [0.3, 1.0, 2.5])
def test_slopes_are_those_of_scikit_learn(slope: float) -> None:
    positive, logits = outcomes(int(10 * slope), slope=slope, intercept=-1)
    weights = random_weights(1, 6, len(logits))
    for row, ours in zip(weights, calibration_slopes(weights, positive, logits), strict=True):
        fitted = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000).fit(logits[:, None], positive, row)
        assert ours == pytest.approx(fitted.coef_[0, 0], rel=1e-5)


def test_intercepts_are_where_the_expected_number_of_positives_is_the_observed_one() -> None:
    positive, logits = outcomes(3, intercept=1.5)
    weights = random_weights(2, 6, len(logits))
    for row, ours in zip(weights, calibration_intercepts(weights, positive, logits), strict=True):
        excess = lambda shift, row=row: float(row @ (positive - expit(logits + shift)))  # noqa: E731
        assert ours == pytest.approx(brentq(excess, -20, 20, xtol=1e-12), abs=1e-8)


def test_weights_count_photographs_that_are_drawn_twice_or_never() -> None:
    positive, logits = outcomes(4, 60)
    weights = random_weights(3, 1, 60)
    rows = np.repeat(np.arange(60), weights[0].astype(int))
    once = np.ones((1, len(rows)), np.float32)
    for measure in (calibration_slopes, calibration_intercepts):
        assert measure(weights, positive, logits) == pytest.approx(measure(once, positive[rows], logits[rows]))


def test_a_calibrated_model_has_slope_1_and_intercept_0_and_an_overconfident_one_half_the_slope() -> None:
    positive, logits = outcomes(5, 20_000)
    once = np.ones((1, len(logits)), np.float32)
    slope, intercept = calibration_slopes(once, positive, logits)[0], calibration_intercepts(once, positive, logits)[0]
    assert slope == pytest.approx(1, abs=0.05) and intercept == pytest.approx(0, abs=0.08)
    assert calibration_slopes(once, positive, 2 * logits)[0] == pytest.approx(slope / 2, rel=1e-6)
    assert calibration_slopes(once, positive, logits + 3)[0] == pytest.approx(slope, rel=1e-6)
    assert calibration_intercepts(once, positive, logits + 3)[0] == pytest.approx(intercept - 3, abs=1e-6)


def test_the_fit_converges_far_from_its_start() -> None:
    """Newton's full steps from 0 would diverge here: outcomes are nearly separated."""
    logits = np.concatenate([np.linspace(-12, 0.02, 300), np.linspace(-0.02, 12, 300)])
    positive = np.arange(600) >= 300
    once = np.ones((1, 600), np.float32)
    slope = calibration_slopes(once, positive, logits)[0]
    fitted = LogisticRegression(C=np.inf, tol=1e-12, max_iter=100_000, solver="newton-cholesky")
    assert slope == pytest.approx(fitted.fit(logits[:, None], positive).coef_[0, 0], rel=1e-4)
    assert slope > 30


def test_what_no_fit_defines_is_nan() -> None:
    once = np.ones((1, 6), np.float32)
    logits = np.arange(6.0)
    separated, reversed_, tied = logits >= 3, logits < 3, np.array([False, False, False, True, True, True])
    for positive in (separated, reversed_, np.ones(6, bool), np.zeros(6, bool)):
        assert np.isnan(calibration_slopes(once, positive, logits)).all()
    assert np.isnan(calibration_slopes(once, tied, np.array([0.0, 1, 2, 2, 3, 4]))).all(), "one shared value separates"
    assert np.isnan(calibration_slopes(once, tied, np.ones(6))).all(), "the same answer for all"
    assert np.isnan(calibration_intercepts(once, np.ones(6, bool), logits)).all()
    assert np.isfinite(calibration_intercepts(once, separated, logits)).all()
    mixed = np.array([False, True, False, True, False, True])
    weights = np.array([[1] * 6, [1, 0, 1, 0, 1, 0], [0, 0, 1, 1, 0, 0]], np.float32)
    assert np.isnan(calibration_slopes(weights, mixed, logits)).tolist() == [False, True, True]
    assert np.isnan(calibration_intercepts(weights, mixed, logits)).tolist() == [False, True, False]


def test_log_odds_of_certain_answers_are_finite() -> None:
    assert log_odds(np.array([0.5, 0.9])) == pytest.approx([0, np.log(9)])
    assert np.isfinite(log_odds(np.array([0.0, 1.0]))).all()
    assert log_odds(np.array([0.0]))[0] == pytest.approx(-log_odds(np.array([1.0]))[0])


def probabilities_of(count: int, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).dirichlet([0.5] * 5, count)


def test_recalibration_moves_the_log_odds_of_every_grade_or_worse_by_slope_and_intercept() -> None:
    before = probabilities_of(50, 4)
    after = Recalibration(slope=0.6, intercept=-0.4).apply(before)
    for grade in range(1, 5):
        expected = expit(-0.4 + 0.6 * logit(before[:, grade:].sum(axis=1)))
        np.testing.assert_allclose(after[:, grade:].sum(axis=1), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(after.sum(axis=1), 1, atol=1e-12)


def test_slope_one_and_intercept_zero_change_nothing_and_the_inverse_undoes_a_recalibration() -> None:
    before = probabilities_of(50, 5)
    np.testing.assert_allclose(Recalibration(slope=1, intercept=0).apply(before), before, rtol=1e-9, atol=1e-12)
    moved = Recalibration(slope=0.7, intercept=0.3).apply(before)
    np.testing.assert_allclose(Recalibration(slope=1 / 0.7, intercept=-0.3 / 0.7).apply(moved), before, atol=1e-10)


def test_recalibrated_probabilities_of_certain_grades_are_finite_and_keep_their_order() -> None:
    certain = np.concatenate([np.eye(5), probabilities_of(20, 6) ** 30])
    certain /= certain.sum(axis=1, keepdims=True)
    after = Recalibration(slope=3, intercept=-2).apply(certain)
    assert np.isfinite(after).all() and (after >= 0).all()
    before_referable, after_referable = certain[:, 2:].sum(axis=1), after[:, 2:].sum(axis=1)
    assert (np.diff(after_referable[np.argsort(before_referable)]) >= 0).all()
