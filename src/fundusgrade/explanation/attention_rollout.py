"""Attention of a vision transformer, followed through its blocks: which patches reached the answer, and for what.

Each block's attention is weighed by the gradient of the score, its positive part is averaged over the heads, and the
blocks are multiplied up with the identity for the way past the attention (Chefer et al., ICCV 2021, equations 5 and 6).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fundusgrade.explanation.layers import find_attentions, patch_grid, refusal
from fundusgrade.explanation.targets import Target, target_scores
from fundusgrade.networks.network import GradingNetwork


def attention_rollout(network: GradingNetwork, images: Tensor, target: Target) -> NDArray[np.float32]:
    """How much each patch (h, w) counts in the score of a resolved target; no unit, not negative.

    `pictures` is a batch of one. Gradients must be switched on. Raises ExplanationError for anything but a plain vision
    transformer.
    """
    backbone: Any = network.backbone
    attentions = find_attentions(network)
    rows, columns = patch_grid(network, *_seen(network, images))
    with _shown(attentions) as shown:
        score = target_scores(target, network(images.requires_grad_()))[0]
        if not shown:
            raise refusal(network, "its attention does not pass where it could be read")
        gradients = torch.autograd.grad(score, shown)
    num_tokens = shown[0].shape[-1]
    relevance = torch.eye(num_tokens, device=images.device)
    for attention, gradient in zip(shown, gradients, strict=True):
        weighed = (attention.detach() * gradient)[0].clamp(min=0).mean(dim=0)
        relevance = relevance + weighed @ relevance
    num_prefix = backbone.num_prefix_tokens
    if num_tokens - num_prefix != rows * columns:
        raise refusal(network, f"its {num_tokens - num_prefix} patches are no grid of {rows} x {columns}")
    # What the class token took from each patch; where patches are averaged instead, what they took from each other.
    pools_patches = getattr(backbone, "global_pool", "token") != "token" or num_prefix == 0
    taken = relevance - torch.eye(num_tokens, device=images.device)
    readers = taken[num_prefix:] if pools_patches else taken[:1]
    return readers[:, num_prefix:].mean(dim=0).reshape(rows, columns).cpu().numpy()


def _seen(network: GradingNetwork, images: Tensor) -> tuple[int, int]:
    top, bottom = network.spec.rows or (0, images.shape[2])
    return bottom - top, images.shape[3]


@contextmanager
def _shown(attentions: list[Any]) -> Iterator[list[Tensor]]:
    """Attention matrices (B, heads, T, T) of a pass; fused kernels never form them, so they are switched off."""
    shown: list[Tensor] = []
    fused = [module.fused_attn for module in attentions]

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        shown.append(output)

    handles = [module.attn_drop.register_forward_hook(keep) for module in attentions]
    try:
        for module in attentions:
            module.fused_attn = False
        yield shown
    finally:
        for handle in handles:
            handle.remove()
        for module, was_fused in zip(attentions, fused, strict=True):
            module.fused_attn = was_fused
