"""Heat drawn over a photograph: colors that depend on the heat only, and outlines of hot regions and of lesions.

Under the heat the photograph is shown without color and darkened, as it appears in red-free light: its green channel,
in which hemorrhages, exudates and vessels have most contrast. So every color is heat, whatever the color of the
photograph; and as no part of the photograph is lighter than the darkest color of heat, more heat is lighter
everywhere, also in gray print. The colors are the upper part of Matplotlib's plasma (van der Walt and Smith), which is
perceptually uniform and readable by color-blind people; they begin transparent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.photographs.pixels import Image

if TYPE_CHECKING:
    from fundusgrade.explanation.heat_scale import ShownHeat

MAX_OPACITY = 0.9
OPAQUE_FROM = 0.5
"""Fraction of the shown range from which the color has its full opacity; up to it, opacity rises evenly from 0."""

_FIRST_COLOR = 0.55  # of plasma; mixed with the brightest gray, darker ones would make it darker
_NUM_COLORS = 256
BRIGHTEST = 0.44
"""Largest value of the darkened photograph, 0-1: darker than the first color of heat."""
GROUND = 0.28
"""Value, 0-1, that the median of the retina gets without heat."""

_STRIP_ROWS = 256  # a 12-megapixel photograph as float32 at once would take half a gigabyte
_GAP_PX = 5
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MarkedRegion:
    """A region to outline on the photograph: its name, its mask (H, W), and the color (RGB) of the outline."""

    name: str
    mask: NDArray[np.bool_]
    color: tuple[int, int, int]


def blend(photograph: Image, heat: NDArray[np.float32], *, shown: ShownHeat) -> Image:
    """The photograph (H, W, 3) without color, and over it the colors of its heat map (H, W) >= 0."""
    if heat.shape != photograph.shape[:2]:
        raise ValueError(f"heat map of shape {heat.shape} on a photograph of shape {photograph.shape[:2]}")
    ground = red_free(photograph)
    if not shown.draws(heat):
        return ground
    tinted = np.empty_like(photograph)
    for first in range(0, len(photograph), _STRIP_ROWS):
        rows = slice(first, first + _STRIP_ROWS)
        colors = heat_colors(shown.fractions(heat[rows]))
        pixels = ground[rows].astype(np.float32)
        pixels += colors[..., 3:] * (255 * colors[..., :3] - pixels)
        tinted[rows] = np.rint(pixels)
    return tinted


def heat_colors(fractions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Color and opacity (..., 4) RGBA, 0-1, of heat as a fraction (...) of the shown range, 0-1."""
    table = _color_table()
    return np.asarray(table[np.rint(fractions * (len(table) - 1)).astype(np.intp)], np.float32)


def red_free(photograph: Image) -> Image:
    """The green channel of a photograph (H, W, 3) as a dark gray image (H, W, 3).

    Brightness is set so that the median of the retina is the same on every photograph, but for very dark ones.
    """
    green = photograph[..., 1]
    sampled = green[::4, ::4]
    lit = sampled[sampled > 16]
    middle, top = np.quantile(lit if lit.size else sampled, (0.5, 0.995)).astype(float)
    top = max(top, 1.0)
    # The power that takes the median where it belongs; a photograph is made darker by it, never much flatter.
    exponent = np.clip(np.log(GROUND / BRIGHTEST) / np.log(np.clip(middle / top, 0.05, 0.95)), 0.5, 1.5)
    levels = BRIGHTEST * np.clip(np.arange(256) / top, 0, 1) ** exponent
    return np.repeat(np.rint(255 * levels).astype(np.uint8)[green][..., None], 3, axis=2)


def outline_strongest(image: Image, heat: NDArray[np.float32], *, level: float) -> Image:
    """A copy of the image (H, W, 3) with a white line around regions with heat of at least `level`.

    The line runs outside of a region at a distance, so that even a region of one pixel stays visible.
    """
    weak = (heat < level).astype(np.uint8)
    if weak.all():
        return image.copy()
    distance = cv2.distanceTransform(weak, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    drawn = image.copy()
    drawn[np.abs(distance - _GAP_PX) <= 1.8] = _BLACK  # so that the line is visible on light heat too
    drawn[np.abs(distance - _GAP_PX) <= 0.8] = _WHITE
    return drawn


def outline_regions(image: Image, regions: Sequence[MarkedRegion]) -> Image:
    """A copy of the image (H, W, 3) with a line around each region, in its color."""
    drawn = image.copy()
    thickness = max(1, round(image.shape[1] / 500))
    for region in regions:
        lines, _ = cv2.findContours(region.mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, lines, -1, region.color, thickness)
    return drawn


def _color_table() -> NDArray[np.float32]:
    """The colors (256, 4) from no heat to the end of the scale, RGBA, 0-1."""
    from matplotlib import colormaps

    fractions = np.linspace(0, 1, _NUM_COLORS)
    colors = colormaps["plasma"](_FIRST_COLOR + (1 - _FIRST_COLOR) * fractions)
    colors[:, 3] = MAX_OPACITY * np.minimum(1, fractions / OPAQUE_FROM)
    return np.asarray(colors, np.float32)
