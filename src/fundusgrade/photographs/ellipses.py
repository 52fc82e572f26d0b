"""Circles and axis-aligned ellipses fitted to points of an outline.

Points are (N, 2) arrays of x and y, and ellipses (4,) or (B, 4) arrays of center x, center y, radius x and radius y;
all in pixels of the reduced photograph.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Ellipse = NDArray[np.float64]

CIRCLE_PARAMETERS, ELLIPSE_PARAMETERS = 3, 4
MAX_ASPECT = 2.0
_NUM_SAMPLES = 250
_NUM_SCORING_POINTS = 120
# The circle is taken if its inliers are at least this fraction: of all points, or of the inliers of the ellipse.
_CIRCLE_INLIERS_FRACTION = 0.97
# An ellipse must explain this many points' worth of the squared error that a circle leaves.
_MIN_ERROR_REDUCTION = 40.0
_INLIERS_PER_TOLERANCE = 1.5
_TRIMMED_FRACTION = 0.9
_ARC_STEP_DEGREES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class EllipseFit:
    """An ellipse (4,) and which of the points (N,) lie on it."""

    ellipse: Ellipse
    inliers: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arc:
    """The points that lie on an ellipse: their fraction of all, and the angles that they cover and span.

    The four corners that a cut leaves of a disc cover little of the full turn but span most of it.
    """

    inlier_fraction: float
    covered_degrees: float
    span_degrees: float

    @property
    def confidence(self) -> float:
        """From 0 to 1: the fraction of points on the ellipse times the fraction of the turn that they cover."""
        return self.inlier_fraction * self.covered_degrees / 360


def fit_outline(points: Points, side_px: int, max_aspect: float = MAX_ASPECT) -> list[EllipseFit]:
    """Robust fits of a circle and of an ellipse to points with many outliers, the better one first; maybe none.

    `side_px` is the longer side of the image, and `max_aspect` bounds the ratio of the ellipse's radii. The circle
    comes first if it explains the points nearly as well as the ellipse does, for it has fewer parameters.
    """
    circle = _fit_robustly(points, side_px, CIRCLE_PARAMETERS)
    if circle is not None and circle.inliers.mean() >= _CIRCLE_INLIERS_FRACTION:
        return [circle]
    ellipse = _fit_robustly(points, side_px, ELLIPSE_PARAMETERS, max_aspect)
    if circle is not None and ellipse is not None:
        is_worse = circle.inliers.sum() < _CIRCLE_INLIERS_FRACTION * ellipse.inliers.sum()
        return [ellipse, circle] if is_worse else [circle, ellipse]
    return [fit for fit in (circle, ellipse) if fit is not None]


def fit_circle(points: Points, side_px: int) -> EllipseFit | None:
    """A robust fit of a circle, as in `fit_outline`; None where no circle fits."""
    return _fit_robustly(points, side_px, CIRCLE_PARAMETERS)


def _fit_robustly(
    points: Points, side_px: int, num_parameters: int, max_aspect: float = MAX_ASPECT
) -> EllipseFit | None:
    """RANSAC (Fischler and Bolles 1981) over algebraic fits, then three rounds of refitting to the inliers."""
    rng = np.random.default_rng(0)
    tolerance_px = max(1.0, 0.005 * side_px)
    samples = rng.integers(0, len(points), size=(_NUM_SAMPLES, num_parameters))
    candidates = _solve_conics(points[samples], num_parameters)
    candidates = candidates[_is_plausible(candidates, side_px, max_aspect)]
    if len(candidates) == 0:
        return None
    distances = distances_px(points[:: max(1, len(points) // _NUM_SCORING_POINTS)], candidates)
    best = candidates[int(np.argmax(np.count_nonzero(distances < tolerance_px, axis=1)))]
    inliers = distances_px(points, best[None])[0] < _INLIERS_PER_TOLERANCE * tolerance_px
    for _ in range(3):
        if np.count_nonzero(inliers) < num_parameters + 1:
            return None
        refitted = _solve_conics(points[inliers][None], num_parameters)
        if not _is_plausible(refitted, side_px, max_aspect)[0]:
            return None
        best, fitted_to = refitted[0], inliers
        inliers = distances_px(points, best[None])[0] < _INLIERS_PER_TOLERANCE * tolerance_px
        if np.array_equal(inliers, fitted_to):  # fitting to the same points again would change nothing
            break
    return EllipseFit(ellipse=best, inliers=inliers)


def fit_precise_points(points: Points) -> Ellipse:
    """The circle through points with few outliers, or the ellipse where they clearly say so; NaN where none fits."""
    circle, ellipse = (fit_trimmed(points, count) for count in (CIRCLE_PARAMETERS, ELLIPSE_PARAMETERS))
    circle_error, ellipse_error = (_trimmed_squared_error(points, fit) for fit in (circle, ellipse))
    is_round = circle_error - ellipse_error < _MIN_ERROR_REDUCTION * (ellipse_error / len(points) + 0.01)
    return circle if is_round else ellipse


def fit_trimmed(points: Points, num_parameters: int) -> Ellipse:
    """Least squares, then again without the tenth of the points that lies furthest off; NaN where no ellipse fits."""
    ellipse = _solve_conics(points[None], num_parameters)[0]
    for _ in range(3):
        if not np.isfinite(ellipse).all():  # the points lie on a hyperbola
            break
        distances = distances_px(points, ellipse[None])[0]
        furthest = int(_TRIMMED_FRACTION * (len(distances) - 1))
        is_near = distances <= np.partition(distances, furthest)[furthest]
        ellipse = _solve_conics(points[is_near][None], num_parameters)[0]
    return np.asarray(ellipse, np.float64)


def _trimmed_squared_error(points: Points, ellipse: Ellipse) -> float:
    distances = np.sort(distances_px(points, ellipse[None])[0])
    return float(np.sum(distances[: int(_TRIMMED_FRACTION * len(points))] ** 2))


def measure_arc(fit: EllipseFit, points: Points) -> Arc:
    """How much of an ellipse the points (N, 2) show, in steps of 5 degrees."""
    center_x, center_y, radius_x, radius_y = fit.ellipse
    on_arc = points[fit.inliers]
    angles = np.degrees(np.arctan2((on_arc[:, 1] - center_y) / radius_y, (on_arc[:, 0] - center_x) / radius_x))
    steps = np.unique(np.floor(angles / _ARC_STEP_DEGREES))
    num_steps = 360 // _ARC_STEP_DEGREES
    gaps = np.diff(np.append(steps, steps[0] + num_steps)) if len(steps) else np.array([num_steps])
    return Arc(
        inlier_fraction=float(fit.inliers.mean()),
        covered_degrees=float(_ARC_STEP_DEGREES * len(steps)),
        span_degrees=360.0 - _ARC_STEP_DEGREES * float(gaps.max()),
    )


def distances_px(points: Points, ellipses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Radial distance in px (B, N) of each point from each ellipse."""
    # Squares neither overflow nor vanish in pixels of a photograph, and np.hypot takes ten times as long.
    center_x, center_y, radius_x, radius_y = ellipses.T[:, :, None]
    x, y = points[:, 0] - center_x, points[:, 1] - center_y
    unit = np.sqrt((x / radius_x) ** 2 + (y / radius_y) ** 2)
    return np.asarray(np.sqrt(x * x + y * y) * np.abs(1 - 1 / np.maximum(unit, 1e-9)), np.float64)


