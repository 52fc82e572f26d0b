"""Find the field of view: where a fundus photograph shows retina, and how it was cut or squashed.

A fundus camera sees the retina through a round aperture, so the retina is a disc on a dark ground. Photographs are cut
above, below or beside that disc, and some data sets squash them to a square, which turns the disc into an ellipse with
its axes along the photograph's sides. So an axis-aligned ellipse is fitted to the part of the outline that is visible:
points on the photograph's own edge are cuts and no outline. Everything is done on a reduced copy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.errors import NoRetinaError
from fundusgrade.photographs.edges import (
    VisibleBounds,
    bright_regions,
    contour_of,
    edge_points,
    outline_points,
    visible_bounds,
)
from fundusgrade.photographs.ellipses import (
    Arc,
    Ellipse,
    EllipseFit,
    Points,
    fit_outline,
    fit_precise_points,
    measure_arc,
)
from fundusgrade.photographs.images import halved
from fundusgrade.photographs.pages import Window, find_bright_windows, without_page
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.several_fields import check_single_field

WORKING_SIZE_PX = 320
_MIN_VISIBLE_FRACTION = 0.35
_MIN_POINTS_FRACTION = 0.12
# An outline is accepted if most of it is round, or if pieces of it that are round lie all around the center, as the
# corners of a photograph cut on four sides do.
_MIN_CONFIDENCE = 0.55 * 60 / 360
_MIN_CORNER_INLIERS_FRACTION = 0.35
_MIN_CORNER_ARC_DEGREES = 45.0
_MIN_CORNER_SPAN_DEGREES = 200.0
_MIN_EDGE_POINTS = 24
_MAX_REFINEMENT_FRACTION = 0.05
# Only the largest regions are tried, and none much smaller than the first.
_MAX_REGIONS, _MIN_REGION_FRACTION = 3, 0.1
# Where nearly all of the outline is that of one ellipse and there is no other large region, it is a single field.
_SINGLE_INLIERS_FRACTION = 0.9
MIN_SECOND_REGION = 0.15
# What is found on a page or in a part of the picture must be a circle, and in a part nearly a whole one.
_MAX_ASPECT, _MIN_WINDOW_CONFIDENCE = 1.15, 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldOfView:
    """An axis-aligned ellipse in photograph pixels: the disc of the aperture, as this photograph shows it.

    `center_x, center_y, radius_x, radius_y` are in pixels, with pixel centers at whole numbers; the ellipse may reach
    beyond the photograph. Retina is visible inside the ellipse between `left` and `right`, `top` and `bottom`: the
    photograph's edges, or a dark bar beside them. `visible_fraction` is the fraction of the ellipse's area that is
    visible, `confidence` (0-1) the fraction of the outline's points that lie on the ellipse, times the fraction of the
    full turn that they cover. `second_region` is the area of the second largest bright region as a fraction of the
    largest, in which the ellipse was found.
    """

    center_x: float
    center_y: float
    radius_x: float
    radius_y: float
    left: float
    top: float
    right: float
    bottom: float
    visible_fraction: float
    confidence: float
    second_region: float = 0.0

    @property
    def aspect(self) -> float:
        """Width over height of the ellipse: 1.0 for a photograph that was not squashed."""
        return self.radius_x / self.radius_y

    def mask(self, *, height: int, width: int) -> NDArray[np.bool_]:
        """Which pixels of the photograph (height, width) show retina."""
        y, x = np.ogrid[:height, :width]
        in_ellipse = np.hypot((x - self.center_x) / self.radius_x, (y - self.center_y) / self.radius_y) <= 1
        in_bounds = (x >= self.left) & (x <= self.right) & (y >= self.top) & (y <= self.bottom)
        return np.asarray(in_ellipse & in_bounds)


def find_field_of_view(photograph: Image) -> FieldOfView:
    """Fit the outline of the aperture in a photograph (H, W, 3) of any size.

    A light page around the retina counts as dark, and a small disc is looked for in the bright part of the picture.
    Raises NoRetinaError where the field of view cannot be located reliably, SeveralFieldsError where there are several.
    """
    height, width = photograph.shape[:2]
    reduced = _reduced(photograph)
    small = without_page(reduced)
    try:
        found = _find_in(small, height=height, width=width)
    except NoRetinaError:
        in_windows = (_find_in_window(photograph, window) for window in find_bright_windows(small))
        in_window = next((found for found in in_windows if found is not None), None)
        if in_window is None:
            raise
        return in_window
    if small is not reduced and not _is_circle(found):
        raise NoRetinaError(
            "no retina found: what stands out from the light page is not round; expected the disc of a fundus camera"
        )
    return found


def _is_circle(found: FieldOfView) -> bool:
    """Whether a disc is not squashed: on a page and in a window, anything else may be something else."""
    return 1 / _MAX_ASPECT <= found.aspect <= _MAX_ASPECT


def _find_in_window(photograph: Image, window: Window) -> FieldOfView | None:
    """The field of view in a part of the photograph, in pixels of the whole; None where there is none."""
    height, width = photograph.shape[:2]
    left, top = int(window.left * width), int(window.top * height)
    part = photograph[top : math.ceil(window.bottom * height), left : math.ceil(window.right * width)]
    try:
        found = _find_in(without_page(_reduced(part)), height=part.shape[0], width=part.shape[1])
    except NoRetinaError:
        return None
    if found.confidence < _MIN_WINDOW_CONFIDENCE or not _is_circle(found):
        return None
    return replace(
        found,
        center_x=found.center_x + left,
        center_y=found.center_y + top,
        left=found.left + left,
        top=found.top + top,
        right=found.right + left,
        bottom=found.bottom + top,
    )


def _find_in(small: Image, *, height: int, width: int) -> FieldOfView:
    """The field of view in a reduced copy, in pixels of the photograph, whose size is given. Raises as the caller."""
    regions = bright_regions(small)
    order = np.argsort(-regions.areas, kind="stable")[:_MAX_REGIONS]
    refused: NoRetinaError | None = None
    for index in order[regions.areas[order] >= _MIN_REGION_FRACTION * regions.areas[order[0]]]:
        try:
            outline = _outline_of(regions.filled(int(index)))
        except NoRetinaError as error:  # the largest region may be a white box beside the retina
            refused = refused or error
            continue
        if regions.second_fraction >= MIN_SECOND_REGION or outline.arc.inlier_fraction < _SINGLE_INLIERS_FRACTION:
            check_single_field(regions, small)
        refined = _refine(outline.fit, small, outline.bounds)
        found = _to_photograph(refined, outline, width / small.shape[1], height / small.shape[0])
        return replace(found, second_region=regions.second_fraction)
    check_single_field(regions, small)
    raise refused or NoRetinaError("no retina found; expected a bright disc on a dark ground")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outline:
    """An ellipse that the outline of a bright region supports, with the part of it that is visible."""

    fit: EllipseFit
    arc: Arc
    bounds: VisibleBounds


def _outline_of(region: NDArray[np.bool_]) -> _Outline:
    """The outline of a bright region (h, w). Raises NoRetinaError where it is not that of an aperture."""
    contour = contour_of(region)
    bounds = visible_bounds(contour, region.shape)
    points = outline_points(contour, bounds)
    _check_outline_is_visible(points, max(region.shape))
    reason = "the bright region has no round outline"
    for fit in fit_outline(points, max(region.shape)):
        arc = measure_arc(fit, points)
        reason = _reason_to_reject(arc, _visible_fraction(fit.ellipse, bounds))
        if not reason:
            return _Outline(fit=fit, arc=arc, bounds=bounds)
    raise NoRetinaError(f"no retina found: {reason}; expected a bright disc on a dark ground")


def _reduced(photograph: Image) -> Image:
    """The photograph with a longer side of at most WORKING_SIZE_PX."""
    height, width = photograph.shape[:2]
    scale = min(1.0, WORKING_SIZE_PX / max(height, width))
    small_size = (max(1, round(width * scale)), max(1, round(height * scale)))
    reduced = photograph
    while max(reduced.shape[:2]) >= 2 * WORKING_SIZE_PX and min(reduced.shape[:2]) >= 2:
        reduced = halved(reduced)
    if scale == 1:
        return photograph
    return np.asarray(cv2.resize(reduced, small_size, interpolation=cv2.INTER_LINEAR), np.uint8)


def _check_outline_is_visible(points: Points, side_px: int) -> None:
    if len(points) < _MIN_POINTS_FRACTION * side_px:
        raise NoRetinaError(
            "no retina found: no outline of a disc is visible inside the photograph; "
            "expected at least part of the dark edge around the retina"
        )


def _reason_to_reject(arc: Arc, visible_fraction: float) -> str:
    """Why the outline does not support an ellipse; empty if it does."""
    if visible_fraction < _MIN_VISIBLE_FRACTION:
        return f"only {visible_fraction:.0%} of the disc would lie inside the photograph"
    surrounds = arc.span_degrees >= _MIN_CORNER_SPAN_DEGREES and arc.covered_degrees >= _MIN_CORNER_ARC_DEGREES
    if arc.confidence >= _MIN_CONFIDENCE or (surrounds and arc.inlier_fraction >= _MIN_CORNER_INLIERS_FRACTION):
        return ""
    return "the outline of the bright region is not round"


def _refine(fit: EllipseFit, small: Image, bounds: VisibleBounds) -> Ellipse:
    """Move the outline to where brightness is halfway between inside and outside, to a fraction of a pixel.

    A threshold low enough for dark retinas places a soft edge too far out. Where too few edges are clear, or where they
    lie far off, the ellipse stays as it was.
    """
    points = edge_points(fit.ellipse, small, bounds)
    # A contour runs through the centers of the outermost pixels inside: the edge is half a pixel further out.
    ellipse: Ellipse = fit.ellipse + np.array([0, 0, 0.5, 0.5])
    if len(points) < _MIN_EDGE_POINTS:
        return ellipse
    refined = fit_precise_points(points)
    moved_px = np.abs(refined - ellipse).max()
    return refined if np.isfinite(moved_px) and moved_px < _MAX_REFINEMENT_FRACTION * ellipse[2:].max() else ellipse


def _to_photograph(ellipse: Ellipse, outline: _Outline, factor_x: float, factor_y: float) -> FieldOfView:
    """From the reduced copy to photograph pixels (pixel centers at whole numbers on both)."""
    bounds = outline.bounds
    center_x, center_y, radius_x, radius_y = (float(v) for v in ellipse)
    # The pixel beside a dark bar is half dark, so it does not count as visible; that on the photograph's own edge does.
    return FieldOfView(
        center_x=(center_x + 0.5) * factor_x - 0.5,
        center_y=(center_y + 0.5) * factor_y - 0.5,
        radius_x=radius_x * factor_x,
        radius_y=radius_y * factor_y,
        left=(bounds.left + (bounds.left > 0)) * factor_x,
        top=(bounds.top + (bounds.top > 0)) * factor_y,
        right=(bounds.right + (bounds.right == bounds.last_column)) * factor_x - 1,
        bottom=(bounds.bottom + (bounds.bottom == bounds.last_row)) * factor_y - 1,
        visible_fraction=_visible_fraction(ellipse, bounds),
        confidence=outline.arc.confidence,
    )


def _visible_fraction(ellipse: Ellipse, bounds: VisibleBounds) -> float:
    """Fraction of the ellipse's area inside the bounds, counted on a grid over the ellipse."""
    center_x, center_y, radius_x, radius_y = ellipse
    grid = (np.arange(128) + 0.5) / 64 - 1
    disc = grid[None] ** 2 + grid[:, None] ** 2 <= 1
    x, y = center_x + radius_x * grid, center_y + radius_y * grid
    inside_x = (x >= bounds.left - 0.5) & (x <= bounds.right + 0.5)
    inside_y = (y >= bounds.top - 0.5) & (y <= bounds.bottom + 0.5)
    return float(np.count_nonzero(disc[inside_y][:, inside_x]) / np.count_nonzero(disc))
