"""The edge of a camera's aperture in a photograph: the bright region, its contour, and points on the edge.

Everything is done on a reduced photograph (h, w, 3); points are (N, 2) arrays of x and y in its pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.errors import NoRetinaError
from fundusgrade.photographs.ellipses import Ellipse, Points
from fundusgrade.photographs.pixels import Image

# Below this spread between the dark and the bright part of a photograph (of 255) no region is bright.
MIN_CONTRAST = 12.0
_PURE_BLACK = 3.0
# A pixel belongs to the bright region from this fraction of the way from the dark level to the bright level on.
_EDGE_FRACTION = 0.12
# A straight side of the bright region longer than this fraction of the photograph's longer side is a cut: a disc
# touches its bounding box along a sixth of that side at most.
_CUT_CHORD_FRACTION = 0.3
_CUT_MARGIN_PX = 3
# Brightness is followed this far to both sides of the outline.
_PROFILE_REACH_PX = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VisibleBounds:
    """The rectangle of the reduced photograph in which retina can be visible; first and last pixel, both included."""

    left: int
    top: int
    right: int
    bottom: int
    last_column: int
    last_row: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BrightRegions:
    """Connected bright regions: `labels` (h, w), 0 where it is dark, and the `areas` of labels 1, 2, ... in px."""

    labels: NDArray[np.int32]
    areas: NDArray[np.int64]

    def largest(self) -> NDArray[np.bool_]:
        """The largest region (h, w), holes filled, whatever its shape."""
        return self.filled(int(np.argmax(self.areas)))

    def filled(self, index: int) -> NDArray[np.bool_]:
        """The region of this index (h, w), counted from 0, holes filled."""
        region = (self.labels == 1 + index).astype(np.uint8)
        contours, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        filled = np.zeros_like(region)
        cv2.drawContours(filled, contours, -1, 1, thickness=cv2.FILLED)
        return np.asarray(filled, np.bool_)

    @property
    def second_fraction(self) -> float:
        """The area of the second largest region as a fraction of the largest; 0 where there is one only."""
        largest, second = sorted([0, *self.areas.tolist()], reverse=True)[:2]
        return float(second / largest)


def bright_region(small: Image) -> NDArray[np.bool_]:
    """The largest bright region (h, w) of a reduced photograph, holes filled. Raises as `bright_regions`."""
    return bright_regions(small).largest()


def bright_regions(small: Image) -> BrightRegions:
    """The bright regions of a reduced photograph.

    Brightness is the strongest channel, because the retina is red and not gray. Raises NoRetinaError where nothing is
    bright.
    """
    value = cv2.medianBlur(strongest_channel(small), 5)
    inner = _without_black_margin(value)
    counts = count_levels(inner)
    dark, bright = quantile_level(counts, 0.005), quantile_level(counts, 0.9)
    if bright - dark < MIN_CONTRAST:
        raise NoRetinaError(
            f"no retina found: the photograph is nearly uniform (brightness {dark:.0f} to {bright:.0f} of 255); "
            "expected a bright disc on a dark ground"
        )
    binary = (value > dark + _EDGE_FRACTION * (bright - dark)).astype(np.uint8)
    binary = cv2.morphologyEx(binary, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    num_labels, labels, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=4)
    if num_labels < 2:
        raise NoRetinaError(
            "no retina found: no bright region in the photograph; expected a bright disc on a dark ground"
        )
    return BrightRegions(labels=np.asarray(labels, np.int32), areas=np.asarray(stats[1:, cv2.CC_STAT_AREA], np.int64))


def count_levels(values: NDArray[np.uint8], mask: NDArray[np.uint8] | None = None) -> NDArray[np.int64]:
    """How many pixels of (h, w) have each level, (256,): all pixels, or those where the mask (h, w) is not 0."""
    return np.asarray(cv2.calcHist([values], [0], mask, [256], [0, 256]).ravel(), np.int64)


def quantile_level(counts: NDArray[np.int64], fraction: float) -> float:
    """The level, 0-255, that this fraction of the counted pixels does not exceed."""
    cumulated = np.cumsum(counts)
    return float(np.searchsorted(cumulated, fraction * cumulated[-1]))


def strongest_channel(image: Image) -> NDArray[np.uint8]:
    """The largest of each pixel's three values, (h, w)."""
    red, green, blue = cv2.split(image)
    return np.asarray(cv2.max(cv2.max(red, green), blue), np.uint8)


