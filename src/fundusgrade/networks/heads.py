"""Output heads: what the outputs of a network's last layer mean, and the probabilities of the five grades from them.

    softmax     5 logits, one per grade
    regression  1 number, the severity; grades are intervals of it (an ordered logit model with fitted cutpoints)
    cumulative  4 logits of the cumulative probabilities P(grade > k), k = 0 to 3 (Cheng et al., IJCNN 2008)

Nothing in a cumulative head keeps P(grade > k) from increasing with k. Each of its logits, calibrated, is lowered to at
least `MARGIN` below the one before it, so that probabilities fall with k and every grade has a positive probability.

A `Calibration`, fitted to validation photographs, corrects over- or underconfidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusgrade.grades import NUM_GRADES
from fundusgrade.options import Head

NUM_CUTS = NUM_GRADES - 1
NO_OFFSETS = (0.0,) * NUM_GRADES
MIDPOINTS = tuple(grade + 0.5 for grade in range(NUM_CUTS))
NUM_OUTPUTS = {Head.SOFTMAX: NUM_GRADES, Head.REGRESSION: 1, Head.CUMULATIVE: NUM_CUTS}
MARGIN = 0.1
"""Least distance of two neighboring cumulative logits after calibration."""
NO_SLOPES = (1.0,) * NUM_CUTS
NO_INTERCEPTS = (0.0,) * NUM_CUTS
# Scale of the logistic distribution of a severity before calibration.
SEVERITY_SCALE = 0.25
SMALLEST_PROBABILITY = 1e-7
"""Least probability of a grade before probabilities are normalized."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Parameters that turn outputs of a head into calibrated probabilities.

    `temperature` > 0 divides the logits of a softmax head, after `offsets` (5) are added to them, and scales the
    uncertainty of a severity; `cutpoints` (4), rising, are the severities between two neighboring grades. Each logit of
    a cumulative head is multiplied by its slope > 0 in `slopes` (4), then its intercept in `intercepts` (4) is added.
    """

    temperature: float = 1.0
    offsets: tuple[float, ...] = NO_OFFSETS
    cutpoints: tuple[float, ...] = MIDPOINTS
    slopes: tuple[float, ...] = NO_SLOPES
    intercepts: tuple[float, ...] = NO_INTERCEPTS


UNCALIBRATED = Calibration()


def grade_probabilities(
    head: Head, outputs: NDArray[np.floating], calibration: Calibration = UNCALIBRATED
) -> NDArray[np.float64]:
    """Outputs (B, n) of a head, n by NUM_OUTPUTS -> probabilities (B, 5) float64.

    They are the softmax of `head_logits.grade_logits`, which has gradients.
    """
    if head is Head.SOFTMAX:
        logits = calibrated_logits(head, outputs, calibration)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), np.float64)
    values = outputs.astype(np.float64)
    if head is Head.REGRESSION:
        scale = SEVERITY_SCALE * calibration.temperature
        return _from_cumulative(_sigmoid((values - np.array(calibration.cutpoints)) / scale))
    logits = values * np.array(calibration.slopes) + np.array(calibration.intercepts)
    steps = MARGIN * np.arange(NUM_CUTS)
    return _from_cumulative(_sigmoid(np.minimum.accumulate(logits + steps, axis=1) - steps))


def calibrated_logits(
    head: Head, outputs: NDArray[np.floating], calibration: Calibration = UNCALIBRATED
) -> NDArray[np.float64]:
    """Outputs (B, n) of a head -> calibrated logits (B, 5), as `head_logits.grade_logits`, without gradients."""
    if head is Head.SOFTMAX:
        shifted = outputs.astype(np.float64) + np.array(calibration.offsets)
        return np.asarray(shifted / calibration.temperature, np.float64)
    return np.asarray(np.log(grade_probabilities(head, outputs, calibration)), np.float64)


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)), written so that nothing overflows."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)), np.float64)


def _from_cumulative(cumulative: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(grade = k) (B, 5) from P(grade > k), k = 0 to 3 (B, 4)."""
    clamped = np.maximum(-np.diff(cumulative, axis=1, prepend=1.0, append=0.0), SMALLEST_PROBABILITY)
    return np.asarray(clamped / clamped.sum(axis=1, keepdims=True), np.float64)
