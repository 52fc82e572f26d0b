"""Find the field of view: where a fundus photograph shows retina, and how the picture was cut or squashed.

A fundus camera sees the retina through a round aperture, so the retina is a disc on a dark ground. Pictures are cut
above, below or beside that disc, and some data sets squash them to a square, which turns the disc into an ellipse with
its axes along the picture's. So an axis-aligned ellipse is fitted to the part of the outline that is really visible:
points on the picture's own edge are cuts, not outline. Everything is done on a reduced copy.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.errors import NoRetinaError
from fundusgrade.photographs.images import halved
from fundusgrade.photographs.pixels import Image

WORKING_SIZE_PX = 320
# Below this spread between the dark and the bright part of a picture (of 255) there is nothing to tell apart.
MIN_CONTRAST = 12.0
PURE_BLACK = 3.0
# Half the difference to the background, seen at the aperture's edge, is taken as inside down to this share.
EDGE_SHARE = 0.12
MIN_VISIBLE_FRACTION = 0.35
# An outline is believed if most of it is round (this share of its points times the share of the turn they cover), or if
# pieces of it that are round lie all around the center, as the corners of a picture cut on four sides do.
MIN_CONFIDENCE = 0.55 * 60 / 360
MIN_CORNER_INLIERS = 0.35
MIN_CORNER_ARC_DEGREES = 45.0
MIN_CORNER_SPAN_DEGREES = 200.0
MIN_POINTS_FRACTION = 0.12
# A straight side of the bright region longer than this share of the picture is a cut: a disc touches its bounding
# box along a sixth of the picture's side at most.
CUT_CHORD_FRACTION = 0.3
_NUM_DRAWS = 250
_NUM_VOTERS = 120
# Brightness is followed this far (px of the reduced copy) to both sides of the outline.
_REACH_PX = 5.0
_MIN_REFINED_POINTS = 24
# An ellipse must explain this many points' worth of the squared error that a circle leaves.
_ROUNDNESS = 40.0

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldOfView:
    """An axis-aligned ellipse in photograph pixels; the aperture's disc as this picture shows it.

    `center_x, center_y, radius_x, radius_y` are in pixels, with pixel centers at whole numbers; the ellipse may reach
    beyond the picture. Retina is seen inside the ellipse between `left` and `right`, `top` and `bottom`: the picture's
    edges, or a dark bar beside them. `visible_fraction` is the share of the ellipse's area that is seen, `confidence`
    (0-1) the share of the outline's points that lie on the ellipse, times the share of the full turn that they cover.
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

    @property
    def aspect(self) -> float:
        """Width over height of the ellipse: 1.0 for a picture that was not squashed."""
        return self.radius_x / self.radius_y

    def mask(self, *, height: int, width: int) -> NDArray[np.bool_]:
        """Which pixels of the photograph (height, width) show retina."""
        y, x = np.ogrid[:height, :width]
        inside = np.hypot((x - self.center_x) / self.radius_x, (y - self.center_y) / self.radius_y) <= 1
        seen = (x >= self.left) & (x <= self.right) & (y >= self.top) & (y <= self.bottom)
        return np.asarray(inside & seen)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """The rectangle of the reduced copy in which retina can be seen; first and last pixel, both included."""

    left: int
    top: int
    right: int
    bottom: int
    last_column: int
    last_row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    """An ellipse on the reduced copy, with the outline points (N, 2) that it explains."""

    ellipse: NDArray[np.float64]  # center x, center y, radius x, radius y
    inliers: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arc:
    """The outline that lies on an ellipse: its share of all points, how far it covers the turn, and how far it spans.

    Four corners of a picture cover little of the turn but span most of it.
    """

    inlier_fraction: float
    covered_degrees: float
    span_degrees: float

    @property
    def confidence(self) -> float:
        return self.inlier_fraction * self.covered_degrees / 360


