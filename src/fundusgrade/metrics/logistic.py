"""Logistic regression with a penalty on the squares of its weights, by Newton's method."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_MAX_STEPS = 100
_TOLERANCE = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LogisticRegression:
    """Weights (d,) and intercept of the log-odds."""

    weights: Floats
    intercept: float

    def probabilities(self, inputs: Floats) -> Floats:
        """Probabilities (N,) of inputs (N, d)."""
        return _logistic(inputs @ self.weights + self.intercept)


def fit_logistic(inputs: Floats, is_positive: NDArray[np.bool_], *, penalty: float) -> LogisticRegression:
    """Minimize the sum of log losses plus half the penalty times the sum of squared weights; the intercept is free.

    `inputs` (N, d) should be of one scale, `penalty` > 0. Needs positives and negatives. Steps that do not reduce the
    loss are halved, so that it converges from anywhere.
    """
    design = np.column_stack([inputs, np.ones(len(inputs))])
    ridge = np.full(design.shape[1], penalty)
    ridge[-1] = 0.0
    coefficients, targets = np.zeros(design.shape[1]), is_positive.astype(np.float64)
    loss = _loss(design, targets, coefficients, ridge)
    for _ in range(_MAX_STEPS):
        p = _logistic(design @ coefficients)
        gradient = design.T @ (p - targets) + ridge * coefficients
        curvature = (design.T * (p * (1 - p))) @ design + np.diag(ridge + 1e-10)
        step = np.linalg.solve(curvature, gradient)
        while (lower := _loss(design, targets, coefficients - step, ridge)) > loss and np.abs(step).max() > _TOLERANCE:
            step = step / 2
        coefficients, loss = coefficients - step, min(lower, loss)
        if np.abs(step).max() <= _TOLERANCE:
            break
    return LogisticRegression(weights=coefficients[:-1], intercept=float(coefficients[-1]))


def _logistic(log_odds: Floats) -> Floats:
    return np.asarray(np.exp(-np.logaddexp(0, -log_odds)), np.float64)


def _loss(design: Floats, targets: Floats, coefficients: Floats, ridge: Floats) -> float:
    log_odds = design @ coefficients
    return float((np.logaddexp(0, log_odds) - targets * log_odds).sum() + (ridge * coefficients**2).sum() / 2)
