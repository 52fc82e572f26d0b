"""What a network's last layer says, and how that becomes the probabilities of the five grades.

A head is a number of outputs and a reading of them. `softmax` has one for each grade; `regression` one number, the
severity; `cumulative` asks four times "is it worse than k?" (Cheng et al., IJCNN 2008); `corn` asks "is it worse than
k, given that it is worse than k - 1?" (Shi et al., Pattern Analysis and Applications 2023). A `Calibration`, fitted on
validation, says how much confidence the outputs deserve.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fundusgrade.grades import NUM_GRADES
from fundusgrade.options import Head

NUM_CUTS = NUM_GRADES - 1
NO_OFFSETS = (0.0,) * NUM_GRADES
MIDDLES = tuple(grade + 0.5 for grade in range(NUM_CUTS))
NUM_OUTPUTS = {Head.SOFTMAX: NUM_GRADES, Head.REGRESSION: 1, Head.CUMULATIVE: NUM_CUTS, Head.CORN: NUM_CUTS}
# Before it is calibrated, a severity is taken to be right to about this much: the scale of a logistic distribution.
_SEVERITY_SCALE = 0.25
_SMALLEST_PROBABILITY = 1e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How outputs are turned into probabilities.

    `temperature` > 0 divides logits, and is a severity's uncertainty; `offsets` (5) are added to a softmax's logits;
    `cutpoints` (4), rising, are the severities at which a grade and the next are equally likely.
    """

    temperature: float = 1.0
    offsets: tuple[float, ...] = NO_OFFSETS
    cutpoints: tuple[float, ...] = MIDDLES


UNCALIBRATED = Calibration()


def grade_logits(head: Head, outputs: Tensor, calibration: Calibration = UNCALIBRATED) -> Tensor:
    """Outputs (B, n) of a head -> calibrated logits (B, 5), whose softmax are the probabilities of the grades."""
    if head is Head.SOFTMAX:
        offsets = torch.tensor(calibration.offsets, dtype=outputs.dtype, device=outputs.device)
        return (outputs + offsets) / calibration.temperature
    return _from_worse_than(_worse_than(head, outputs, calibration))


def _worse_than(head: Head, outputs: Tensor, calibration: Calibration) -> Tensor:
    """Probabilities (B, 4) that the grade is worse than 0, 1, 2, 3; never rising."""
    if head is Head.REGRESSION:
        cutpoints = torch.tensor(calibration.cutpoints, dtype=outputs.dtype, device=outputs.device)
        return torch.sigmoid((outputs - cutpoints) / (_SEVERITY_SCALE * calibration.temperature))
    steps = torch.sigmoid(outputs / calibration.temperature)
    return steps.cumprod(dim=1) if head is Head.CORN else steps.cummin(dim=1).values


def _from_worse_than(worse: Tensor) -> Tensor:
    whole, none = torch.ones_like(worse[:, :1]), torch.zeros_like(worse[:, :1])
    probabilities = torch.cat([whole, worse], dim=1) - torch.cat([worse, none], dim=1)
    clamped = probabilities.clamp(min=_SMALLEST_PROBABILITY)
    return (clamped / clamped.sum(dim=1, keepdim=True)).log()