def find_field_of_view(photograph: Image) -> FieldOfView:
    """Fit the aperture's outline in a photograph (H, W, 3) of any size.

    Raises NoRetinaError where there is no disc: it never returns a made-up one.
    """
    height, width = photograph.shape[:2]
    scale = min(1.0, WORKING_SIZE_PX / max(height, width))
    small_size = (max(1, round(width * scale)), max(1, round(height * scale)))
    reduced = photograph
    while max(reduced.shape[:2]) >= 2 * WORKING_SIZE_PX and min(reduced.shape[:2]) >= 2:
        reduced = halved(reduced)
    small = cv2.resize(reduced, small_size, interpolation=cv2.INTER_LINEAR) if scale < 1 else photograph
    foreground = bright_region(small)
    contour = _contour(foreground)
    frame = _visible_frame(contour, foreground.shape)
    points = _outline_points(contour, frame)
    reason = "the bright region has no round outline"
    for fit in _fit_outline(points, max(small.shape[:2])):
        arc = _measure_arc(fit, points)
        reason = _doubt(fit, arc, _visible_fraction(fit.ellipse, frame))
        if not reason:
            refined = _refine(fit.ellipse, small, frame)
            return _scaled(refined, arc, frame, width / small_size[0], height / small_size[1])
    raise NoRetinaError(f"no retina found: {reason}; expected a bright disc on a dark ground")


