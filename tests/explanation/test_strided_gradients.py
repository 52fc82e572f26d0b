"""The faster gradient of strided depthwise convolutions equals PyTorch's, and nothing else is touched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from fundusgrade.explanation.strided_gradients import FastStridedGradients

CHANNELS = 6


def gradients_of(weight: Tensor, images: Tensor, *, is_fast: bool, **options: Any) -> tuple[Tensor, Tensor, str]:
    """Output, gradient of a weighted sum of it, and the name of the operation, in bfloat16."""
    leaf = images.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        if is_fast:
            with FastStridedGradients():
                output = functional.conv2d(leaf, weight, **options)
        else:
            output = functional.conv2d(leaf, weight, **options)
    factors = torch.linspace(-1, 1, output.numel()).reshape(output.shape)
    (gradient,) = torch.autograd.grad((output.float() * factors).sum(), leaf)
    return output, gradient, output.grad_fn.name() if output.grad_fn is not None else ""


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("stride", [2, (2, 1), 3])
@pytest.mark.parametrize("padding", [0, 1, (2, 0)])
@pytest.mark.parametrize("size", [(17, 12), (16, 21)])
def test_the_gradient_of_a_strided_depthwise_convolution_is_that_of_pytorch(
    stride: Any, padding: Any, size: tuple[int, int]
) -> None:
    weight, images = drawn(CHANNELS, 1, 5, 3), drawn(2, CHANNELS, *size, seed=1)
    options = {"stride": stride, "padding": padding, "groups": CHANNELS, "bias": drawn(CHANNELS, seed=2)}
    output, gradient, _ = gradients_of(weight, images, is_fast=False, **options)
    fast_output, fast_gradient, name = gradients_of(weight, images, is_fast=True, **options)
    assert "StridedDepthwise" in name
    assert torch.equal(fast_output, output)
    assert torch.allclose(fast_gradient, gradient, rtol=0.02, atol=0.02 * float(gradient.abs().max()))


@pytest.mark.parametrize(
    ("weight_shape", "options"),
    [
        ((CHANNELS, 1, 3, 3), {"groups": CHANNELS}),
        ((CHANNELS, CHANNELS, 3, 3), {"stride": 2}),
        ((2 * CHANNELS, 1, 3, 3), {"stride": 2, "groups": CHANNELS}),
        ((CHANNELS, 1, 3, 3), {"stride": 2, "groups": CHANNELS, "dilation": 2}),
        ((CHANNELS, 1, 1, 1), {"stride": 2, "groups": CHANNELS, "padding": 1}),
    ],
)
def test_other_convolutions_are_left_alone(weight_shape: tuple[int, ...], options: dict[str, Any]) -> None:
    weight, images = drawn(*weight_shape), drawn(2, CHANNELS, 16, 16, seed=1)
    _, gradient, _ = gradients_of(weight, images, is_fast=False, **options)
    _, fast_gradient, name = gradients_of(weight, images, is_fast=True, **options)
    assert "StridedDepthwise" not in name
    assert torch.equal(fast_gradient, gradient)


def test_a_weight_that_needs_a_gradient_gets_it() -> None:
    weight = drawn(CHANNELS, 1, 3, 3).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16), FastStridedGradients():
        output = functional.conv2d(drawn(1, CHANNELS, 9, 9), weight, stride=2, groups=CHANNELS)
    output.float().sum().backward()
    assert weight.grad is not None and bool(weight.grad.any())


def test_float32_is_computed_by_pytorch() -> None:
    leaf = drawn(1, CHANNELS, 9, 9).requires_grad_()
    with FastStridedGradients():
        output = functional.conv2d(leaf, drawn(CHANNELS, 1, 3, 3), stride=2, groups=CHANNELS)
    assert output.dtype == torch.float32
    assert output.grad_fn is not None and "StridedDepthwise" not in output.grad_fn.name()
