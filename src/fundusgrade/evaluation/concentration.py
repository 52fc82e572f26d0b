"""How concentrated a heat map is, from a single pixel to uniform over the retina."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.evaluation.landmarks import Landmarks, Spot

PEAK_FRACTION = 0.5
"""Regions of at least this fraction of the highest heat count as peaks."""

COARSE_SIGMA_FRACTION = 1 / 14
"""Sigma, of the image's side, that brings fine and coarse maps to one resolution: half a cell of a 7 x 7 grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Concentration:
    """Measures of a heat map within the visible retina; all are None where there is no heat.

    `half_area` is the smallest fraction of the retina that holds half of the heat, 0.5 for a uniform map. `entropy` is
    that of the heat over the pixels, 1 for a uniform map and 0 for one pixel. `num_peaks` counts separate regions of at
    least half the highest heat. Distances from the hottest pixel are in radii of the field of view, None where the
    landmark is not known.
    """

    half_area: float | None
    entropy: float | None
    num_peaks: int | None
    disc_distance: float | None
    fovea_distance: float | None


def measure_concentration(
    values: NDArray[np.float32], mask: NDArray[np.bool_], radius_px: float, landmarks: Landmarks
) -> Concentration:
    """Measure heat (S, S) >= 0 within the mask (S, S) of a field of view of this radius."""
    heat = np.where(mask, values, 0).astype(np.float64)
    total = heat.sum()
    if total <= 0:
        return Concentration(half_area=None, entropy=None, num_peaks=None, disc_distance=None, fovea_distance=None)
    inside = heat[mask] / total
    positive = inside[inside > 0]
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    return Concentration(
        half_area=_half_area(inside),
        entropy=float(-(positive * np.log(positive)).sum() / math.log(len(inside))),
        num_peaks=count_regions(heat >= PEAK_FRACTION * heat.max()),
        disc_distance=_distance(float(x), float(y), landmarks.optic_disc, radius_px),
        fovea_distance=_distance(float(x), float(y), landmarks.fovea, radius_px),
    )


def coarsened(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Heat (S, S) at the resolution of a network whose last feature map is 7 x 7."""
    return np.asarray(cv2.GaussianBlur(values, (0, 0), COARSE_SIGMA_FRACTION * len(values)), np.float32)


def count_regions(mask: NDArray[np.bool_]) -> int:
    """Number of connected regions of a mask (H, W), 8-connected."""
    return int(cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0]) - 1


def _half_area(fractions: NDArray[np.float64]) -> float:
    """The fraction of the pixels that hold half of the total of 1, the last pixel counted in part."""
    ranked = np.sort(fractions)[::-1]
    held = np.cumsum(ranked)
    last = int(np.searchsorted(held, 0.5))
    before = held[last - 1] if last else 0.0
    return float((last + (0.5 - before) / ranked[last]) / len(ranked))


def _distance(x: float, y: float, spot: Spot | None, radius_px: float) -> float | None:
    return None if spot is None else math.hypot(x - spot.x, y - spot.y) / radius_px
