"""Calibration of a trained network's outputs, fitted to validation photographs.

A cumulative head gets slope and intercept of each cut, by logistic regression of "worse than grade k" on its logit
(logistic recalibration: Cox, Biometrika 1958). One temperature for all cuts is the wrong family: it moves every
P(grade > k) towards 0.5, and so probability to grades 0 and 4 (docs/experiments.md, 2026-11-26).

A loss with class weights teaches a softmax the probabilities of a population in which all grades are equally common;
adding `power * log(frequency)` to the logits goes back towards the frequencies of the training split (logit adjustment,
Menon et al., ICLR 2021). One temperature corrects its confidence (Guo et al., ICML 2017). A severity gets the cutpoints
of an ordered logit (McCullagh, JRSS B 1980).

All are fitted by log loss with a weak prior towards no change, which makes the optimum unique where few photographs, or
outputs that hardly differ, leave the log loss flat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import functional

from fundusgrade.metrics.recalibration import fit_recalibration
from fundusgrade.networks.head_logits import grade_logits, log_grade_probabilities
from fundusgrade.networks.heads import MIDPOINTS, SEVERITY_SCALE, Calibration
from fundusgrade.options import Head

# Fractions of the class weights' effect that are undone; 1 undoes it wholly.
UNDONE_FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
LOG_TEMPERATURE_RANGE = (-3.0, 3.0)
# Weight of the prior, in photographs: the log loss of N photographs outweighs it about N times.
PRIOR_PHOTOGRAPHS = 1.0
# Newton's method starts from the best of these inverse temperatures.
_STARTS = tuple(np.exp(np.linspace(*LOG_TEMPERATURE_RANGE, 13)))
_MAX_NEWTON_STEPS = 100


def fit_calibration(
    head: Head,
    outputs: Tensor,
    grades: NDArray[np.int64],
    num_per_grade: NDArray[np.int64],
    *,
    class_weight_power: float,
) -> Calibration:
    """The calibration of least penalized log loss on outputs (N, n) of validation photographs with grades (N,).

    `num_per_grade` (5,) counts the training photographs, `class_weight_power` is the power of the inverse frequency in
    the loss.
    """
    if head is Head.REGRESSION:
        return _fit_cutpoints(outputs, grades)
    if head is Head.CUMULATIVE:
        return _fit_cuts(outputs, grades)
    fractions = UNDONE_FRACTIONS if class_weight_power > 0 else (0.0,)
    starts = [
        Calibration(offsets=frequency_offsets(num_per_grade, fraction * class_weight_power)) for fraction in fractions
    ]
    fitted = [fit_temperature(outputs, grades, start) for start in starts]
    return min(fitted, key=lambda calibration: _log_loss(outputs, grades, calibration))


def fit_temperature(outputs: Tensor, grades: NDArray[np.int64], start: Calibration) -> Calibration:
    """A softmax's calibration `start` with the temperature T of least penalized log loss; no most probable grade moves.

    `outputs` are (N, 5) and `grades` (N,), of the validation split. In 1/T the log loss is convex, and the prior
    strictly convex: there is one optimum, and it moves as little as the outputs do. T lies in exp(-3) to exp(3).
    """
    logits = outputs.double() + torch.tensor(start.offsets, dtype=torch.float64)
    targets = torch.as_tensor(grades)

    def objective(inverse: Tensor) -> Tensor:
        log_loss = torch.nn.functional.cross_entropy(logits * inverse, targets)
        return log_loss + PRIOR_PHOTOGRAPHS / len(targets) * _pull_to_one(inverse).sum()

    inverse_temperature = float(_minimize(objective, [torch.tensor([inverse]) for inverse in _STARTS]))
    log_temperature = np.clip(-np.log(inverse_temperature), *LOG_TEMPERATURE_RANGE)
    return replace(start, temperature=float(np.exp(log_temperature)))


def frequency_offsets(num_per_grade: NDArray[np.int64], power: float) -> tuple[float, ...]:
    """`power * log(frequency)` of each grade; an absent grade counts as half a photograph."""
    counts = np.maximum(np.asarray(num_per_grade, np.float64), 0.5)
    return tuple(float(value) for value in power * np.log(counts / counts.sum()))


def _log_loss(outputs: Tensor, grades: NDArray[np.int64], calibration: Calibration) -> float:
    logits = grade_logits(Head.SOFTMAX, outputs.double(), calibration)
    return float(torch.nn.functional.cross_entropy(logits, torch.as_tensor(grades)))


def _fit_cuts(outputs: Tensor, grades: NDArray[np.int64]) -> Calibration:
    """Slope and intercept of each cut, of least penalized binary cross-entropy, which is strictly convex in both.

    The cuts are fitted one by one: `grade_logits` keeps their probabilities in order.
    """
    logits = outputs.double().numpy()
    fitted = [fit_recalibration(logits[:, cut], grades > cut) for cut in range(logits.shape[1])]
    return Calibration(slopes=tuple(each.slope for each in fitted), intercepts=tuple(each.intercept for each in fitted))


def _fit_cutpoints(outputs: Tensor, grades: NDArray[np.int64]) -> Calibration:
    """Cutpoints and scale of an ordered logit, of least penalized log loss.

    The parameters (5,) are 1/T, the first cutpoint / T, and the steps to the other cutpoints / T, in which the log loss
    is convex (Burridge, JRSS B 1981). The prior keeps 1/T and the steps positive, so that the cutpoints rise.
    """
    severities, targets = outputs.double(), torch.as_tensor(grades)

    def objective(parameters: Tensor) -> Tensor:
        inverse, first, steps = parameters[0], parameters[1], parameters[2:]
        scaled_cutpoints = first + torch.cat([torch.zeros(1, dtype=torch.float64), steps.cumsum(0)])
        worse_than = (severities * inverse - scaled_cutpoints) / SEVERITY_SCALE
        log_loss = torch.nn.functional.nll_loss(log_grade_probabilities(torch.sigmoid(worse_than)), targets)
        prior = _pull_to_one(inverse) + _pull_to_one(steps).sum() + (first - MIDPOINTS[0]).square() / 2
        return log_loss + PRIOR_PHOTOGRAPHS / len(targets) * prior

    uncalibrated = torch.tensor([1.0, MIDPOINTS[0], *np.diff(MIDPOINTS)], dtype=torch.float64)
    optimum = _minimize(objective, [uncalibrated * inverse for inverse in _STARTS]).numpy()
    cutpoints = (optimum[1] + np.concatenate([[0.0], optimum[2:].cumsum()])) / optimum[0]
    return Calibration(temperature=float(1 / optimum[0]), cutpoints=tuple(float(cut) for cut in cutpoints))


def _pull_to_one(positive: Tensor) -> Tensor:
    """Minus the logarithm of a gamma density with mode 1, up to a constant: 0 at 1, and infinite at 0 and infinity."""
    return positive - 1 - positive.log()


def _minimize(objective: Callable[[Tensor], Tensor], starts: list[Tensor]) -> Tensor:
    """The minimum (n,) of a strictly convex function, by Newton's method from the best of the starts.

    Steps that do not lower the function enough are halved (Boyd and Vandenberghe, Convex Optimization, 9.5).
    """
    point = min(starts, key=lambda start: float(objective(start)))
    for _ in range(_MAX_NEWTON_STEPS):
        gradient = functional.jacobian(objective, point)  # type: ignore[no-untyped-call]
        hessian = functional.hessian(objective, point)  # type: ignore[no-untyped-call]
        step = -torch.linalg.solve(hessian, gradient)
        decrease, size = -float(gradient @ step), 1.0
        # Close to the minimum differences of the function are rounding, and whole steps are right.
        while decrease > 1e-10 and not objective(point + size * step) <= objective(point) - 0.25 * size * decrease:
            size /= 2
        point = point + size * step
        if decrease < 1e-14:
            break
    return point
