"""Which part of a preprocessed image a network takes: the band that shows the retina, or the whole square.

Some networks divide an image into windows or grids that fit squares of certain sizes only. Whether one takes a shape is
tried by forward passes on PyTorch's meta device, where tensors have shapes but no values: they take neither memory nor
time, whatever the network's size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import timm
import torch
from torch import nn

from fundusgrade.errors import WeightsUnavailableError
from fundusgrade.networks.build import build_backbone, patch_side_px
from fundusgrade.networks.heads import NUM_OUTPUTS
from fundusgrade.networks.spec import NetworkSpec
from fundusgrade.photographs.recipe import MAX_SIZE_PX, MIN_SIZE_PX
from fundusgrade.text import shortened

# Sides that a network may need a multiple of, if its name tells no patches; the side of its own images is tried too.
_USUAL_MULTIPLE_PX = 32
_MAX_REASON = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedInput:
    """A specification whose shape the network takes, and a line that says so where it is not the band; else None."""

    spec: NetworkSpec
    note: str | None = None


def fit_input(spec: NetworkSpec) -> FittedInput:
    """The specification with the band if the network takes its shape, otherwise with the whole square.

    Raises WeightsUnavailableError, with sizes that it takes, where it takes neither, and where it has no head.
    """
    obstacle = find_obstacle(spec)
    if obstacle is None:
        return FittedInput(spec=spec)
    square = replace(spec, rows=None)
    if spec.rows is not None and find_obstacle(square) is None:
        note = (
            f"input: the whole square of {_size(square)}; {spec.arch} does not take the band of {_size(spec)} "
            f"(height x width): {obstacle}"
        )
        return FittedInput(spec=square, note=note)
    tried = [_size(each) for each in ([spec] if spec.rows is None else [spec, square])]
    raise WeightsUnavailableError(
        f"--arch {spec.arch}: this network takes no images of {' or '.join(tried)} (height x width): {obstacle}; "
        f"{_remedy(square)}"
    )


def find_obstacle(spec: NetworkSpec) -> str | None:
    """Why the network cannot be trained and used on images of the specification's shape; None where it can."""
    return _obstacle(spec, [spec.input_px])


def takes_shapes(spec: NetworkSpec, shapes: Iterable[tuple[int, int]]) -> bool:
    """Whether the network, built for the specification's shape, also takes these, (height, width) in px."""
    return _obstacle(spec, shapes) is None


def _obstacle(spec: NetworkSpec, shapes: Iterable[tuple[int, int]]) -> str | None:
    """The first line of what goes wrong. Any exception may: it is the network's own code that is run."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            backbone = build_backbone(spec)
            for height, width in shapes:
                reason = _cut_patches(backbone, height, width) or _wrong_output(spec, backbone, height, width)
                if reason is not None:
                    return reason
    except WeightsUnavailableError:
        raise
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or f"its code refuses it ({type(error).__name__})"
        return shortened(reason.rstrip("."), _MAX_REASON)
    return None


def _cut_patches(backbone: nn.Module, height: int, width: int) -> str | None:
    """Where patches do not overlap, and the last ones would be cut off without a word: why; else None."""
    projection = getattr(getattr(backbone, "patch_embed", None), "proj", None)
    if not isinstance(projection, nn.Conv2d) or projection.kernel_size != projection.stride:
        return None
    for side_px, patch_px in zip((height, width), projection.kernel_size, strict=True):
        if side_px % patch_px:
            return f"it divides images into patches of {patch_px} px, of which {side_px} px is no multiple"
    return None


def _wrong_output(spec: NetworkSpec, backbone: nn.Module, height: int, width: int) -> str | None:
    """Why a batch of two images does not give the numbers of the head, in training or in use; None if it does."""
    num_outputs = NUM_OUTPUTS[spec.head]
    for is_training in (True, False):
        with torch.no_grad():
            outputs = backbone.train(is_training)(torch.zeros(2, 3, height, width))
        if not isinstance(outputs, torch.Tensor):
            return f"it gives a {type(outputs).__name__} instead of {num_outputs} numbers for each image"
        if outputs.shape != (2, num_outputs):
            shape = " x ".join(map(str, outputs.shape[1:])) or "no"
            return f"it gives {shape} numbers for each image instead of {num_outputs}: it has no classifier"
    return None


def _remedy(square: NetworkSpec) -> str:
    """What to do: prepare the data at a size that the network takes, or choose another network."""
    sizes = [size_px for size_px in _candidate_sizes(square) if find_obstacle(_resized(square, size_px)) is None]
    if not sizes:
        return "choose another network"
    return f"prepare the data again with --size {' or '.join(map(str, sizes))}, which it takes"


def _candidate_sizes(square: NetworkSpec) -> list[int]:
    """Sides of squares that the network may take, in rising order: near those of the data, and of its own images."""
    step = patch_side_px(square) or _USUAL_MULTIPLE_PX
    below = square.size_px // step * step
    sizes = {below, below + step}
    config = None if square.timm_name is None else timm.get_pretrained_cfg(square.timm_name)
    if config is not None:
        sizes.add(int(max(config.input_size[1:])))
    return sorted(size for size in sizes if MIN_SIZE_PX <= size <= MAX_SIZE_PX and size != square.size_px)


def _resized(square: NetworkSpec, size_px: int) -> NetworkSpec:
    return replace(square, size_px=size_px)


def _size(spec: NetworkSpec) -> str:
    height, width = spec.input_px
    return f"{height} x {width} px"
