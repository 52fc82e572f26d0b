"""The gradient of strided depthwise convolutions in bfloat16, computed as a convolution without a stride.

On processors PyTorch 2.14's gradient of such a layer takes ten times as long as its output: four of the 64 convolutions
of EfficientNet-Lite2 took half of the time of integrated gradients. The same sum is a convolution of the output's
gradient, spread out with zeros between its values, with the kernel turned by half a turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor
from torch.overrides import TorchFunctionMode


class FastStridedGradients(TorchFunctionMode):
    """Within this context, strided depthwise convolutions of a CPU's bfloat16 autocast have the faster gradient.

    It is that to the images only: weights get none. Outputs do not change.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call a function of PyTorch; a strided depthwise convolution by our own gradient."""
        named: Mapping[str, Any] = kwargs or {}
        if function is functional.conv2d and _is_in_bfloat16(args[0]):
            replaced = _strided_depthwise(*args, **named)
            if replaced is not None:
                return replaced
        return function(*args, **named)


def _is_in_bfloat16(images: Tensor) -> bool:
    return (
        images.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )


def _strided_depthwise(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: str | int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Tensor | None:
    """The convolution of images (B, C, H, W), or None where it is not depthwise, has no stride, or needs more."""
    is_depthwise = 1 < groups == images.shape[1] == weight.shape[0]
    if not is_depthwise or isinstance(padding, str) or weight.requires_grad or _pair(dilation) != (1, 1):
        return None
    steps, margins = _pair(stride), _pair(padding)
    if max(steps) == 1 or any(side < margin + 1 for side, margin in zip(weight.shape[2:], margins, strict=True)):
        return None
    halved = [None if each is None else each.to(torch.bfloat16) for each in (images, weight, bias)]
    output: Tensor = _StridedDepthwise.apply(*halved, steps, margins)
    return output


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


class _StridedDepthwise(torch.autograd.Function):
    """A depthwise convolution (B, C, H, W) -> (B, C, h, w) by a kernel (C, 1, kh, kw)."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        """The convolution; weight and geometry are kept for the gradient."""
        ctx.save_for_backward(weight)
        ctx.shape, ctx.stride, ctx.padding = images.shape, stride, padding
        return functional.conv2d(images, weight, bias, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient with respect to the images."""
        (weight,), (gradient,) = ctx.saved_tensors, gradients
        num_images, num_channels, height, width = ctx.shape
        (kernel_height, kernel_width), (margin_y, margin_x) = weight.shape[2:], ctx.padding
        spread = torch.empty(
            (
                num_images,
                num_channels,
                height + 2 * margin_y - kernel_height + 1,
                width + 2 * margin_x - kernel_width + 1,
            ),
            dtype=gradient.dtype,
            memory_format=torch.channels_last,
        ).zero_()
        spread[:, :, :: ctx.stride[0], :: ctx.stride[1]] = gradient
        turned, margins = weight.flip(2, 3), (kernel_height - 1 - margin_y, kernel_width - 1 - margin_x)
        of_images = functional.conv2d(spread, turned, None, 1, margins, 1, num_channels)
        return of_images, None, None, None, None
