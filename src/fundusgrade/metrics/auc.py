"""The area under the ROC curve, weighted, with DeLong's covariance."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fundusgrade.metrics.estimates import UNDEFINED, Estimate, ratio

_ROWS_AT_ONCE = 128
NO_VARIANCE = "perfectly separated, or too few groups"
"""The reason why an area has no interval."""

_NORMAL_975 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AucCovariance:
    """Areas (K,) under the ROC curves of K scores of the same photographs, and their covariance (K, K)."""

    areas: NDArray[np.float64]
    covariance: NDArray[np.float64]


def weighted_aucs(
    weights: NDArray[np.float32], positive: NDArray[np.bool_], scores: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Area under the ROC curve (M,), 0 to 1, for each row of weights (M, N) of N photographs with scores (N,).

    The proportion of pairs of a positive and a negative in which the positive has the higher score; ties count one half
    (Hanley and McNeil, Radiology 1982). NaN where a row has no positive or no negative photograph.
    """
    pairs = _weighted_pairs(weights, positive, scores)
    return ratio(pairs.wins, pairs.all)


def stratified_aucs(
    weights: NDArray[np.float32],
    positive: NDArray[np.bool_],
    scores: NDArray[np.float64],
    strata: NDArray[np.int64],
) -> NDArray[np.float64]:
    """As `weighted_aucs`, counting only pairs of photographs of the same stratum (N,).

    So what separates strata earns nothing (concordance with strata, as in the R package survival; the area under the
    covariate-adjusted curve of Janes and Pepe, Biometrika 2009, weighted by pairs). NaN where a row has no such pair.
    """
    wins, all_pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for stratum in np.unique(strata):
        members = strata == stratum
        pairs = _weighted_pairs(weights[:, members], positive[members], scores[members])
        wins += pairs.wins
        all_pairs += pairs.all
    return ratio(wins, all_pairs)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Pairs:
    """Weights (M,) of pairs of a positive and a negative: in which the positive has the higher score, and of all."""

    wins: NDArray[np.float64]
    all: NDArray[np.float64]


def _weighted_pairs(weights: NDArray[np.float32], positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> _Pairs:
    order = np.argsort(scores, kind="stable")
    positives, negatives = order[positive[order]], order[~positive[order]]
    below = np.searchsorted(scores[negatives], scores[positives], side="left")
    up_to = np.searchsorted(scores[negatives], scores[positives], side="right")
    wins, pairs = np.empty(len(weights)), np.empty(len(weights))
    for first in range(0, len(weights), _ROWS_AT_ONCE):
        rows = weights[first : first + _ROWS_AT_ONCE]
        weights_below = np.zeros((len(rows), len(negatives) + 1))
        np.cumsum(rows[:, negatives], axis=1, out=weights_below[:, 1:])
        positive_weights = rows[:, positives]
        won = np.einsum("mn,mn->m", positive_weights, weights_below[:, below] + weights_below[:, up_to]) / 2
        wins[first : first + len(rows)] = won
        pairs[first : first + len(rows)] = positive_weights.sum(axis=1, dtype=np.float64) * weights_below[:, -1]
    return _Pairs(wins=wins, all=pairs)


def delong_interval(positive: NDArray[np.bool_], scores: NDArray[np.float64], groups: NDArray[np.int64]) -> Estimate:
    """The area under the ROC curve with its analytic interval, by `auc_covariance`.

    On the scale of its log odds, where an area near 1 is less skewed (Pepe 2003, section 5.2). Undefined where all or
    none are positive; without bounds where positives or negatives are of one group only, or where scores separate them
    perfectly: the variance is then unknown.
    """
    if positive.all() or not positive.any():
        return UNDEFINED
    aucs = auc_covariance(positive, scores[None], groups)
    area, variance = float(aucs.areas[0]), float(aucs.covariance[0, 0])
    if not variance > 0:
        return Estimate(value=area, low=None, high=None, no_interval=NO_VARIANCE)
    odds = area / (1 - area)
    factor = float(np.exp(_NORMAL_975 * variance**0.5 / (area * (1 - area))))
    return Estimate(value=area, low=odds / (odds + factor), high=odds * factor / (odds * factor + 1))


def auc_covariance(
    positive: NDArray[np.bool_], scores: NDArray[np.float64], groups: NDArray[np.int64]
) -> AucCovariance:
    """Areas under the ROC curves of scores (K, N) of the same photographs, and their covariance.

    DeLong et al., Biometrics 1988, by mid-ranks (Sun and Xu, IEEE Signal Processing Letters 2014); photographs of one
    group count together (Obuchowski, Biometrics 1997). There must be positives and negatives; the covariance is NaN
    where either are of one group only.
    """
    from scipy.stats import rankdata

    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    ranks, within_positive, within_negative = (
        rankdata(values, axis=1) for values in (scores, scores[:, positive], scores[:, ~positive])
    )
    wins = (ranks[:, positive] - within_positive) / num_negative
    losses = 1 - (ranks[:, ~positive] - within_negative) / num_positive
    areas = wins.mean(axis=1)
    _, group = np.unique(groups, return_inverse=True)
    of_positive = _group_sums((wins - areas[:, None]) / num_positive, group[positive], group)
    of_negative = _group_sums((losses - areas[:, None]) / num_negative, group[~positive], group)
    cross = of_positive @ of_negative.T * _unbiased(group)
    covariance = (
        of_positive @ of_positive.T * _unbiased(group[positive])
        + of_negative @ of_negative.T * _unbiased(group[~positive])
        + (cross + cross.T)
    )
    return AucCovariance(areas=areas, covariance=covariance)


def _unbiased(group: NDArray[np.int64]) -> float:
    """The factor n / (n - 1) of an unbiased variance for n groups; NaN for one group."""
    count = len(np.unique(group))
    return count / (count - 1) if count > 1 else float("nan")


def _group_sums(
    parts: NDArray[np.float64], group: NDArray[np.int64], all_groups: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Sums (K, G) of each row of parts (K, N) over the photographs of each group."""
    return np.stack([np.bincount(group, row, minlength=int(all_groups.max()) + 1) for row in parts])