def _solve_conics(samples: NDArray[np.float64], num_parameters: int) -> NDArray[np.float64]:
    """Least-squares circles (3 parameters) or axis-aligned ellipses (4) through samples (B, N, 2), as (B, 4).

    x^2 + q y^2 + d x + e y + f = 0 with q = 1 for a circle; coordinates are centered and scaled first, so that the
    normal equations are well conditioned.
    """
    middle = samples.mean(axis=1, keepdims=True)
    spread = np.abs(samples - middle).max(axis=(1, 2), keepdims=True) + 1e-9
    unit = (samples - middle) / spread
    x, y = unit[..., 0], unit[..., 1]
    ones = np.ones_like(x)
    is_circle = num_parameters == CIRCLE_PARAMETERS
    columns = [x, y, ones] if is_circle else [y * y, x, y, ones]
    target = -(x * x + y * y) if is_circle else -(x * x)
    design = np.stack(columns, axis=-1)
    normal = np.swapaxes(design, 1, 2) @ design + 1e-12 * np.eye(num_parameters)
    solution = np.linalg.solve(normal, np.swapaxes(design, 1, 2) @ target[..., None])[..., 0]
    if is_circle:
        solution = np.concatenate([np.ones((len(solution), 1)), solution], axis=1)
    q, d, e, f = solution.T
    with np.errstate(invalid="ignore", divide="ignore"):
        center_x, center_y = -d / 2, -e / (2 * q)
        power = center_x**2 + q * center_y**2 - f
        radii = np.sqrt(power), np.sqrt(power / q)
    ellipses = np.stack([center_x, center_y, *radii], axis=1) * spread[:, :, 0]
    ellipses[:, :2] += middle[:, 0]
    return np.asarray(ellipses, np.float64)


def _is_plausible(ellipses: NDArray[np.float64], side_px: int, max_aspect: float) -> NDArray[np.bool_]:
    """Which ellipses (B,) have radii of a size that a photograph can hold, and an aspect that squashing can make."""
    with np.errstate(invalid="ignore"):
        radius_x, radius_y = ellipses[:, 2], ellipses[:, 3]
        sized = (np.minimum(radius_x, radius_y) > 0.15 * side_px) & (np.maximum(radius_x, radius_y) < 1.2 * side_px)
        shaped = (radius_x / radius_y > 1 / max_aspect) & (radius_x / radius_y < max_aspect)
    result: NDArray[np.bool_] = np.isfinite(ellipses).all(axis=1) & sized & shaped
    return result
