"""Logistic regression with a penalty on the squares of its weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_TOLERANCE = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LogisticRegression:
    """Weights (d,) and intercept of the log-odds."""

    weights: Floats
    intercept: float

    def probabilities(self, inputs: Floats) -> Floats:
        """Probabilities (N,) of inputs (N, d)."""
        from scipy.special import expit

        return np.asarray(expit(inputs @ self.weights + self.intercept), np.float64)


def fit_logistic(inputs: Floats, is_positive: NDArray[np.bool_], *, penalty: float) -> LogisticRegression:
    """Minimize the sum of log losses plus half the penalty times the sum of squared weights; the intercept is free.

    `inputs` (N, d) should be of one scale, `penalty` > 0. Needs positives and negatives. By Newton's method of
    scikit-learn, whose other methods stop earlier.
    """
    from sklearn import linear_model

    regression = linear_model.LogisticRegression(C=1 / penalty, solver="newton-cholesky", tol=_TOLERANCE)
    regression.fit(inputs, is_positive)
    return LogisticRegression(weights=regression.coef_[0], intercept=float(regression.intercept_[0]))
