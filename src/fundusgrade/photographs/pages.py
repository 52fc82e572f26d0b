"""A retina on a light page, or small in a large dark picture: where to look for it.

The field of view is found as a bright disc on a dark ground. A page of one light color around it, as in documents and
slides, is darkened first; and where a disc is so small that it hardly counts among the picture's pixels, as in what
a telephone took through a lens, it is looked for in the part of the picture that is bright.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.photographs.edges import strongest_channel
from fundusgrade.photographs.pixels import Image

# The page has one color in at least three corners, lighter than the ground of a camera and not as red as a retina.
_CORNER_FRACTION = 0.02
_MIN_PAGE_LEVEL = 48
_MAX_PAGE_REDNESS = 0.25
_MIN_CORNERS = 3
_COLOR_TOLERANCE = 20
_MIN_PAGE_FRACTION = 0.05
_RIM_PX = 1
# A window is worth while if it is this much smaller than the picture; around what is bright it has this margin.
_MAX_WINDOW_FRACTION = 0.7
_MAX_WINDOWS = 3
_MARGIN_FRACTION = 0.15
_MIN_REGION_FRACTION = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A part of a picture, as fractions of its width and height."""

    left: float
    top: float
    right: float
    bottom: float


def without_page(small: Image) -> Image:
    """A reduced photograph with the light page around its retina black; unchanged where it has none."""
    colors = _corner_colors(small)
    if (colors.max(axis=1) >= _MIN_PAGE_LEVEL).sum() < _MIN_CORNERS:
        return small
    page = np.median(colors, axis=0)
    is_page = np.abs(colors - page).max(axis=1) <= _COLOR_TOLERANCE
    redness = (page[0] - page[2]) / max(page[0], 1.0)
    if redness > _MAX_PAGE_REDNESS or is_page.sum() < _MIN_CORNERS:
        return small
    is_background = _connected_to_edge(
        np.asarray(np.abs(small - page.astype(np.int16)).max(axis=2) <= _COLOR_TOLERANCE)
    )
    if is_background.mean() < _MIN_PAGE_FRACTION:
        return small
    rim = np.ones((2 * _RIM_PX + 1, 2 * _RIM_PX + 1), np.uint8)
    darkened = small.copy()
    darkened[cv2.dilate(is_background.astype(np.uint8), rim) > 0] = 0
    return darkened


def _corner_colors(small: Image) -> NDArray[np.float64]:
    """The mean color of each corner, (4, 3)."""
    height, width = small.shape[:2]
    side = max(2, round(_CORNER_FRACTION * min(height, width)))
    rows, columns = (slice(0, side), slice(height - side, None)), (slice(0, side), slice(width - side, None))
    return np.array([cv2.mean(small[row, column])[:3] for row in rows for column in columns])


def _connected_to_edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The parts of a mask (h, w) that reach an edge of the picture."""
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    at_edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return np.asarray(np.isin(labels, at_edge[at_edge > 0]))


def find_bright_windows(small: Image) -> list[Window]:
    """Parts of a reduced photograph to look for a small disc: around all that is bright, and around each large region.

    None that is nearly all of the picture.
    """
    value = cv2.medianBlur(strongest_channel(small), 3)
    _, binary = cv2.threshold(value, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    _, _, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=4)
    regions = stats[1:][np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable")]
    if len(regions) == 0:
        return []
    regions = regions[regions[:, cv2.CC_STAT_AREA] >= _MIN_REGION_FRACTION * regions[0, cv2.CC_STAT_AREA]]
    groups = [regions, *(region[None] for region in regions[:_MAX_WINDOWS] if len(regions) > 1)]
    windows = [_window_around(group, height=small.shape[0], width=small.shape[1]) for group in groups]
    return [
        window
        for window in windows
        if (window.right - window.left) * (window.bottom - window.top) <= _MAX_WINDOW_FRACTION
    ]


def _window_around(regions: NDArray[np.int32], *, height: int, width: int) -> Window:
    """The part of a picture of this size that holds regions (N, 5), given by OpenCV's statistics, with a margin."""
    left, top = regions[:, cv2.CC_STAT_LEFT].min(), regions[:, cv2.CC_STAT_TOP].min()
    right = (regions[:, cv2.CC_STAT_LEFT] + regions[:, cv2.CC_STAT_WIDTH]).max()
    bottom = (regions[:, cv2.CC_STAT_TOP] + regions[:, cv2.CC_STAT_HEIGHT]).max()
    margin = _MARGIN_FRACTION * max(right - left, bottom - top) + 2
    return Window(
        left=max(0.0, float(left - margin) / width),
        top=max(0.0, float(top - margin) / height),
        right=min(1.0, float(right + margin) / width),
        bottom=min(1.0, float(bottom + margin) / height),
    )
