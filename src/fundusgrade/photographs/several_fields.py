"""Several round fields in one picture: two eyes side by side, a montage, a contact sheet.

One of them would be graded, and which one could hang on a few pixels. The outlines of all large bright regions are
fitted one ellipse after the other, each to the points that those before left over. Two ellipses are two fields if they
are of similar size, filled, and each has its arc outside of the other: the edge of a shadow or of a second aperture
lies inside of the disc that it cuts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.errors import SeveralFieldsError
from fundusgrade.photographs.edges import BrightRegions, contour_of, outline_points, visible_bounds
from fundusgrade.photographs.ellipses import EllipseFit, Points, fit_circle, fit_outline, measure_arc
from fundusgrade.photographs.pixels import Image

_MIN_REGION_FRACTION = 0.15
_MAX_REGIONS, _MAX_FIELDS_IN_REGION = 12, 5
_MIN_POINTS, _MIN_POINTS_FRACTION = 16, 0.12
_MIN_ARC_DEGREES = 45.0
_MIN_FILLED_FRACTION = 0.85
_MIN_SIZE_RATIO, _MIN_SIZE_PX = 0.5, 20.0
_MIN_REDNESS = 0.05
_MAX_NOTCH_FRACTION = 0.01
_MIN_EXPLAINED_FRACTION, _MIN_EXPLAINED_OF_OVERLAPPING, _SINGLE_INLIERS_FRACTION = 0.5, 0.9, 0.85
_MIN_HOLE_FRACTION = 0.005
_CORE_DEPTH = 0.7
_MAX_ASPECT = 2.6
# In radii of the other ellipse: how far off a center must be, and from where on a point is outside.
_MIN_DISTANCE, _OUTSIDE_FROM = 0.7, 1.03
_MIN_OUTSIDE_FRACTION = 0.85


def check_single_field(regions: BrightRegions, small: Image) -> None:
    """Raise SeveralFieldsError where the bright regions of a reduced photograph (h, w, 3) are several fields."""
    found = [field for region in _large_regions(regions) for field in _fields_of(region)]
    fields = _side_by_side([field for field in found if field.shows_retina(regions.labels > 0, small)])
    if len(fields) > 1:
        raise SeveralFieldsError(
            f"{len(fields)} round fields in one picture, as of two eyes or of a montage; cut the picture into one file "
            "for each, so that each is graded"
        )


class _Field:
    """An ellipse in px of the reduced photograph, and the points (N, 2) of its arc."""

    def __init__(self, fit: EllipseFit, points: Points) -> None:
        self.ellipse = fit.ellipse
        self.arc = points[fit.inliers]

    @property
    def size_px(self) -> float:
        """The geometric mean of both radii."""
        return float(np.sqrt(self.ellipse[2] * self.ellipse[3]))

    def distance(self, points: Points) -> NDArray[np.float64]:
        """0 at the center, 1 on the ellipse."""
        return np.asarray(np.hypot(*((points - self.ellipse[:2]) / self.ellipse[2:]).T), np.float64)

    def is_beside(self, other: _Field) -> bool:
        """Whether both are fields, and neither is the edge of a shadow on the other."""
        ratio = min(self.size_px, other.size_px) / max(self.size_px, other.size_px)
        pairs = ((self, other), (other, self))
        return ratio >= _MIN_SIZE_RATIO and all(
            one.distance(two.ellipse[None, :2])[0] >= _MIN_DISTANCE
            and (one.distance(two.arc) >= _OUTSIDE_FROM).mean() >= _MIN_OUTSIDE_FRACTION
            for one, two in pairs
        )

    def shows_retina(self, foreground: NDArray[np.bool_], small: Image) -> bool:
        """Whether the ellipse is bright in all of its area inside the picture, and redder than blue."""
        height, width = foreground.shape
        grid = (np.arange(48) + 0.5) / 24 - 1
        unit = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
        x, y = np.rint(self.ellipse[:2] + self.ellipse[2:] * unit[np.hypot(*unit.T) <= 0.95]).astype(int).T
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        if not inside.any():
            return False
        red, _, blue = np.median(small[y[inside], x[inside]], axis=0)
        is_red = red - blue > _MIN_REDNESS * (red + blue)
        return bool(is_red and foreground[y[inside], x[inside]].mean() >= _MIN_FILLED_FRACTION)


def _large_regions(regions: BrightRegions) -> list[NDArray[np.bool_]]:
    """The large bright regions (h, w), with their small holes filled; large ones lie between discs that touch."""
    order = np.argsort(-regions.areas, kind="stable")[:_MAX_REGIONS]
    least_area = _MIN_REGION_FRACTION * regions.areas[order[0]]
    return [
        _with_small_holes_filled(regions.labels == 1 + index, regions.filled(int(index)))
        for index in order
        if regions.areas[index] >= least_area
    ]


def _with_small_holes_filled(region: NDArray[np.bool_], filled: NDArray[np.bool_]) -> NDArray[np.bool_]:
    _, labels, stats, _ = cv2.connectedComponentsWithStats((filled & ~region).astype(np.uint8), connectivity=8)
    is_large = stats[:, cv2.CC_STAT_AREA] >= _MIN_HOLE_FRACTION * filled.sum()
    is_large[0] = False
    return np.asarray(filled & ~is_large[labels])


def _fields_of(region: NDArray[np.bool_]) -> list[_Field]:
    """The fields in one region, which touch or overlap where they are several."""
    contour = contour_of(region)
    bounds = visible_bounds(contour, region.shape)
    contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    points = outline_points(np.concatenate([each[:, 0] for each in contours]).astype(np.float64), bounds)
    if _is_convex(contour):
        of_ellipses = _fit_fields(points, _side_px(contour), _fit_ellipse, _MIN_EXPLAINED_FRACTION)
        if of_ellipses and len(of_ellipses[0].arc) >= _SINGLE_INLIERS_FRACTION * len(points):
            return of_ellipses[:1]
        return _fit_fields(points, _side_px(contour), fit_circle, _MIN_EXPLAINED_OF_OVERLAPPING)
    parts = [part for part in _parts_of(region, points) if len(part) >= _MIN_POINTS]
    if len(parts) > 1:
        of_parts = (_fit_fields(part, _side_px(part), _fit_ellipse, _MIN_EXPLAINED_FRACTION) for part in parts)
        return [field for fields in of_parts for field in fields[:1]]
    of_ellipses = _fit_fields(points, _side_px(contour), _fit_ellipse, _MIN_EXPLAINED_OF_OVERLAPPING)
    of_circles = _fit_fields(points, _side_px(contour), fit_circle, _MIN_EXPLAINED_OF_OVERLAPPING)
    return max(of_ellipses, of_circles, key=lambda fields: len(_side_by_side(fields)))


def _side_by_side(fields: Sequence[_Field]) -> list[_Field]:
    """The most fields that are beside each other, found by beginning with each: the first fit may surround all."""
    groups: list[list[_Field]] = [[]]
    for first in fields:
        chosen = [first]
        for field in fields:
            if all(field.is_beside(other) for other in chosen):
                chosen.append(field)
        groups.append(chosen)
    return max(groups, key=len)


def _side_px(points: Points) -> int:
    return round(float((points.max(axis=0) - points.min(axis=0)).max()) + 1)


def _fit_ellipse(points: Points, side_px: int) -> EllipseFit | None:
    return next(iter(fit_outline(points, side_px, _MAX_ASPECT)), None)


def _fit_fields(
    points: Points, side_px: int, fit: Callable[[Points, int], EllipseFit | None], least_explained: float
) -> list[_Field]:
    """Fields fitted to points one after the other; none where less than a fraction of all points lies on them."""
    num_all, fields = len(points), list[_Field]()
    num_least = max(_MIN_POINTS, _MIN_POINTS_FRACTION * num_all)
    while len(points) >= num_least and len(fields) < _MAX_FIELDS_IN_REGION:
        found = fit(points, side_px)
        if found is None or found.inliers.sum() < num_least:
            break
        field = _Field(found, points)
        if measure_arc(found, points).covered_degrees >= _MIN_ARC_DEGREES and field.size_px >= _MIN_SIZE_PX:
            fields.append(field)
        points = points[~found.inliers]
    return fields if sum(len(field.arc) for field in fields) >= least_explained * num_all else []


def _parts_of(region: NDArray[np.bool_], points: Points) -> list[Points]:
    """Outline points by the part of the region that they belong to: parts hang together by narrow bridges only.

    In a convex region no place is further from the edge than all ways to it, so that there is one part.
    """
    depth = cv2.distanceTransform(np.pad(region, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    num_labels, _, _, centers = cv2.connectedComponentsWithStats((depth > _CORE_DEPTH * depth.max()).astype(np.uint8))
    if num_labels < 3 or len(points) == 0:
        return [points]
    nearest = np.hypot(*(points[:, None] - centers[None, 1:]).transpose(2, 0, 1)).argmin(axis=1)
    return [points[nearest == index] for index in range(num_labels - 1)]


def _is_convex(contour: Points) -> bool:
    """Whether a contour is that of one disc, cut or not: discs that touch or overlap leave notches between them.

    Steps of pixels and small notches, half a pixel along all of the contour, count for nothing.
    """
    polygon = contour.astype(np.int32)
    hull_area = cv2.contourArea(cv2.convexHull(polygon))
    missing = hull_area - cv2.contourArea(polygon)
    return bool(missing <= max(_MAX_NOTCH_FRACTION * hull_area, 0.5 * cv2.arcLength(polygon, closed=True)))