def bright_region(small: Image) -> NDArray[np.bool_]:
    """The largest bright region (H, W) of a small picture, holes filled, whatever its shape.

    Brightness is the strongest channel: the retina is red, not gray. Raises NoRetinaError where nothing is bright.
    """
    value = cv2.medianBlur(_strongest_channel(small), 5)
    inner = _without_black_margin(value)
    dark, bright = level_below(inner, 0.005), level_below(inner, 0.9)
    if bright - dark < MIN_CONTRAST:
        raise NoRetinaError(
            f"no retina found: the picture is nearly uniform (brightness {dark:.0f} to {bright:.0f} of 255); "
            "expected a bright disc on a dark ground"
        )
    binary = (value > dark + EDGE_SHARE * (bright - dark)).astype(np.uint8)
    binary = cv2.morphologyEx(binary, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    num_labels, labels, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=4)
    if num_labels < 2:
        raise NoRetinaError("no retina found: no bright region in the picture; expected a bright disc on a dark ground")
    largest = (labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))).astype(np.uint8)
    contours, _ = cv2.findContours(largest, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(largest)
    cv2.drawContours(filled, contours, -1, 1, thickness=cv2.FILLED)
    return np.asarray(filled, np.bool_)


def level_below(values: NDArray[np.uint8], share: float) -> float:
    """The level, 0-255, below which this share of the pixels lies, from a histogram."""
    cumulated = np.cumsum(np.bincount(values.ravel(), minlength=256))
    return float(np.searchsorted(cumulated, share * cumulated[-1]))


def _strongest_channel(small: Image) -> NDArray[np.uint8]:
    return np.asarray(cv2.max(cv2.max(small[..., 0], small[..., 1]), small[..., 2]), np.uint8)


def _without_black_margin(value: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The part inside a margin of pure black: beside it even a camera's own dark ground would look bright."""
    lit = value > PURE_BLACK
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    return value if len(rows) == 0 else value[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _contour(foreground: NDArray[np.bool_]) -> Points:
    """The outermost pixels (N, 2) of the region, as x, y."""
    contours, _ = cv2.findContours(foreground.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(max(contours, key=len)[:, 0, :], np.float64)


def _visible_frame(contour: Points, shape: tuple[int, ...]) -> _Frame:
    """The picture's edges, drawn in to where a straight side of the region shows a dark bar that cuts the disc."""
    height, width = shape
    (left, top), (right, bottom) = contour.min(axis=0).astype(int), contour.max(axis=0).astype(int)
    longest = CUT_CHORD_FRACTION * max(height, width)
    x, y = contour[:, 0], contour[:, 1]
    return _Frame(
        left=int(left) if (x <= left + 2).sum() > longest else 0,
        top=int(top) if (y <= top + 2).sum() > longest else 0,
        right=int(right) if (x >= right - 2).sum() > longest else width - 1,
        bottom=int(bottom) if (y >= bottom - 2).sum() > longest else height - 1,
        last_column=width - 1,
        last_row=height - 1,
    )


def _outline_points(contour: Points, frame: _Frame) -> Points:
    """Contour points (N, 2) that lie well inside the frame: on its edge the disc is cut, not ended."""
    margin = 3
    x, y = contour[:, 0], contour[:, 1]
    inside_x = (x >= frame.left + margin) & (x <= frame.right - margin)
    inside_y = (y >= frame.top + margin) & (y <= frame.bottom - margin)
    return np.asarray(contour[inside_x & inside_y], np.float64)


def _fit_outline(points: Points, side_px: int) -> list[_Fit]:
    """Circle and ellipse, the better one first.

    The circle leads if it explains the outline nearly as well as an ellipse does, for it has fewer ways to be wrong.
    """
    if len(points) < MIN_POINTS_FRACTION * side_px:
        raise NoRetinaError(
            "no retina found: no outline of a disc is visible inside the picture; "
            "expected at least part of the dark edge around the retina"
        )
    circle = _fit_robustly(points, side_px, num_parameters=3)
    if circle is not None and circle.inliers.mean() >= 0.97:
        return [circle]
    ellipse = _fit_robustly(points, side_px, num_parameters=4)
    if circle is not None and ellipse is not None and circle.inliers.sum() < 0.97 * ellipse.inliers.sum():
        return [ellipse, circle]
    return [fit for fit in (circle, ellipse) if fit is not None]


def _fit_robustly(points: Points, side_px: int, num_parameters: int) -> _Fit | None:
    """RANSAC (Fischler and Bolles 1981) over algebraic fits, then two rounds of refitting to the inliers."""
    rng = np.random.default_rng(0)
    tolerance_px = max(1.0, 0.005 * side_px)
    draws = rng.integers(0, len(points), size=(_NUM_DRAWS, num_parameters))
    candidates = _solve_conics(points[draws])
    candidates = candidates[_plausible(candidates, side_px)]
    if len(candidates) == 0:
        return None
    distances = _distances(points[:: max(1, len(points) // _NUM_VOTERS)], candidates)
    best = candidates[int(np.argmax((distances < tolerance_px).sum(axis=1)))]
    for _ in range(3):
        inliers = _distances(points, best[None])[0] < 1.5 * tolerance_px
        if inliers.sum() < num_parameters + 1:
            return None
        refined = _solve_conics(points[inliers][None], num_parameters)
        if not _plausible(refined, side_px)[0]:
            return None
        best = refined[0]
    return _Fit(ellipse=best, inliers=_distances(points, best[None])[0] < 1.5 * tolerance_px)


def _solve_conics(samples: NDArray[np.float64], num_parameters: int | None = None) -> NDArray[np.float64]:
    """Least-squares circles (3 parameters) or axis-aligned ellipses (4) through samples (B, N, 2), as (B, 4).

    x^2 + q y^2 + d x + e y + f = 0 with q = 1 for a circle; coordinates are centered first for a sound condition.
    """
    num_parameters = num_parameters or samples.shape[1]
    middle = samples.mean(axis=1, keepdims=True)
    spread = np.abs(samples - middle).max(axis=(1, 2), keepdims=True) + 1e-9
    unit = (samples - middle) / spread
    x, y = unit[..., 0], unit[..., 1]
    ones = np.ones_like(x)
    columns = [x, y, ones] if num_parameters == 3 else [y * y, x, y, ones]
    target = -(x * x + y * y) if num_parameters == 3 else -(x * x)
    design = np.stack(columns, axis=-1)
    normal = np.swapaxes(design, 1, 2) @ design + 1e-12 * np.eye(num_parameters)
    solution = np.linalg.solve(normal, np.swapaxes(design, 1, 2) @ target[..., None])[..., 0]
    if num_parameters == 3:
        solution = np.concatenate([np.ones((len(solution), 1)), solution], axis=1)
    q, d, e, f = solution.T
    with np.errstate(invalid="ignore", divide="ignore"):
        center_x, center_y = -d / 2, -e / (2 * q)
        power = center_x**2 + q * center_y**2 - f
        radii = np.sqrt(power), np.sqrt(power / q)
    ellipses = np.stack([center_x, center_y, *radii], axis=1) * spread[:, :, 0]
    ellipses[:, :2] += middle[:, 0]
    return np.asarray(ellipses, np.float64)


def _plausible(ellipses: NDArray[np.float64], side_px: int) -> NDArray[np.bool_]:
    """Radii of a size that a photograph can hold, and an aspect that squashing a picture can make."""
    with np.errstate(invalid="ignore"):
        radius_x, radius_y = ellipses[:, 2], ellipses[:, 3]
        sized = (np.minimum(radius_x, radius_y) > 0.15 * side_px) & (np.maximum(radius_x, radius_y) < 1.2 * side_px)
        shaped = (radius_x / radius_y > 0.5) & (radius_x / radius_y < 2.0)
    result: NDArray[np.bool_] = np.isfinite(ellipses).all(axis=1) & sized & shaped
    return result


def _distances(points: Points, ellipses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Radial distance in px (B, N) of each point from each ellipse."""
    offset = points[None] - ellipses[:, None, :2]
    unit = np.hypot(offset[..., 0] / ellipses[:, None, 2], offset[..., 1] / ellipses[:, None, 3])
    length = np.hypot(offset[..., 0], offset[..., 1])
    return np.asarray(length * np.abs(1 - 1 / np.maximum(unit, 1e-9)), np.float64)


def _measure_arc(fit: _Fit, points: Points) -> _Arc:
    center_x, center_y, radius_x, radius_y = fit.ellipse
    on_arc = points[fit.inliers]
    angles = np.degrees(np.arctan2((on_arc[:, 1] - center_y) / radius_y, (on_arc[:, 0] - center_x) / radius_x))
    steps = np.unique(np.floor(angles / 5))
    gaps = np.diff(np.append(steps, steps[0] + 72)) if len(steps) else np.array([72])
    return _Arc(
        inlier_fraction=float(fit.inliers.mean()),
        covered_degrees=5.0 * len(steps),
        span_degrees=360.0 - 5.0 * float(gaps.max()),
    )


def _doubt(fit: _Fit, arc: _Arc, visible_fraction: float) -> str:
    """Why the picture does not support this ellipse; empty if it does."""
    if visible_fraction < MIN_VISIBLE_FRACTION:
        return f"only {visible_fraction:.0%} of the disc would lie inside the picture"
    surrounds = arc.span_degrees >= MIN_CORNER_SPAN_DEGREES and arc.covered_degrees >= MIN_CORNER_ARC_DEGREES
    if arc.confidence >= MIN_CONFIDENCE or (surrounds and arc.inlier_fraction >= MIN_CORNER_INLIERS):
        return ""
    return "the outline of the bright region is not round"


def _refine(ellipse: NDArray[np.float64], small: Image, frame: _Frame) -> NDArray[np.float64]:
    """Move the outline to where brightness is halfway between inside and outside, to a fraction of a pixel.

    A threshold low enough for dark retinas places a soft edge too far out. The circle is left for an ellipse only where
    these points say so clearly. Where too few edges are clear, the ellipse stays as it was.
    """
    points = _half_way_points(ellipse, small, frame)
    # A contour runs through the centers of the outermost pixels inside: the edge is half a pixel further out.
    ellipse = ellipse + np.array([0, 0, 0.5, 0.5])
    if len(points) < _MIN_REFINED_POINTS:
        return ellipse
    circle, ellipse_fit = (_fit_trimmed(points, num_parameters) for num_parameters in (3, 4))
    error_of_circle, error_of_ellipse = (
        float(np.sum(np.sort(_distances(points, each[None])[0])[: int(0.9 * len(points))] ** 2))
        for each in (circle, ellipse_fit)
    )
    is_round = error_of_circle - error_of_ellipse < _ROUNDNESS * (error_of_ellipse / len(points) + 0.01)
    chosen = circle if is_round else ellipse_fit
    moved = np.abs(chosen - ellipse).max()
    return chosen if np.isfinite(moved) and moved < 0.05 * ellipse[2:].max() else ellipse


def _half_way_points(ellipse: NDArray[np.float64], small: Image, frame: _Frame) -> Points:
    """Points (N, 2) on normals of the ellipse where a clear fall of brightness is half done."""
    angles = np.radians(np.arange(0, 360, 3))
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    normals = around / ellipse[2:]
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    offsets = np.arange(-_REACH_PX, _REACH_PX + 0.25, 0.5)
    places = (ellipse[:2] + ellipse[2:] * around)[:, None] + offsets[None, :, None] * normals[:, None]
    low, high = np.array([frame.left, frame.top]) + 1, np.array([frame.right, frame.bottom]) - 1
    places = places[((places >= low) & (places <= high)).all(axis=(1, 2))]
    if len(places) == 0:
        return np.zeros((0, 2))
    brightness = cv2.GaussianBlur(_strongest_channel(small).astype(np.float32), (0, 0), 0.7)
    profile = cv2.remap(
        brightness, places[..., 0].astype(np.float32), places[..., 1].astype(np.float32), cv2.INTER_LINEAR
    )
    inside, outside = profile[:, :4].mean(axis=1), profile[:, -4:].mean(axis=1)
    above = profile > ((inside + outside) / 2)[:, None]
    last = above.shape[1] - 1 - above[:, ::-1].argmax(axis=1)
    clear = (inside - outside > 0.5 * np.median(inside - outside)) & (inside - outside > MIN_CONTRAST / 2)
    clear &= above.any(axis=1) & (last < above.shape[1] - 1)
    rows, last = np.flatnonzero(clear), last[clear]
    before, after = profile[rows, last], profile[rows, last + 1]
    share = (before - (inside + outside)[rows] / 2) / np.maximum(before - after, 1e-6)
    found = places[rows, last] + share[:, None] * (places[rows, last + 1] - places[rows, last])
    return np.asarray(found, np.float64)


def _fit_trimmed(points: Points, num_parameters: int) -> NDArray[np.float64]:
    """Least squares, then again without the tenth of the points that lies furthest off; NaN where no ellipse fits."""
    ellipse = _solve_conics(points[None], num_parameters)[0]
    for _ in range(3):
        if not np.isfinite(ellipse).all():  # the points lie on a hyperbola
            break
        distances = _distances(points, ellipse[None])[0]
        kept = distances <= np.quantile(distances, 0.9)
        ellipse = _solve_conics(points[kept][None], num_parameters)[0]
    return np.asarray(ellipse, np.float64)


def _scaled(ellipse: NDArray[np.float64], arc: _Arc, frame: _Frame, factor_x: float, factor_y: float) -> FieldOfView:
    """From the reduced copy to photograph pixels (pixel centers at whole numbers on both)."""
    center_x, center_y, radius_x, radius_y = (float(v) for v in ellipse)
    # The pixel beside a dark bar is half dark, so it is not counted as seen; that on the picture's own edge is.
    return FieldOfView(
        center_x=(center_x + 0.5) * factor_x - 0.5,
        center_y=(center_y + 0.5) * factor_y - 0.5,
        radius_x=radius_x * factor_x,
        radius_y=radius_y * factor_y,
        left=(frame.left + (frame.left > 0)) * factor_x,
        top=(frame.top + (frame.top > 0)) * factor_y,
        right=(frame.right + (frame.right == frame.last_column)) * factor_x - 1,
        bottom=(frame.bottom + (frame.bottom == frame.last_row)) * factor_y - 1,
        visible_fraction=_visible_fraction(ellipse, frame),
        confidence=arc.confidence,
    )


def _visible_fraction(ellipse: NDArray[np.float64], frame: _Frame) -> float:
    """Share of the ellipse's area inside the frame, counted on a grid over the ellipse."""
    center_x, center_y, radius_x, radius_y = ellipse
    grid = (np.arange(128) + 0.5) / 64 - 1
    unit_x, unit_y = np.meshgrid(grid, grid)
    disc = unit_x**2 + unit_y**2 <= 1
    x, y = center_x + radius_x * unit_x, center_y + radius_y * unit_y
    inside_x = (x >= frame.left - 0.5) & (x <= frame.right + 0.5)
    inside = inside_x & (y >= frame.top - 0.5) & (y <= frame.bottom + 0.5)
    return float((disc & inside).sum() / disc.sum())
