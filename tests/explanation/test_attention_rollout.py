"""Attention rollout follows the attention of a vision transformer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fundusgrade.errors import ExplanationError
from fundusgrade.explanation.target_scores import target_scores
from fundusgrade.networks.spec import CNN
from fundusgrade.networks.tensors import to_tensor
from fundusgrade.options import Attribution
from tests.explanation.small_networks import SEVERE, build, explained


def test_rollout_follows_the_attention_of_one_block(image: NDArray[np.uint8]) -> None:
    """With one block: the class token's attention times its gradient, positive parts averaged over the heads."""
    network = build("test_vit", depth=1)
    attention: Any = network.backbone.blocks[0].attn  # type: ignore[union-attr, index]
    attention.fused_attn = False
    captured: list[Tensor] = []
    handle = attention.attn_drop.register_forward_hook(lambda module, inputs, output: captured.append(output))
    score = target_scores(SEVERE, network(to_tensor(image)[None]))[0]
    (gradient,) = torch.autograd.grad(score, captured[0])
    handle.remove()
    attention.fused_attn = True
    expected = (captured[0] * gradient).clamp(min=0)[0].mean(dim=0)[0, 1:].reshape(10, 10).detach()
    heat = explained(network, image, method=Attribution.ATTENTION_ROLLOUT)
    assert np.allclose(heat.cells, expected / expected.mean(), rtol=1e-3, atol=1e-5)
    assert attention.fused_attn is True


@pytest.mark.parametrize("name", [CNN, "test_resnet"])
def test_rollout_is_refused_without_attention(name: str, image: NDArray[np.uint8]) -> None:
    with pytest.raises(ExplanationError, match=r"no attention modules; supported are plain vision transformers"):
        explained(build(name), image, method=Attribution.ATTENTION_ROLLOUT)
