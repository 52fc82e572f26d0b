"""What is to be doubted about a photograph: its quality, its likeness to the training photographs, the decision.

The three warnings are kept apart, because they call for different answers: another file, a reader who knows the
camera, a second look at the same photograph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusgrade.networks.feature_checks import FeatureChecks, measurements
from fundusgrade.photographs.loading import LoadedPhotograph

NOT_A_FUNDUS = "not recognized as a fundus photograph"
UNLIKE_TRAINING = "unlike the training photographs"
NEAR_THRESHOLD = "near the operating point"
REJECTED = "graders of image quality would probably reject it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubts:
    """Reasons to doubt a photograph's grade.

    `quality_reasons` say why it is not gradable. `reject_probability` is the probability that graders of image quality
    reject it, `training_distance` its distance from the training photographs as a multiple of the limit; both are
    None where the model has no such check. `warnings` are UNLIKE_TRAINING and NEAR_THRESHOLD.
    """

    quality_reasons: tuple[str, ...]
    is_borderline: bool = False
    reject_probability: float | None = None
    training_distance: float | None = None
    warnings: tuple[str, ...] = ()


def find_doubts(
    photographs: Sequence[LoadedPhotograph],
    checks: FeatureChecks | None,
    features: NDArray[np.float32] | None,
    *,
    near_threshold: Sequence[bool],
) -> list[Doubts]:
    """The doubts about each photograph; `features` (N, D) are those of the network, None where it has no checks."""
    count = len(photographs)
    distances: Sequence[float | None] = [None] * count
    rejects: Sequence[float | None] = [None] * count
    limits = (1.0, 1.0)
    if checks is not None and features is not None:
        distances = [float(value) for value in checks.reference.distances(features)]
        if checks.quality is not None:
            measured = measurements([(photograph.quality, photograph.artifacts) for photograph in photographs])
            coordinates = checks.reference.coordinates(features)
            rejects = [float(value) for value in checks.quality.probabilities(coordinates, measured)]
            limits = (float(checks.quality.limits[0]), float(checks.quality.limits[1]))
    return [
        _doubts(photograph.quality_reasons, distance, reject, limits, near=near)
        for photograph, distance, reject, near in zip(photographs, distances, rejects, near_threshold, strict=True)
    ]


def _doubts(
    reasons: tuple[str, ...], distance: float | None, reject: float | None, limits: tuple[float, float], *, near: bool
) -> Doubts:
    is_rejected = reject is not None and reject >= limits[1]
    quality_reasons = (*reasons, *((REJECTED,) if is_rejected else ()))
    is_unlike = distance is not None and distance > 1
    return Doubts(
        quality_reasons=quality_reasons,
        is_borderline=not quality_reasons and reject is not None and reject >= limits[0],
        reject_probability=reject,
        training_distance=distance,
        warnings=(*((UNLIKE_TRAINING,) if is_unlike else ()), *((NEAR_THRESHOLD,) if near else ())),
    )
