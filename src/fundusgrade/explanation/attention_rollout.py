"""Attention rollout of a vision transformer, weighted by gradients: which patches contribute to the score.

The attention of each block is multiplied by the gradient of the score, its positive part is averaged over the heads,
and the blocks are multiplied with the identity added for the residual connection (Chefer et al., ICCV 2021, equations 5
and 6).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fundusgrade.explanation.layers import SUPPORTED_ROLLOUT, find_attentions, patch_grid, refusal
from fundusgrade.explanation.target_scores import target_scores
from fundusgrade.explanation.targets import Target
from fundusgrade.networks.network import GradingNetwork


def attention_rollout(network: GradingNetwork, images: Tensor, target: Target) -> NDArray[np.float32]:
    """Relevance (h, w) >= 0 of each patch for the score of a resolved target, without a unit.

    `images` (1, 3, S, S) is a batch of one. Gradients must be enabled and the network in evaluation mode. Raises
    ExplanationError for anything but a plain vision transformer.
    """
    backbone: Any = network.backbone
    attentions = find_attentions(network)
    top, bottom = network.spec.rows or (0, images.shape[2])
    rows, columns = patch_grid(network, bottom - top, images.shape[3])
    with _captured_attention(attentions) as captured:
        score = target_scores(target, network(images.requires_grad_()))[0]
        if not captured:
            raise refusal(network, "its blocks do not call their attention modules")
        num_tokens = captured[0].shape[-1]
        if any(attention.shape[-2:] != (num_tokens, num_tokens) for attention in captured):
            raise refusal(network, "its attention is not between all of its patches", supported=SUPPORTED_ROLLOUT)
        num_patches = num_tokens - backbone.num_prefix_tokens
        if num_patches != rows * columns:
            raise refusal(
                network, f"its attention is not between a grid of {rows} x {columns} patches",
                supported=SUPPORTED_ROLLOUT,
            )  # fmt: skip
        gradients = torch.autograd.grad(score, captured)
    identity = torch.eye(num_tokens, device=images.device)
    relevance = identity
    for attention, gradient in zip(captured, gradients, strict=True):
        weighted = (attention.detach() * gradient)[0].clamp(min=0).mean(dim=0)
        relevance = relevance + weighted @ relevance
    num_prefix = backbone.num_prefix_tokens
    # Relevance for the class token; for all patches where the network averages them instead.
    averages_patches = getattr(backbone, "global_pool", "token") != "token" or num_prefix == 0
    relevance = relevance - identity
    readers = relevance[num_prefix:] if averages_patches else relevance[:1]
    return readers[:, num_prefix:].mean(dim=0).reshape(rows, columns).cpu().numpy()


@contextmanager
def _captured_attention(attentions: list[Any]) -> Iterator[list[Tensor]]:
    """Attention matrices (1, heads, T, T) of a forward pass; fused kernels, which never form them, are disabled."""
    captured: list[Tensor] = []
    fused = [module.fused_attn for module in attentions]

    def capture(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        captured.append(output)

    handles = [module.attn_drop.register_forward_hook(capture) for module in attentions]
    try:
        for module in attentions:
            module.fused_attn = False
        yield captured
    finally:
        for handle in handles:
            handle.remove()
        for module, was_fused in zip(attentions, fused, strict=True):
            module.fused_attn = was_fused
