"""Agreement of heat maps with masks of lesions."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.photographs.preprocess import Placement

_SAMPLES_PER_PX = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How well heat agrees with lesions; all fields are None where there is no heat or no lesion.

    `heat_fraction` is the fraction of the heat that lies on lesions, `area_fraction` the fraction of the retina that
    they cover, and `lift` their ratio, 1 for an uninformative map. `average_precision` is that of pixels ranked by
    heat, by chance `area_fraction`; `peak_on_lesion` says whether the hottest pixel touches a lesion.
    """

    heat_fraction: float | None
    area_fraction: float | None
    lift: float | None
    average_precision: float | None
    peak_on_lesion: bool | None


NO_AGREEMENT = Agreement(heat_fraction=None, area_fraction=None, lift=None, average_precision=None, peak_on_lesion=None)


def lesion_coverage(mask: NDArray[np.bool_], placement: Placement, size_px: int) -> NDArray[np.float32]:
    """The fraction of each pixel of the preprocessed image (S, S) that the mask (H, W) of the photograph covers."""
    placed, count = placement.resized_to(*mask.shape), _SAMPLES_PER_PX
    middle = (count - 1) / 2
    matrix = np.array(
        [
            [placed.scale_x * count, 0, placed.offset_x * count + middle],
            [0, placed.scale_y * count, placed.offset_y * count + middle],
        ],
        np.float64,
    )
    fine = cv2.warpAffine(mask.astype(np.float32), matrix, (size_px * count, size_px * count), flags=cv2.INTER_LINEAR)
    return np.asarray(fine.reshape(size_px, count, size_px, count).mean(axis=(1, 3)), np.float32)


def measure_agreement(values: NDArray[np.float32], mask: NDArray[np.bool_], coverage: NDArray[np.float32]) -> Agreement:
    """Compare heat (S, S) >= 0 with the fraction (S, S) of each pixel that lesions cover, within the mask (S, S)."""
    heat, covered = values[mask].astype(np.float64), coverage[mask].astype(np.float64)
    if heat.sum() <= 0 or covered.sum() <= 0:
        return NO_AGREEMENT
    heat_fraction, area_fraction = float(heat @ covered / heat.sum()), float(covered.mean())
    return Agreement(
        heat_fraction=heat_fraction,
        area_fraction=area_fraction,
        lift=heat_fraction / area_fraction,
        average_precision=weighted_average_precision(heat, covered),
        peak_on_lesion=bool(covered[heat.argmax()] > 0),
    )


def weighted_average_precision(scores: NDArray[np.float64], positive: NDArray[np.float64]) -> float:
    """Average precision of N pixels ranked by scores (N,), of which a fraction (N,) each is positive.

    Pixels of equal score have one threshold, as in scikit-learn.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    hits, passed = np.cumsum(positive[order]), np.arange(1, len(scores) + 1)
    ends = np.append(ranked[1:] != ranked[:-1], True)
    recall, precision = hits[ends] / hits[-1], hits[ends] / passed[ends]
    return float(np.diff(recall, prepend=0.0) @ precision)
