"""Scores and probabilities of a target as tensors, with gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from fundusgrade.explanation.targets import EXPECTED, Target
from fundusgrade.grades import REFERABLE_FROM


def target_scores(target: Target, logits: Tensor) -> Tensor:
    """Scores (B,) of a resolved target from logits (B, 5), in the target's unit; differentiable."""
    if target.grade is not None:
        return logits[:, target.grade]
    if target == EXPECTED:
        grades = torch.arange(logits.shape[1], dtype=logits.dtype, device=logits.device)
        return logits.softmax(dim=1) @ grades
    return torch.logsumexp(logits[:, REFERABLE_FROM:], dim=1) - torch.logsumexp(logits[:, :REFERABLE_FROM], dim=1)


def target_probability(target: Target, logits: Tensor) -> Tensor:
    """Probabilities (B,) of a resolved target from logits (B, 5); for the expected grade a quarter of it, 0-1."""
    probabilities = logits.softmax(dim=1)
    if target.grade is not None:
        return probabilities[:, target.grade]
    if target == EXPECTED:
        return target_scores(EXPECTED, logits) / (logits.shape[1] - 1)
    return probabilities[:, REFERABLE_FROM:].sum(dim=1)
