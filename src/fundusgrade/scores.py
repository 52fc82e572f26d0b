"""Every score of one model with its interval: agreement, errors, probabilities, decisions, reliability."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fundusgrade.grades import GRADE_LABELS, NUM_GRADES, REFERABLE_FROM, SIGHT_THREATENING_FROM
from fundusgrade.predictions import ScoredPhotographs
from fundusgrade.resampling import TAILS, UNDEFINED, Estimate, Resample, estimate, estimate_share, ratio

DECISIONS = (("referable", int(REFERABLE_FROM)), ("sight-threatening", int(SIGHT_THREATENING_FROM)))
"""Binary decisions: the name, and the grade from which on it is answered with yes."""

NUM_BINS = 15
_CHANCE_DRAWS = 200
# A file of predictions holds six digits: what it writes as 0 may be as much as this.
_SMALLEST_PROBABILITY = 5e-7
_DRAWS_AT_ONCE = 128
_DISTANCES = np.abs(np.subtract.outer(np.arange(NUM_GRADES), np.arange(NUM_GRADES)))
_NORMAL_TAIL = NormalDist().inv_cdf(TAILS[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedEstimate:
    """A score by its name, such as "quadratic weighted kappa" or "F1, Severe"."""

    name: str
    estimate: Estimate


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


def score_predictions(photographs: ScoredPhotographs, sample: Resample) -> tuple[NamedEstimate, ...]:
    """All scores of N photographs with intervals from their resample, in the order in which they are read."""
    matrices = weighted_matrices(sample, photographs.grades, photographs.predicted)
    named = [
        ("quadratic weighted kappa", estimate(kappas(matrices), sample)),
        ("accuracy", share_off_by(photographs, sample, range(1))),
        *_matrix_scores(matrices, sample),
        ("off by two or more", share_off_by(photographs, sample, range(2, NUM_GRADES))),
        *((name, estimate(values, sample)) for name, values in probability_scores(photographs, sample).items()),
        ("macro AUC", estimate(macro_aucs(photographs, sample), sample)),
        *(score for what, start in DECISIONS for score in _decision_scores(photographs, sample, what, start)),
        *((f"{what} AUC (DeLong)", delong_interval(*_decision(photographs, start), photographs.groups))
          for what, start in DECISIONS),
    ]  # fmt: skip
    return tuple(NamedEstimate(name=name, estimate=found) for name, found in named)


# Scores of predicted grades


def weighted_matrices(sample: Resample, grades: NDArray[np.int64], predicted: NDArray[np.int64]) -> NDArray[np.float64]:
    """Confusion matrices (1 + D, 5, 5) of all draws: rows are true grades, columns predicted ones."""
    cells = (grades * NUM_GRADES + predicted)[:, None] == np.arange(NUM_GRADES**2)
    return sample.totals(cells).reshape(-1, NUM_GRADES, NUM_GRADES)


def kappas(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quadratic weighted kappa (M,) of matrices (M, 5, 5), NaN where chance leaves no disagreement."""
    squared = _DISTANCES**2
    by_chance = np.einsum("mi,mj,ij->m", matrices.sum(axis=2), matrices.sum(axis=1), squared, optimize=True)
    observed = np.einsum("mij,ij->m", matrices, squared) * matrices.sum(axis=(1, 2))
    return 1 - ratio(observed, by_chance)


