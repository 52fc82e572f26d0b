"""Output heads: what the outputs of a network's last layer mean, and the probabilities of the five grades from them.

    softmax     5 logits, one per grade
    regression  1 number, the severity; grades are intervals of it (an ordered logit model with fitted cutpoints)
    cumulative  4 logits of the cumulative probabilities P(grade > k), k = 0 to 3 (Cheng et al., IJCNN 2008)

A `Calibration`, fitted on the validation split, corrects over- or underconfidence.
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
# Scale of the logistic distribution of a severity before calibration.
SEVERITY_SCALE = 0.25
_SMALLEST_PROBABILITY = 1e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Parameters that turn outputs of a head into calibrated probabilities.

    `temperature` > 0 divides the logits, and scales the uncertainty of a severity; `offsets` (5) are added to the
    logits of a softmax head first; `cutpoints` (4), rising, are the severities between two neighboring grades.
    """

    temperature: float = 1.0
    offsets: tuple[float, ...] = NO_OFFSETS
    cutpoints: tuple[float, ...] = MIDPOINTS


UNCALIBRATED = Calibration()


def grade_logits(head: Head, outputs: Tensor, calibration: Calibration = UNCALIBRATED) -> Tensor:
    """Outputs (B, n) of a head, n by NUM_OUTPUTS -> calibrated logits (B, 5): their softmax are the probabilities."""
    if head is Head.SOFTMAX:
        offsets = torch.tensor(calibration.offsets, dtype=outputs.dtype, device=outputs.device)
        return (outputs + offsets) / calibration.temperature
    return _log_differences(_cumulative_probabilities(head, outputs, calibration))


def _cumulative_probabilities(head: Head, outputs: Tensor, calibration: Calibration) -> Tensor:
    """P(grade > k) for k = 0 to 3 (B, 4), never increasing with k."""
    if head is Head.REGRESSION:
        cutpoints = torch.tensor(calibration.cutpoints, dtype=outputs.dtype, device=outputs.device)
        return torch.sigmoid((outputs - cutpoints) / (SEVERITY_SCALE * calibration.temperature))
    return torch.sigmoid(outputs / calibration.temperature).cummin(dim=1).values


def _log_differences(cumulative: Tensor) -> Tensor:
    """log P(grade = k) (B, 5) with P(grade = k) = P(grade > k - 1) - P(grade > k), clamped to stay finite."""
    ones, zeros = torch.ones_like(cumulative[:, :1]), torch.zeros_like(cumulative[:, :1])
    probabilities = torch.cat([ones, cumulative], dim=1) - torch.cat([cumulative, zeros], dim=1)
    clamped = probabilities.clamp(min=_SMALLEST_PROBABILITY)
    return (clamped / clamped.sum(dim=1, keepdim=True)).log()
