"""The operations of gradients, written by operations that other runtimes know.

The gradient of a convolution to its images is a convolution with the kernel turned by half a turn, of the output's
gradient spread out with zeros where the convolution has a stride (Dumoulin and Visin, arXiv 1603.07285).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from fundusgrade.errors import ExportError

_aten = torch.ops.aten
_COPIES = (
    _aten.alias.default,
    _aten.clone.default,
    _aten.detach.default,
    _aten.lift_fresh_copy.default,
)
_SOFTMAXES = (_aten._softmax.default, _aten._safe_softmax.default)
_VIEWS = (_aten.view.default, _aten._unsafe_view.default)


def simplify(traced: GraphModule) -> None:
    """Leave out copies, since nothing is changed in place any more, and write what OpenVINO does not know otherwise."""
    for node in list(traced.graph.nodes):
        if node.target in _COPIES:
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
        elif node.target in _VIEWS:  # without the copies, memory may be in another order
            node.target = _aten.reshape.default
        elif node.target is _aten._to_copy.default:
            node.target, node.args, node.kwargs = _aten.to.dtype, (node.args[0], node.kwargs["dtype"]), {}
        elif node.target in _SOFTMAXES:
            node.target, node.args, node.kwargs = _aten.softmax.int, node.args[:2], {}
    traced.graph.eliminate_dead_code()
    traced.recompile()


def decompositions() -> dict[Any, Callable[..., Any]]:
    """PyTorch's ways to write operations by simpler ones, where OpenVINO has none, and our own for gradients."""
    decomposed = torch._decomp.get_decompositions(
        [
            _aten.hardtanh_backward, _aten.threshold_backward, _aten.silu_backward, _aten.hardswish_backward,
            _aten.hardsigmoid_backward, _aten.gelu_backward, _aten.sigmoid_backward, _aten.tanh_backward,
            _aten.native_batch_norm, _aten._native_batch_norm_legit_no_training, _aten.native_batch_norm_backward,
            _aten.native_layer_norm, _aten.native_layer_norm_backward, _aten._softmax_backward_data,
            _aten._log_softmax_backward_data, _aten.logsumexp, _aten.masked_fill, _aten.slice_scatter,
        ]
    )  # fmt: skip
    return {
        **decomposed,
        _aten.fill.Scalar: lambda values, value: torch.full(values.shape, value, dtype=values.dtype),
        _aten.convolution_backward.default: _convolution_backward,
        _aten.avg_pool2d_backward.default: _average_pool_backward,
        _aten.max_pool2d_with_indices_backward.default: _max_pool_backward,
        _aten.slice_backward.default: _slice_backward,
        _aten.select_backward.default: _select_backward,
    }


def _convolution_backward(
    gradient: Tensor, images: Tensor, weight: Tensor, bias_sizes: object, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], transposed: bool, output_padding: object, groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor, None, None]:  # fmt: skip
    """The gradient to the images of a convolution (B, C, H, W), as a convolution without a stride."""
    if transposed or tuple(output_mask) != (True, False, False) or weight.ndim != 4:
        raise ExportError("it has a convolution whose gradient is not that of images only")
    reach = [step * (side - 1) for step, side in zip(dilation, weight.shape[2:], strict=True)]
    rows, columns = (
        side + 2 * margin - far for side, margin, far in zip(images.shape[2:], padding, reach, strict=True)
    )
    spread = _spread(gradient, stride, rows, columns)
    margins = [far - margin for far, margin in zip(reach, padding, strict=True)]
    if min(margins) < 0:  # the kernel is smaller than its padding
        down, right = (min(margin, 0) for margin in margins)
        spread = _aten.constant_pad_nd(spread, [right, right, down, down])
        margins = [max(margin, 0) for margin in margins]
    turned = _turned(weight, groups)
    return _aten.convolution(spread, turned, None, [1, 1], margins, dilation, False, [0, 0], groups), None, None


def _spread(gradient: Tensor, stride: Sequence[int], rows: int, columns: int) -> Tensor:
    """The values (B, C, h, w) at every `stride`-th place of (B, C, rows, columns), zeros between and after them."""
    if max(stride) == 1:
        return gradient
    height, width = gradient.shape[2] * stride[0], gradient.shape[3] * stride[1]
    is_value = np.zeros((1, 1, height, width), np.float32)
    is_value[..., :: stride[0], :: stride[1]] = 1
    # OpenVINO repeats and multiplies in a fifth of the time that it takes to write values between zeros.
    repeated = _aten.upsample_nearest2d(gradient, [height, width])
    spread = (repeated * torch.from_numpy(is_value))[:, :, :rows, :columns]
    padded: Tensor = _aten.constant_pad_nd(spread, [0, columns - spread.shape[3], 0, rows - spread.shape[2]])
    return padded


def _turned(weight: Tensor, groups: int) -> Tensor:
    """A kernel (out, in / groups, h, w) with inputs and outputs exchanged, turned by half a turn."""
    num_out, num_in = weight.shape[0] // groups, weight.shape[1]
    by_group = weight.reshape(groups, num_out, num_in, *weight.shape[2:])
    exchanged = by_group.transpose(1, 2).reshape(groups * num_in, num_out, *weight.shape[2:])
    return exchanged.flip(2, 3)


def _average_pool_backward(
    gradient: Tensor, images: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int],
    ceil_mode: bool, count_include_pad: bool, divisor: int | None,
) -> Tensor:  # fmt: skip
    """The gradient to the images (B, C, H, W): that of a convolution with equal weights."""
    stride = stride or kernel
    whole = [
        (side + 2 * margin - length) // step + 1
        for side, margin, length, step in zip(images.shape[2:], padding, kernel, stride, strict=True)
    ]
    is_cut = list(gradient.shape[2:]) != whole or (max(padding) > 0 and not count_include_pad)
    if is_cut or divisor is not None:
        raise ExportError("it averages windows of different sizes")
    num_channels = images.shape[1]
    weight = torch.full((num_channels, 1, *kernel), 1 / (kernel[0] * kernel[1]))
    mask = (True, False, False)
    return _convolution_backward(
        gradient, images, weight, None, stride, padding, [1, 1], False, None, num_channels, mask
    )[0]


def _max_pool_backward(
    gradient: Tensor, images: Tensor, kernel: object, stride: object, padding: object, dilation: object,
    ceil_mode: object, indices: Tensor,
) -> Tensor:  # fmt: skip
    """The gradient to the images (B, C, H, W): each value goes to the place of the largest."""
    zeros = torch.zeros(*images.shape[:2], images.shape[2] * images.shape[3])
    return zeros.scatter_add(2, indices.flatten(2), gradient.flatten(2)).reshape(images.shape)


def _slice_backward(gradient: Tensor, sizes: Sequence[int], dim: int, start: int, end: int, step: int) -> Tensor:
    if step != 1:
        raise ExportError("it takes every second value of something")
    size = sizes[dim]
    start = min(start + size if start < 0 else start, size)
    return _padded(gradient, dim, start, size - start - gradient.shape[dim])


def _select_backward(gradient: Tensor, sizes: Sequence[int], dim: int, index: int) -> Tensor:
    dim, index = dim % len(sizes), index % sizes[dim]
    return _padded(gradient.unsqueeze(dim), dim, index, sizes[dim] - 1 - index)


def _padded(values: Tensor, dim: int, before: int, after: int) -> Tensor:
    """Zeros before and after the values of one dimension."""
    inner = values.ndim - 1 - dim % values.ndim
    padded: Tensor = _aten.constant_pad_nd(values, [0, 0] * inner + [before, after])
    return padded
