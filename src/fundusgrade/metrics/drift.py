"""Drift: whether the scores of a batch of photographs are distributed as those of the photographs of a calibration.

A two-sample Kolmogorov-Smirnov test of the distributions. The photographs of a patient are alike, so that they count as
fewer: their number is divided by the design effect (Kish, Survey Sampling 1965) that the calibration shows. Of a batch
the patients are not known; it is taken to have as many photographs of each, as alike.
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

    Scores are the probabilities of referable retinopathy, 0 to 1. `design_effect`, at least 1, is the number of a
    patient's photographs that weigh as much as one of another patient: 1 where they are not alike.
    """

    quantiles: tuple[float, ...]
    num_photographs: int
    num_patients: int
    design_effect: float = 1.0


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


def reference_scores(scores: NDArray[np.float64], patients: NDArray[np.int64]) -> ReferenceScores:
    """The distribution of the scores (N,) of the photographs of patients (N,)."""
    ordered = np.sort(scores.round(_DECIMALS))
    count = min(len(ordered), _MAX_QUANTILES)
    chosen = ((np.arange(count) + 0.5) * len(ordered) / count).astype(int)
    return ReferenceScores(
        quantiles=tuple(float(score) for score in ordered[chosen]),
        num_photographs=len(ordered),
        num_patients=len(np.unique(patients)),
        design_effect=_design_effect(scores, patients),
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
    num_known, num_new = (count / reference.design_effect for count in (reference.num_photographs, len(batch)))
    effective = max(1, round(num_known * num_new / (num_known + num_new)))
    return Drift(
        num_photographs=len(batch),
        distance=distance,
        p_value=float(kstwo.sf(distance, effective)),
        median=float(np.median(batch)),
        reference_median=float(np.median(known)),
    )


def _design_effect(scores: NDArray[np.float64], patients: NDArray[np.int64]) -> float:
    """1 plus the correlation of ranks within patients times the mean number of other photographs of the patient."""
    from scipy.stats import rankdata

    _, patient = np.unique(patients, return_inverse=True)
    deviations = rankdata(scores) - (len(scores) + 1) / 2
    counts, totals = np.bincount(patient), np.bincount(patient, deviations)
    num_pairs, variance = float((counts * (counts - 1)).sum()), float((deviations**2).mean())
    if not num_pairs or not variance:
        return 1.0
    correlation = float((totals**2).sum() - (deviations**2).sum()) / num_pairs / variance
    return 1.0 + min(max(correlation, 0.0), 1.0) * num_pairs / len(scores)