def accuracies(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of right grades (M,) of matrices (M, 5, 5)."""
    return ratio(np.trace(matrices, axis1=1, axis2=2), matrices.sum(axis=(1, 2)))


def grade_f1s(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 of each grade (M, 5) of matrices (M, 5, 5), NaN where a grade is neither true nor predicted."""
    hits = np.diagonal(matrices, axis1=1, axis2=2)
    return ratio(2 * hits, matrices.sum(axis=1) + matrices.sum(axis=2))


def mean_of_defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean (M,) of each row of values (M, K) without NaN; NaN where a row holds nothing else."""
    return ratio(np.nansum(values, axis=1), (~np.isnan(values)).sum(axis=1).astype(np.float64))


def mean_distances(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean absolute error in grades (M,) of matrices (M, 5, 5)."""
    return ratio(np.einsum("mij,ij->m", matrices, _DISTANCES), matrices.sum(axis=(1, 2)))


def _matrix_scores(matrices: NDArray[np.float64], sample: Resample) -> list[tuple[str, Estimate]]:
    f1s = grade_f1s(matrices)
    recalls = ratio(np.diagonal(matrices, axis1=1, axis2=2), matrices.sum(axis=2))
    return [
        ("balanced accuracy", estimate(mean_of_defined(recalls), sample)),
        ("macro F1", estimate(mean_of_defined(f1s), sample)),
        *((f"F1, {label}", estimate(f1s[:, grade], sample)) for grade, label in enumerate(GRADE_LABELS)),
        ("mean absolute error", estimate(mean_distances(matrices), sample)),
    ]


def share_off_by(photographs: ScoredPhotographs, sample: Resample, distances: range) -> Estimate:
    """Share of photographs whose predicted grade is off by one of the distances; `range(1)` is accuracy."""
    off = np.isin(np.abs(photographs.grades - photographs.predicted), distances)
    return estimate_share(sample, off, np.ones_like(off))


# Scores of probabilities


def probability_scores(photographs: ScoredPhotographs, sample: Resample) -> dict[str, NDArray[np.float64]]:
    """Ranked probability, Brier and log score (1 + D,) of all draws, by name; the lower the better.

    The ranked probability score (Epstein, Journal of Applied Meteorology 1969) is divided by 4, the number of cuts, so
    that it is 0 to 1; the Brier score is the sum over all grades (Brier, Monthly Weather Review 1950), 0 to 2.
    """
    names, columns = zip(*photograph_losses(photographs).items(), strict=True)
    totals = sample.totals(np.stack([*columns, np.ones(len(photographs))], axis=1))
    return {name: ratio(totals[:, i], totals[:, -1]) for i, name in enumerate(names)}


def photograph_losses(photographs: ScoredPhotographs) -> dict[str, NDArray[np.float64]]:
    """What each photograph (N,) adds to the scores of `probability_scores`."""
    truth = photographs.grades[:, None] == np.arange(NUM_GRADES)
    gaps = photographs.probabilities - truth
    given = photographs.probabilities[truth]
    return {
        "ranked probability score": (gaps.cumsum(axis=1)[:, :-1] ** 2).sum(axis=1) / (NUM_GRADES - 1),
        "Brier score": (gaps**2).sum(axis=1),
        "log loss": -np.log(np.maximum(given, _SMALLEST_PROBABILITY)),
    }


def macro_aucs(photographs: ScoredPhotographs, sample: Resample) -> NDArray[np.float64]:
    """Mean over grades of the area under the curve of a grade against all others, (1 + D,)."""
    each = [
        weighted_aucs(sample.weights, photographs.grades == grade, photographs.probabilities[:, grade])
        for grade in range(NUM_GRADES)
    ]
    return mean_of_defined(np.stack(each, axis=1))


# Binary decisions


def decision_scores(probabilities: NDArray[np.float64], start: int) -> NDArray[np.float64]:
    """Probability (N,) of the grade `start` or worse."""
    return np.asarray(probabilities[:, start:].sum(axis=1), np.float64)


def _decision(photographs: ScoredPhotographs, start: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    return photographs.grades >= start, decision_scores(photographs.probabilities, start)


def _decision_scores(
    photographs: ScoredPhotographs, sample: Resample, what: str, start: int
) -> list[tuple[str, Estimate]]:
    positive, scores = _decision(photographs, start)
    called = photographs.predicted >= start
    return [
        (f"{what} AUC", estimate(weighted_aucs(sample.weights, positive, scores), sample)),
        (f"{what} sensitivity", estimate_share(sample, called, positive)),
        (f"{what} specificity", estimate_share(sample, ~called, ~positive)),
    ]


def weighted_aucs(
    weights: NDArray[np.float32], positive: NDArray[np.bool_], scores: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Area under the ROC curve (M,) for each row of weights (M, N), ties counting one half; NaN where undefined."""
    order = np.argsort(scores, kind="stable")
    positives, negatives = order[positive[order]], order[~positive[order]]
    below = np.searchsorted(scores[negatives], scores[positives], side="left")
    up_to = np.searchsorted(scores[negatives], scores[positives], side="right")
    found = np.empty(len(weights))
    for first in range(0, len(weights), _DRAWS_AT_ONCE):
        rows = weights[first : first + _DRAWS_AT_ONCE]
        passed = np.zeros((len(rows), len(negatives) + 1))
        np.cumsum(rows[:, negatives], axis=1, out=passed[:, 1:])
        won = rows[:, positives]
        wins = np.einsum("mn,mn->m", won, passed[:, below] + passed[:, up_to]) / 2
        pairs = won.sum(axis=1, dtype=np.float64) * passed[:, -1]
        found[first : first + len(rows)] = ratio(wins, pairs)
    return found


def delong_interval(positive: NDArray[np.bool_], scores: NDArray[np.float64], groups: NDArray[np.int64]) -> Estimate:
    """The area under the ROC curve and its interval without draws, by `auc_covariance`.

    On the scale of its log odds, where an area near 1 is less skewed (Pepe 2003, section 5.2). Undefined where one side
    is missing; without bounds where a side has one group only or both are fully apart: the variance is then unknown.
    """
    if positive.all() or not positive.any():
        return UNDEFINED
    areas, covariance = auc_covariance(positive, scores[None], groups)
    area, variance = float(areas[0]), float(covariance[0, 0])
    if not variance > 0:
        return Estimate(value=area, low=None, high=None)
    odds = area / (1 - area)
    factor = float(np.exp(_NORMAL_TAIL * variance**0.5 / (area * (1 - area))))
    return Estimate(value=area, low=odds / (odds + factor), high=odds * factor / (odds * factor + 1))


def auc_covariance(
    positive: NDArray[np.bool_], scores: NDArray[np.float64], groups: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Areas (K,) under the ROC curves of scores (K, N) of the same photographs, and their covariance (K, K).

    DeLong et al., Biometrics 1988, by mid-ranks (Sun and Xu, IEEE Signal Processing Letters 2014); photographs of one
    group count together (Obuchowski, Biometrics 1997). Both sides must be there; NaN where a side has one group only.
    """
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    ranks = np.stack([_mid_ranks(row) for row in scores])
    within_positive = np.stack([_mid_ranks(row) for row in scores[:, positive]])
    within_negative = np.stack([_mid_ranks(row) for row in scores[:, ~positive]])
    wins = (ranks[:, positive] - within_positive) / num_negative
    losses = 1 - (ranks[:, ~positive] - within_negative) / num_positive
    areas = wins.mean(axis=1)
    _, group = np.unique(groups, return_inverse=True)
    of_positive = _group_sums((wins - areas[:, None]) / num_positive, group[positive], group)
    of_negative = _group_sums((losses - areas[:, None]) / num_negative, group[~positive], group)
    cross = of_positive @ of_negative.T * _unbiased(group)
    return areas, (
        of_positive @ of_positive.T * _unbiased(group[positive])
        + of_negative @ of_negative.T * _unbiased(group[~positive])
        + (cross + cross.T)
    )


def _unbiased(group: NDArray[np.int64]) -> float:
    count = len(np.unique(group))
    return count / (count - 1) if count > 1 else float("nan")


def _group_sums(
    parts: NDArray[np.float64], group: NDArray[np.int64], all_groups: NDArray[np.int64]
) -> NDArray[np.float64]:
    return np.stack([np.bincount(group, row, minlength=int(all_groups.max()) + 1) for row in parts])


def _mid_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, position, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[position], np.float64)


# Reliability


def measure_reliability(photographs: ScoredPhotographs, sample: Resample) -> tuple[Reliability, ...]:
    """Reliability of the most probable grade and of the probability of referable retinopathy."""
    right = photographs.probabilities.argmax(axis=1) == photographs.grades
    referable, probability = _decision(photographs, int(REFERABLE_FROM))
    return (
        _reliability("most probable grade", photographs.probabilities.max(axis=1), right, sample),
        _reliability("referable", probability, referable, sample),
    )


def _reliability(what: str, confidence: NDArray[np.float64], right: NDArray[np.bool_], sample: Resample) -> Reliability:
    """Bins of equally many photographs, equal confidences together; draws leave every photograph in its bin."""
    bins = ((_mid_ranks(confidence) - 0.5) * NUM_BINS / len(confidence)).astype(int)
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
