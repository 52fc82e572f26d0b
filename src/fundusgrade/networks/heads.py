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

import torch
from torch import Tensor

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
_SMALLEST_PROBABILITY = 1e-7


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


def grade_logits(head: Head, outputs: Tensor, calibration: Calibration = UNCALIBRATED) -> Tensor:
    """Outputs (B, n) of a head, n by NUM_OUTPUTS -> calibrated logits (B, 5): their softmax are the probabilities."""
    if head is Head.SOFTMAX:
        return (outputs + _like(outputs, calibration.offsets)) / calibration.temperature
    if head is Head.REGRESSION:
        scale = SEVERITY_SCALE * calibration.temperature
        return log_grade_probabilities(torch.sigmoid((outputs - _like(outputs, calibration.cutpoints)) / scale))
    logits = outputs * _like(outputs, calibration.slopes) + _like(outputs, calibration.intercepts)
    return log_grade_probabilities(torch.sigmoid(_falling(logits)))


def _falling(logits: Tensor) -> Tensor:
    """Cumulative logits (B, 4), each lowered to at least `MARGIN` below the one before it."""
    steps = MARGIN * torch.arange(NUM_CUTS, dtype=logits.dtype, device=logits.device)
    return (logits + steps).cummin(dim=1).values - steps


def _like(outputs: Tensor, values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=outputs.dtype, device=outputs.device)


def log_grade_probabilities(cumulative: Tensor) -> Tensor:
    """log P(grade = k) (B, 5) from P(grade > k), k = 0 to 3 (B, 4): that of differences of neighbors, kept finite."""
    ones, zeros = torch.ones_like(cumulative[:, :1]), torch.zeros_like(cumulative[:, :1])
    probabilities = torch.cat([ones, cumulative], dim=1) - torch.cat([cumulative, zeros], dim=1)
    clamped = probabilities.clamp(min=_SMALLEST_PROBABILITY)
    return (clamped / clamped.sum(dim=1, keepdim=True)).log()
