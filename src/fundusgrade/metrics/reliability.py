"""Reliability: how well confidence matches accuracy (calibration error and its bins)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusgrade.grades import REFERABLE_FROM
from fundusgrade.metrics.auc import mid_ranks
from fundusgrade.metrics.bootstrap import TAILS, Estimate, Resample, ratio
from fundusgrade.metrics.predictions import ScoredPhotographs
from fundusgrade.metrics.scores import binary_decision

NUM_BINS = 15
_CHANCE_DRAWS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """Photographs of like confidence: their mean confidence and the share that was right."""

    num_photographs: int
    confidence: float
    observed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Is confidence earned? `what` is "most probable grade" or "referable"; bins hold equally many photographs.

    `by_chance` is the mean calibration error of a model whose confidence is exactly right, on as many photographs:
    an error of that size is no evidence against a model.
    """

    what: str
    calibration_error: Estimate
    by_chance: float
    bins: tuple[ReliabilityBin, ...]


# Reliability


def measure_reliability(photographs: ScoredPhotographs, sample: Resample) -> tuple[Reliability, ...]:
    """Reliability of the most probable grade and of the probability of referable retinopathy."""
    right = photographs.probabilities.argmax(axis=1) == photographs.grades
    referable, probability = binary_decision(photographs, int(REFERABLE_FROM))
    return (
        _reliability("most probable grade", photographs.probabilities.max(axis=1), right, sample),
        _reliability("referable", probability, referable, sample),
    )


def _reliability(what: str, confidence: NDArray[np.float64], right: NDArray[np.bool_], sample: Resample) -> Reliability:
    """Bins of equally many photographs, equal confidences together; draws leave every photograph in its bin."""
    bins = ((mid_ranks(confidence) - 0.5) * NUM_BINS / len(confidence)).astype(int)
    members = bins[:, None] == np.unique(bins)
    counts = sample.totals(members)
    confident = sample.totals(members * confidence[:, None])
    observed = sample.totals(members & right[:, None])
    errors = ratio(np.abs(confident - observed).sum(axis=1), counts.sum(axis=1))
    return Reliability(
        what=what,
        calibration_error=_inflated_estimate(errors),
        by_chance=_error_by_chance(confidence, members),
        bins=tuple(
            ReliabilityBin(num_photographs=int(count), confidence=float(sure / count), observed=float(hits / count))
            for count, sure, hits in zip(counts[0], confident[0], observed[0], strict=True)
        ),
    )


def _error_by_chance(confidence: NDArray[np.float64], members: NDArray[np.bool_]) -> float:
    """Mean error if photographs were right exactly as often as their confidence (N,) says, in bins (N, B); seeded."""
    rng = np.random.default_rng(0)
    right = rng.random((_CHANCE_DRAWS, len(confidence))) < confidence
    return float(np.abs((right - confidence) @ members).sum(axis=1).mean() / len(confidence))


def _inflated_estimate(errors: NDArray[np.float64]) -> Estimate:
    """A calibration error and its interval from errors (1 + D,): as measured, then of each draw.

    Noise makes absolute differences larger, in the sample as in its draws. The lower bound therefore allows for as much
    noise in what is measured as the draws add to it; the upper one makes no allowance.
    """
    value, draws = float(errors[0]), errors[1:]
    highest = float(np.quantile(draws, TAILS[1]))
    low, high = max(0.0, 2 * value - highest), value + highest - min(float(draws.mean()), highest)
    return Estimate(value=value, low=min(low, value), high=high)