def _without_black_margin(value: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The part inside a margin of pure black: beside it even a camera's own dark ground would look bright."""
    is_lit = value > _PURE_BLACK
    rows, columns = np.flatnonzero(is_lit.any(axis=1)), np.flatnonzero(is_lit.any(axis=0))
    return value if len(rows) == 0 else value[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def contour_of(region: NDArray[np.bool_]) -> Points:
    """The outermost pixels (N, 2) of a region (h, w)."""
    contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(max(contours, key=len)[:, 0, :], np.float64)


def visible_bounds(contour: Points, shape: tuple[int, ...]) -> VisibleBounds:
    """The edges of the photograph, moved in to where a straight side of the contour shows a dark bar over the disc."""
    height, width = shape
    (left, top), (right, bottom) = contour.min(axis=0).astype(int), contour.max(axis=0).astype(int)
    longest = _CUT_CHORD_FRACTION * max(height, width)
    x, y = contour[:, 0], contour[:, 1]
    return VisibleBounds(
        left=int(left) if (x <= left + 2).sum() > longest else 0,
        top=int(top) if (y <= top + 2).sum() > longest else 0,
        right=int(right) if (x >= right - 2).sum() > longest else width - 1,
        bottom=int(bottom) if (y >= bottom - 2).sum() > longest else height - 1,
        last_column=width - 1,
        last_row=height - 1,
    )


def outline_points(contour: Points, bounds: VisibleBounds) -> Points:
    """Contour points (N, 2) that lie well inside the bounds, on which the disc is cut and does not end."""
    x, y = contour[:, 0], contour[:, 1]
    inside_x = (x >= bounds.left + _CUT_MARGIN_PX) & (x <= bounds.right - _CUT_MARGIN_PX)
    inside_y = (y >= bounds.top + _CUT_MARGIN_PX) & (y <= bounds.bottom - _CUT_MARGIN_PX)
    return np.asarray(contour[inside_x & inside_y], np.float64)


def edge_points(ellipse: Ellipse, small: Image, bounds: VisibleBounds) -> Points:
    """Points (N, 2) on normals of the ellipse where a clear fall of brightness is half done."""
    angles = np.radians(np.arange(0, 360, 3))
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    normals = directions / ellipse[2:]
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    offsets = np.arange(-_PROFILE_REACH_PX, _PROFILE_REACH_PX + 0.25, 0.5)
    places = (ellipse[:2] + ellipse[2:] * directions)[:, None] + offsets[None, :, None] * normals[:, None]
    low, high = np.array([bounds.left, bounds.top]) + 1, np.array([bounds.right, bounds.bottom]) - 1
    places = places[((places >= low) & (places <= high)).all(axis=(1, 2))]
    if len(places) == 0:
        return np.zeros((0, 2))
    brightness = cv2.GaussianBlur(strongest_channel(small).astype(np.float32), (0, 0), 0.7)
    profile = cv2.remap(
        brightness, places[..., 0].astype(np.float32), places[..., 1].astype(np.float32), cv2.INTER_LINEAR
    )
    inside, outside = profile[:, :4].mean(axis=1), profile[:, -4:].mean(axis=1)
    is_above = profile > ((inside + outside) / 2)[:, None]
    last = is_above.shape[1] - 1 - is_above[:, ::-1].argmax(axis=1)
    is_clear = (inside - outside > 0.5 * np.median(inside - outside)) & (inside - outside > MIN_CONTRAST / 2)
    is_clear &= is_above.any(axis=1) & (last < is_above.shape[1] - 1)
    rows, last = np.flatnonzero(is_clear), last[is_clear]
    before, after = profile[rows, last], profile[rows, last + 1]
    fraction = (before - (inside + outside)[rows] / 2) / np.maximum(before - after, 1e-6)
    points = places[rows, last] + fraction[:, None] * (places[rows, last + 1] - places[rows, last])
    return np.asarray(points, np.float64)
