"""Outputs of a head -> calibrated logits as tensors, with gradients: for training and for explanations.

`heads.grade_probabilities` computes their softmax without PyTorch, and is what grades photographs.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from fundusgrade.networks.heads import (
    MARGIN,
    NUM_CUTS,
    SEVERITY_SCALE,
    SMALLEST_PROBABILITY,
    UNCALIBRATED,
    Calibration,
)
from fundusgrade.options import Head


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
    # One minimum after the other: other runtimes have no cumulative one.
    return torch.stack(list(accumulate((logits + steps).unbind(dim=1), torch.minimum)), dim=1) - steps


def _like(outputs: Tensor, values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=outputs.dtype, device=outputs.device)


def log_grade_probabilities(cumulative: Tensor) -> Tensor:
    """log P(grade = k) (B, 5) from P(grade > k), k = 0 to 3 (B, 4): that of differences of neighbors, kept finite."""
    ones, zeros = torch.ones_like(cumulative[:, :1]), torch.zeros_like(cumulative[:, :1])
    probabilities = torch.cat([ones, cumulative], dim=1) - torch.cat([cumulative, zeros], dim=1)
    clamped = probabilities.clamp(min=SMALLEST_PROBABILITY)
    return (clamped / clamped.sum(dim=1, keepdim=True)).log()
