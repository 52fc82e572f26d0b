"""The losses of each head, and the class weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fundusgrade.errors import TrainingError
from fundusgrade.grades import NUM_GRADES
from fundusgrade.networks.heads import NUM_CUTS
from fundusgrade.options import ClassWeights, Head, Loss

# The first loss of a head is its default.
HEAD_LOSSES = {
    Head.SOFTMAX: (Loss.CROSS_ENTROPY, Loss.SOFT_LABELS, Loss.DISTANCE),
    Head.REGRESSION: (Loss.SMOOTH_L1, Loss.SQUARED),
    Head.CUMULATIVE: (Loss.CROSS_ENTROPY,),
}
# Weight of the expected squared distance beside the cross-entropy.
DISTANCE_WEIGHT = 0.25


def resolve_head_and_loss(head: Head | None, loss: Loss | None) -> tuple[Head, Loss]:
    """Head and loss, each by default one that fits the other. Raises TrainingError where they do not fit."""
    if head is None:
        fitting = [candidate for candidate, losses in HEAD_LOSSES.items() if loss in losses]
        head = fitting[0] if fitting else Head.SOFTMAX
    if loss is None:
        loss = HEAD_LOSSES[head][0]
    if loss not in HEAD_LOSSES[head]:
        fitting_losses = ", ".join(candidate.value for candidate in HEAD_LOSSES[head])
        raise TrainingError(f"--loss {loss.value} cannot train a {head.value} head; expected {fitting_losses}")
    return head, loss


def graded_loss(
    head: Head, loss: Loss, outputs: Tensor, grades: Tensor, weights: Tensor, targets: Tensor | None = None
) -> Tensor:
    """Weighted mean loss () of floating-point outputs (B, n) for grades (B,) int64 with weights (B,).

    `targets` (B, 5) are probabilities of the grades that cross-entropies take instead of the grades.
    """
    if targets is None:
        losses = _photograph_losses(head, loss, outputs, grades)
    else:
        losses = _losses_of_targets(head, outputs, targets)
    return (losses * weights).sum() / weights.sum().clamp(min=1e-12)


def _losses_of_targets(head: Head, outputs: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy (B,) of each photograph with probabilities (B, 5) of its grade."""
    if head is Head.SOFTMAX:
        return functional.cross_entropy(outputs, targets.to(outputs.dtype), reduction="none")
    above = targets.flip(1).cumsum(1).flip(1)[:, 1:].to(outputs.dtype).clamp(0, 1)
    return functional.binary_cross_entropy_with_logits(outputs, above, reduction="none").sum(dim=1)


def _photograph_losses(head: Head, loss: Loss, outputs: Tensor, grades: Tensor) -> Tensor:
    """The loss (B,) of each photograph."""
    if head is Head.SOFTMAX:
        return _softmax_loss(loss, outputs, grades)
    if head is Head.REGRESSION:
        severity, target = outputs[:, 0], grades.to(outputs.dtype)
        if loss is Loss.SMOOTH_L1:
            return functional.smooth_l1_loss(severity, target, reduction="none")
        return functional.mse_loss(severity, target, reduction="none")
    is_worse = (grades[:, None] > torch.arange(NUM_CUTS, device=grades.device)).to(outputs.dtype)
    return functional.binary_cross_entropy_with_logits(outputs, is_worse, reduction="none").sum(dim=1)


def _softmax_loss(loss: Loss, logits: Tensor, grades: Tensor) -> Tensor:
    if loss is Loss.CROSS_ENTROPY:
        return functional.cross_entropy(logits, grades, reduction="none")
    squared = (torch.arange(NUM_GRADES, device=grades.device) - grades[:, None]).float().square()
    if loss is Loss.SOFT_LABELS:  # SORD, Diaz and Marathe, CVPR 2019
        return functional.cross_entropy(logits, torch.softmax(-squared, dim=1), reduction="none")
    expected = (torch.softmax(logits, dim=1) * squared).sum(dim=1)
    return functional.cross_entropy(logits, grades, reduction="none") + DISTANCE_WEIGHT * expected


# A class weight is the inverse frequency to this power: 1 is the reference's loss, 0.5 a softer one, 0 none. Effective
# numbers are no power; over the counts of a few thousand photographs they come close to this one.
CLASS_WEIGHT_POWERS = {
    ClassWeights.INVERSE: 1.0,
    ClassWeights.SQRT: 0.5,
    ClassWeights.EFFECTIVE: 0.75,
    ClassWeights.NONE: 0.0,
}
_EFFECTIVE_BETA = 0.999


def class_weights(grades: Tensor, kind: ClassWeights) -> Tensor:
    """Weights (5,) of the grades, with mean 1 over the photographs; absent grades get 0."""
    counts = torch.bincount(grades, minlength=NUM_GRADES).float()
    if kind is ClassWeights.EFFECTIVE:
        raw = (1 - _EFFECTIVE_BETA) / (1 - _EFFECTIVE_BETA ** counts.clamp(min=1))
    else:
        raw = counts.clamp(min=1) ** -CLASS_WEIGHT_POWERS[kind]
    raw = torch.where(counts > 0, raw, 0.0)
    return raw * counts.sum() / (raw * counts).sum()
