"""The area under the ROC curve, weighted, with DeLong's covariance."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fundusgrade.metrics.bootstrap import TAILS, UNDEFINED, Estimate, ratio

_DRAWS_AT_ONCE = 128

_NORMAL_TAIL = NormalDist().inv_cdf(TAILS[1])


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
    ranks = np.stack([mid_ranks(row) for row in scores])
    within_positive = np.stack([mid_ranks(row) for row in scores[:, positive]])
    within_negative = np.stack([mid_ranks(row) for row in scores[:, ~positive]])
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


def mid_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, position, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[position], np.float64)
