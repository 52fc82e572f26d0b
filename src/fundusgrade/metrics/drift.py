"""Drift: whether the scores of a batch of photographs are distributed as those of the photographs of a calibration.

A two-sample Kolmogorov-Smirnov test of the distributions. The photographs of a patient are alike, so that they count as
fewer: as many as there are patients. Of a batch the number of patients is not known; it is taken to have as many
photographs of each as the calibration had. The test is then conservative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_PHOTOGRAPHS = 50
"""Smaller batches are not tested: a change of scores that matters could not be told from chance."""
SIGNIFICANCE = 0.01
"""Of batches without drift one in a hundred is reported."""
_MAX_QUANTILES = 200
_DECIMALS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceScores:
    """Scores of the photographs of a calibration: up to 200 quantiles, rising, and how many photographs and patients.

    Scores are the probabilities of referable retinopathy, 0 to 1.
    """

    quantiles: tuple[float, ...]
    num_photographs: int
    num_patients: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The test of one batch: the largest distance of the two distribution functions, 0 to 1, and its p-value.

    `reference_median` and `median` are those of the calibration and of the batch.
    """

    num_photographs: int
    distance: float
    p_value: float
    median: float
    reference_median: float

    @property
    def is_significant(self) -> bool:
        """Whether so large a distance is too rare without drift."""
        return self.p_value < SIGNIFICANCE


def reference_scores(scores: NDArray[np.float64], num_patients: int) -> ReferenceScores:
    """The distribution of the scores (N,) of N photographs of so many patients."""
    ordered = np.sort(scores.round(_DECIMALS))
    count = min(len(ordered), _MAX_QUANTILES)
    chosen = ((np.arange(count) + 0.5) * len(ordered) / count).astype(int)
    return ReferenceScores(
        quantiles=tuple(float(score) for score in ordered[chosen]),
        num_photographs=len(ordered),
        num_patients=num_patients,
    )


def measure_drift(scores: Sequence[float], reference: ReferenceScores) -> Drift | None:
    """The test of the scores of a batch; None for a batch of fewer than 50, and without a reference."""
    if len(scores) < MIN_PHOTOGRAPHS or not reference.quantiles:
        return None
    from scipy.stats import kstwo

    batch = np.sort(np.asarray(scores, np.float64).round(_DECIMALS))
    known = np.asarray(reference.quantiles)
    places = np.concatenate([batch, known])
    below = [np.searchsorted(each, places, side="right") / len(each) for each in (batch, known)]
    distance = float(np.abs(below[0] - below[1]).max())
    num_known = reference.num_patients
    num_new = len(batch) * reference.num_patients / reference.num_photographs
    effective = max(1, round(num_known * num_new / (num_known + num_new)))
    return Drift(
        num_photographs=len(batch),
        distance=distance,
        p_value=float(kstwo.sf(distance, effective)),
        median=float(np.median(batch)),
        reference_median=float(np.median(known)),
    )
