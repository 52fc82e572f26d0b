"""Progressive resizing: the first epochs are trained on smaller images, in two thirds of the time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fundusgrade.networks.tensors import LabeledImages

# The end of a stage, as a fraction of the epochs, and the width of its images as a fraction of the full width.
_STAGES = ((0.4, 2 / 3), (0.7, 5 / 6))
# Networks halve the resolution five times; bands of fewer rows than a square image lose the least with multiples of 16.
_WIDTH_STEP_PX = 32
_ROW_STEP = 16


def epoch_size_px(size_px: int, epoch: int, num_epochs: int) -> int:
    """The width of the training images of an epoch, counted from 1; the full width in the last 30 % of the epochs.

    Smaller images first, as in Tan and Le, EfficientNetV2, ICML 2021.
    """
    for end, fraction in _STAGES:
        if epoch - 1 < end * num_epochs - 1e-9:
            return min(size_px, max(_WIDTH_STEP_PX, round(size_px * fraction / _WIDTH_STEP_PX) * _WIDTH_STEP_PX))
    return size_px


def training_shapes(full_px: int, rows: tuple[int, int] | None, num_epochs: int) -> list[tuple[int, int]]:
    """Heights and widths, in px, of the images of all epochs; the full ones have full_px a side and these rows."""
    sizes = sorted({epoch_size_px(full_px, epoch, num_epochs) for epoch in range(1, num_epochs + 1)})
    shapes = []
    for size_px in sizes:
        top, bottom = (rows if size_px == full_px else _scaled_rows(rows, full_px, size_px)) or (0, size_px)
        shapes.append((bottom - top, size_px))
    return shapes


def _scaled_rows(rows: tuple[int, int] | None, full_px: int, size_px: int) -> tuple[int, int] | None:
    """Rows of images that are scaled from full_px to size_px a side: a multiple of 16 around the middle."""
    if rows is None:
        return None
    height = max(_ROW_STEP, round((rows[1] - rows[0]) * size_px / full_px / _ROW_STEP) * _ROW_STEP)
    top = (size_px - height) // 2
    return top, top + height


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """What augmentation computes of an image: its width, the rows, all if None, and the outline, if there is one."""

    size_px: int
    rows: tuple[int, int] | None
    outline: Tensor | None


def scaled_frame(images: LabeledImages, size_px: int | None, device: torch.device) -> Frame:
    """The frame of images that are scaled to a width of `size_px`, as they are where it is None; outlines on a device.

    The number of rows is a multiple of 16, around the middle.
    """
    rows, outline, full_px = images.rows, images.outline, images.stored.shape[3]
    size_px = size_px or full_px
    if size_px != full_px:
        rows = _scaled_rows(rows, full_px, size_px)
        if outline is not None:
            outline = functional.interpolate(outline[None, None].float(), (size_px, size_px), mode="area")[0, 0] > 0.5
    return Frame(size_px=size_px, rows=rows, outline=None if outline is None else outline.to(device))
