"""Heat drawn over a photograph, on a scale in units of the score, with outlines of hot regions and of lesions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.photographs.pixels import Image

MAX_OPACITY = 0.65
OUTLINE_FRACTION = 0.5
"""Regions with heat of at least this fraction of the scale are outlined."""

# Blue to cyan in CIELAB with equal steps of lightness: hues that no retina has and that color-blind readers see. The
# usual color maps end in yellow, which on a retina is the color of exudates and of the optic disc.
_COLOR_ANCHORS = ((47, 18, -67), (58, -5, -50), (69, -20, -39), (80, -34, -27), (91, -48, -14))
_STRIP_ROWS = 256  # a 12-megapixel photograph as float32 at once would take half a gigabyte
_GAP_PX = 5
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MarkedRegion:
    """A region to outline on the photograph: its name, its mask (H, W), and the color (RGB) of the outline."""

    name: str
    mask: NDArray[np.bool_]
    color: tuple[int, int, int]


def blend(photograph: Image, heat: NDArray[np.float32], *, scale_max: float) -> Image:
    """Tint the photograph (H, W, 3) by its heat map (H, W) >= 0.

    Opacity is proportional to the heat, up to `MAX_OPACITY` at `scale_max`; pixels without heat are not changed.
    """
    if heat.shape != photograph.shape[:2]:
        raise ValueError(f"heat map of shape {heat.shape} on a photograph of shape {photograph.shape[:2]}")
    colors = _colors()
    tinted = np.empty_like(photograph)
    for first in range(0, len(photograph), _STRIP_ROWS):
        rows = slice(first, first + _STRIP_ROWS)
        strength = np.clip(heat[rows] / scale_max, 0.0, 1.0)
        pixels = photograph[rows].astype(np.float32)
        color = colors[np.rint(strength * (len(colors) - 1)).astype(np.intp)]
        pixels += (MAX_OPACITY * strength)[..., None] * (color - pixels)
        tinted[rows] = np.rint(pixels)
    return tinted


def outline_strongest(image: Image, heat: NDArray[np.float32], *, scale_max: float) -> Image:
    """A copy of the image (H, W, 3) with a line around regions of at least `OUTLINE_FRACTION` of the scale.

    The line runs outside of a region at a distance, so that even a region of one pixel stays visible.
    """
    weak = (heat < OUTLINE_FRACTION * scale_max).astype(np.uint8)
    if weak.all():
        return image.copy()
    distance = cv2.distanceTransform(weak, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    drawn = image.copy()
    drawn[np.abs(distance - _GAP_PX) <= 1.5] = _BLACK  # so that the line is visible on white exudates too
    drawn[np.abs(distance - _GAP_PX) <= 0.5] = _WHITE
    return drawn


def outline_regions(image: Image, regions: Sequence[MarkedRegion]) -> Image:
    """A copy of the image (H, W, 3) with a line around each region, in its color."""
    drawn = image.copy()
    for region in regions:
        lines, _ = cv2.findContours(region.mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, lines, -1, region.color, 1)
    return drawn


def _colors() -> NDArray[np.float32]:
    """The color map as (256, 3) RGB, 0-255."""
    anchors = np.array(_COLOR_ANCHORS, np.float64)
    steps = np.linspace(0, len(anchors) - 1, 256)
    lab = np.stack([np.interp(steps, np.arange(len(anchors)), channel) for channel in anchors.T], axis=1)
    rgb = cv2.cvtColor(lab[None].astype(np.float32), cv2.COLOR_LAB2RGB)[0]
    return np.asarray(255 * np.clip(rgb, 0, 1), np.float32)
