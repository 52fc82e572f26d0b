"""Reliability: how well confidence matches accuracy (calibration error and its bins)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusgrade.grades import REFERABLE_FROM
from fundusgrade.metrics.bootstrap import TAILS, Resamples, estimate_proportion
from fundusgrade.metrics.classification import probability_from_grade
from fundusgrade.metrics.estimates import Estimate, ratio
from fundusgrade.metrics.predictions import ScoredPhotographs

MAX_BINS, MIN_PER_BIN = 15, 50
"""At most so many bins, each of so many photographs at least: the fraction observed among fewer says little."""
_NUM_SIMULATIONS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """Photographs of similar confidence: mean confidence, and observed proportion of correct answers, 0 to 1."""

    num_photographs: int
    confidence: float
    observed: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Calibration of the probability of an outcome, in bins of equally many photographs.

    `outcome` is "most probable grade" or "referable"; `by_chance` is the calibration error expected for a perfectly
    calibrated model on as many photographs, by sampling error: an error of that size is no evidence of miscalibration.
    """

    outcome: str
    calibration_error: Estimate
    by_chance: float
    bins: tuple[ReliabilityBin, ...]


def measure_reliability(photographs: ScoredPhotographs, resamples: Resamples) -> tuple[Reliability, ...]:
    """Reliability of the most probable grade and of the probability of referable retinopathy."""
    right = photographs.probabilities.argmax(axis=1) == photographs.grades
    referable = photographs.grades >= REFERABLE_FROM
    probability = probability_from_grade(photographs.probabilities, REFERABLE_FROM)
    return (
        _reliability("most probable grade", photographs.probabilities.max(axis=1), right, resamples),
        _reliability("referable", probability, referable, resamples),
    )


def _reliability(
    outcome: str, confidence: NDArray[np.float64], right: NDArray[np.bool_], resamples: Resamples
) -> Reliability:
    """Bins of equally many photographs, equal confidences together; every photograph keeps its bin in all resamples."""
    bins = _assign_bins(confidence)
    members = bins[:, None] == np.unique(bins)
    counts = resamples.totals(members)
    confident = resamples.totals(members * confidence[:, None])
    observed = resamples.totals(members & right[:, None])
    errors = ratio(np.abs(confident - observed).sum(axis=1), counts.sum(axis=1))
    by_chance = _expected_error(confidence, members)
    return Reliability(
        outcome=outcome,
        calibration_error=_inflated_estimate(errors, by_chance),
        by_chance=by_chance,
        bins=tuple(
            ReliabilityBin(
                num_photographs=int(count),
                confidence=float(total / count),
                observed=estimate_proportion(resamples, right, among),
            )
            for count, total, among in zip(counts[0], confident[0], members.T, strict=True)
        ),
    )


def _assign_bins(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each confidence (N,), from the lowest; a bin of too few photographs joins a neighbor."""
    from scipy.stats import rankdata

    num_bins = min(max(len(confidence) // MIN_PER_BIN, 1), MAX_BINS)
    bins = ((rankdata(confidence) - 0.5) * num_bins / len(confidence)).astype(np.int64)
    names, counts = np.unique(bins, return_counts=True)
    merged, number, held = {}, 0, 0
    for name, count in zip(names.tolist(), counts.tolist(), strict=True):
        if held >= MIN_PER_BIN:
            number, held = number + 1, 0
        merged[name] = number
        held += count
    if held < MIN_PER_BIN and number:
        merged = {name: min(of, number - 1) for name, of in merged.items()}
    return np.array([merged[name] for name in bins.tolist()], np.int64)


def _expected_error(confidence: NDArray[np.float64], members: NDArray[np.bool_]) -> float:
    """Mean error of simulated answers that are right as often as the confidence (N,), in bins (N, B); seeded."""
    rng = np.random.default_rng(0)
    right = rng.random((_NUM_SIMULATIONS, len(confidence))) < confidence
    return float(np.abs((right - confidence) @ members).sum(axis=1).mean() / len(confidence))


def _inflated_estimate(errors: NDArray[np.float64], by_chance: float) -> Estimate:
    """A calibration error and its interval from errors (1 + R,): of the photographs, then of each resample.

    Sampling error makes absolute differences larger: an error e is measured as about sqrt(e^2 + c^2), where c is the
    error of a perfectly calibrated model. Both bounds, as far from the value as the resamples reach, are freed of c,
    so that the interval of a calibrated model includes 0; the upper one is not less than the value.
    """
    value, resampled = float(errors[0]), errors[1:]
    reach = max(float(np.quantile(resampled, TAILS[1]) - resampled.mean()), 0.0)
    low, high = (max(max(bound, 0.0) ** 2 - by_chance**2, 0.0) ** 0.5 for bound in (value - reach, value + reach))
    return Estimate(value=value, low=low, high=max(high, value))
