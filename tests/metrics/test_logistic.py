"""Penalized logistic regression against scikit-learn, and where it could diverge."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fundusgrade.metrics.logistic import fit_logistic


@pytest.mark.parametrize("penalty", [0.5, 10.0, 1000.0])
def test_weights_are_those_of_scikit_learn(penalty: float) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(200, 6))
    is_positive = inputs @ rng.normal(size=6) + rng.normal(size=200) > 0.5
    expected = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10_000).fit(inputs, is_positive)
    fitted = fit_logistic(inputs, is_positive, penalty=penalty)
    assert fitted.weights == pytest.approx(expected.coef_[0], abs=1e-5)
    assert fitted.intercept == pytest.approx(expected.intercept_[0], abs=1e-5)
    assert fitted.probabilities(inputs) == pytest.approx(expected.predict_proba(inputs)[:, 1], abs=1e-5)


def test_separable_and_huge_inputs_converge() -> None:
    inputs = np.array([[-400.0], [-300.0], [300.0], [500.0]])
    fitted = fit_logistic(inputs, np.array([False, False, True, True]), penalty=1.0)
    gradient = inputs.T @ (fitted.probabilities(inputs) - [0, 0, 1, 1]) + fitted.weights
    assert np.isfinite(fitted.weights).all() and np.abs(gradient).max() < 1e-5
