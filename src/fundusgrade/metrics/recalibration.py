"""Logistic recalibration: slope and intercept of the log odds of an outcome on those that a model predicts.

A slope of 1 and an intercept of 0 are perfect. A slope below 1 means that probabilities are too extreme, an intercept
below 0 that they are too high on average (Cox, Biometrika 1958; Van Calster et al., BMC Medicine 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SMALLEST_PROBABILITY = 5e-7
"""Files of predictions hold six digits: a probability that is written as 0 may be as much as this."""

_ROWS_AT_ONCE = 128
_MAX_STEPS = 200
_TOLERANCE = 1e-9
_SMALL_DECREASE = 1e-8
PRIOR_PHOTOGRAPHS = 10.0
"""Weight of the prior of `fit_recalibration`, in photographs: chosen by cross-validation on 27 to 550 photographs."""
# Newton's method starts from the best of these slopes.
_STARTS = np.exp(np.linspace(-3, 3, 13))
# The smallest number whose logarithm is finite: a probability may be exactly 0.
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalibration:
    """A slope above 0 and an intercept for the log odds of "this grade or worse", the same for every grade.

    One slope for all keeps these probabilities falling with the grade, so that those of the grades stay 0 or more, and
    no two photographs change places in the probability of any grade or worse.
    """

    slope: float
    intercept: float

    def apply(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Recalibrated probabilities (N, 5) of probabilities (N, 5); their rows sum to 1."""
        from scipy.special import expit

        worse = probabilities[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
        better = probabilities.cumsum(axis=1)[:, :-1]
        # Both tails are summed by themselves: 1 minus a tail would lose what is small.
        logits = np.log(np.maximum(worse, _TINY)) - np.log(np.maximum(better, _TINY))
        moved = self.slope * logits + self.intercept
        # expit(a) - expit(b), without subtracting numbers that are nearly equal.
        inner = expit(moved[:, :-1]) * expit(-moved[:, 1:]) * -np.expm1(moved[:, 1:] - moved[:, :-1])
        table = np.concatenate([expit(-moved[:, :1]), np.maximum(inner, 0.0), expit(moved[:, -1:])], axis=1)
        return np.asarray(table / table.sum(axis=1, keepdims=True), np.float64)


def fit_recalibration(logits: NDArray[np.float64], positive: NDArray[np.bool_]) -> Recalibration:
    """Slope and intercept of log odds (N,) of an outcome (N,), of least log loss with a prior towards no change.

    The prior is a gamma density of the slope with mode 1, which keeps it above 0, and a normal one of the intercept;
    it weighs as much as 10 photographs. The function is strictly convex: Newton's method, steps halved where they do
    not lower it enough (Boyd and Vandenberghe, Convex Optimization, 9.5).
    """
    inputs = np.stack([logits, np.ones_like(logits)], axis=1)
    target = positive.astype(np.float64)

    def objective(point: NDArray[np.float64]) -> float:
        slope, intercept = point
        if slope <= 0:
            return np.inf
        moved = inputs @ point
        return float((np.logaddexp(0, moved) - target * moved).sum() + PRIOR_PHOTOGRAPHS * _prior(slope, intercept))

    point = min((np.array([slope, 0.0]) for slope in _STARTS), key=objective)
    for _ in range(_MAX_STEPS):
        step, decrease = _newton_step(point, inputs, target)
        size = 1.0
        # Close to the minimum differences of the function are rounding, and whole steps are right.
        while decrease > _SMALL_DECREASE and not (
            objective(point + size * step) <= objective(point) - 0.25 * size * decrease
        ):
            size /= 2
        point = point + size * step
        if decrease < _TOLERANCE**2:
            break
    return Recalibration(slope=float(point[0]), intercept=float(point[1]))


def _prior(slope: float, intercept: float) -> float:
    """Minus the logarithm of the prior's density, up to a constant: 0 where nothing changes."""
    return slope - 1 - float(np.log(slope)) + intercept**2 / 2


def _newton_step(
    point: NDArray[np.float64], inputs: NDArray[np.float64], target: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """The step of Newton's method from slope and intercept (2,), and twice the decrease that it predicts."""
    from scipy.special import expit

    slope, intercept = point
    predicted = expit(inputs @ point)
    gradient = inputs.T @ (predicted - target) + PRIOR_PHOTOGRAPHS * np.array([1 - 1 / slope, intercept])
    curvature = (inputs * (predicted * (1 - predicted))[:, None]).T @ inputs
    curvature += PRIOR_PHOTOGRAPHS * np.diag([1 / slope**2, 1.0])
    step = -np.linalg.solve(curvature, gradient)
    return step, float(-gradient @ step)


def log_odds(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log odds (N,) of probabilities (N,); those of 0 and 1 are finite, as of rounded ones."""
    bounded = np.clip(probabilities, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return np.asarray(np.log(bounded / (1 - bounded)), np.float64)


def calibration_slopes(
    weights: NDArray[np.float32], positive: NDArray[np.bool_], logits: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Slope (M,) of a weighted logistic regression of outcomes (N,) on log odds (N,), for each row of weights (M, N).

    NaN where none is finite: all outcomes are alike, or a limit of the log odds separates them (Albert and Anderson,
    Biometrika 1984).
    """
    lowest_positive, highest_positive = _range(weights[:, positive], logits[positive])
    lowest_negative, highest_negative = _range(weights[:, ~positive], logits[~positive])
    is_finite = (highest_negative > lowest_positive) & (highest_positive > lowest_negative)
    inputs = np.stack([np.ones(len(logits)), logits], axis=1)
    return _coefficients(weights, positive, inputs, np.zeros(len(logits)), is_finite)[:, 1]


def calibration_intercepts(
    weights: NDArray[np.float32], positive: NDArray[np.bool_], logits: NDArray[np.float64]
) -> NDArray[np.float64]:
    """As `calibration_slopes`, the intercept (M,) where the slope is 1: calibration in the large.

    NaN where all outcomes are alike.
    """
    num_positive, num_negative = weights[:, positive].sum(axis=1), weights[:, ~positive].sum(axis=1)
    is_finite = (num_positive > 0) & (num_negative > 0)
    return _coefficients(weights, positive, np.ones((len(logits), 1)), logits, is_finite)[:, 0]


def _range(
    weights: NDArray[np.float32], logits: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lowest and the highest log odds (M,) of the photographs that are in each row; NaN where there are none."""
    order = np.argsort(logits, kind="stable")
    is_drawn = weights[:, order] > 0
    if not is_drawn.shape[1]:
        nothing = np.full(len(weights), np.nan)
        return nothing, nothing
    ordered = logits[order]
    lowest, highest = ordered[is_drawn.argmax(axis=1)], ordered[::-1][is_drawn[:, ::-1].argmax(axis=1)]
    has_any = is_drawn.any(axis=1)
    return np.where(has_any, lowest, np.nan), np.where(has_any, highest, np.nan)


def _coefficients(
    weights: NDArray[np.float32],
    positive: NDArray[np.bool_],
    inputs: NDArray[np.float64],
    offset: NDArray[np.float64],
    is_finite: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Coefficients (M, K) of weighted logistic regressions of outcomes (N,) on inputs (N, K) with an offset (N,)."""
    coefficients = np.full((len(weights), inputs.shape[1]), np.nan)
    rows = np.flatnonzero(is_finite)
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        batch = rows[first : first + _ROWS_AT_ONCE]
        coefficients[batch] = _fit(weights[batch].astype(np.float64), positive, inputs, offset)
    return coefficients


def _fit(
    weights: NDArray[np.float64], positive: NDArray[np.bool_], inputs: NDArray[np.float64], offset: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Newton's method, its steps shortened so that it converges from anywhere.

    A step that changes the log odds by at most r is taken log(1 + r) / r times (Bach, Electronic Journal of Statistics
    2010; Sun and Tran-Dinh, Mathematical Programming 2019).
    """
    from scipy.special import expit

    num_inputs = inputs.shape[1]
    products = (inputs[:, :, None] * inputs[:, None, :]).reshape(len(inputs), -1)
    coefficients = np.zeros((len(weights), num_inputs))
    for _ in range(_MAX_STEPS):
        predicted = expit(coefficients @ inputs.T + offset)
        gradient = (weights * (positive - predicted)) @ inputs
        curvature = (weights * predicted * (1 - predicted)) @ products
        step = np.linalg.solve(curvature.reshape(-1, num_inputs, num_inputs), gradient[..., None])[..., 0]
        reach = np.abs(step @ inputs.T).max(axis=1)
        coefficients += step * np.where(reach > 0, np.log1p(reach) / np.maximum(reach, 1e-300), 1.0)[:, None]
        if reach.max() < _TOLERANCE:
            break
    return coefficients
