"""Thresholds of the expected grade, fitted to calibrated probabilities of photographs for an objective.

Accuracy and macro F1 are sums over grades of a number that depends only on the two thresholds of the grade, and so are
numerator and denominator of kappa: their best thresholds are found exactly, by dynamic programming. The balanced merit
is no such sum; its thresholds are moved in turn until none moves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fundusgrade.grades import NUM_GRADES
from fundusgrade.metrics.confusion import accuracies, grade_f1s, kappas
from fundusgrade.metrics.estimates import ratio
from fundusgrade.options import DecideFor

# Expected grades are counted in bins of 0.02.
_STEPS = 50
_NUM_BINS = (NUM_GRADES - 1) * _STEPS + 1


def fit_thresholds(
    grades: NDArray[np.int64],
    expected_grades: NDArray[np.float64],
    decide_for: DecideFor = DecideFor.BALANCED,
    *,
    num_resamples: int = 50,
    seed: int = 0,
) -> tuple[float, ...]:
    """Four rising thresholds of the expected grade (0 to 4): the mean of those that are best in bootstrap resamples.

    `grades` and `expected_grades` are (N,). By default the objective is quadratic weighted kappa plus the mean of
    accuracy and macro F1: kappa alone sacrifices the intermediate grades. The best thresholds of a few hundred
    photographs depend on a few of them; their mean over resamples (bagging, Breiman, Machine Learning 1996) does so
    less. The same data and seed give the same thresholds.
    """
    bins = np.clip((expected_grades * _STEPS).round().astype(int), 0, _NUM_BINS - 1)
    rng = np.random.default_rng(seed)
    best_edges = []
    for _ in range(num_resamples):
        sampled = rng.integers(0, len(grades), len(grades))
        counts = np.zeros((NUM_GRADES, _NUM_BINS))
        np.add.at(counts, (grades[sampled], bins[sampled]), 1)
        best_edges.append(_best_edges(counts, decide_for))
    return tuple(float(value) for value in (np.mean(best_edges, axis=0) - 0.5) / _STEPS)


def _best_edges(counts: NDArray[np.float64], decide_for: DecideFor) -> NDArray[np.int64]:
    """The first bin (4,) of each grade from 1 that is best for an objective, from counts (5, B) of grades in bins."""
    if decide_for is DecideFor.BALANCED:
        return _ascend(counts)
    below = _counts_below(counts)
    # (5, B + 1, B + 1): photographs of each true grade in the bins from the first index to before the second.
    within = below[:, None, :] - below[:, :, None]
    if decide_for is DecideFor.KAPPA:
        return _edges_of_best_kappa(within)
    if decide_for is DecideFor.ACCURACY:
        return _edges_of_best_sum(within)
    both = counts.sum(axis=1)[:, None, None] + within.sum(axis=0)
    return _edges_of_best_sum(np.nan_to_num(ratio(2 * np.maximum(within, 0), np.maximum(both, 0))))


def _edges_of_best_sum(gains: NDArray[np.float64]) -> NDArray[np.int64]:
    """The edges (4,) of highest sum over grades of the gain (5, B + 1, B + 1) of calling a range of bins that grade.

    By dynamic programming; each grade gets at least one bin, and of equal sums the lower edges are taken.
    """
    num_edges = gains.shape[1]
    is_empty = np.tri(num_edges, dtype=bool)
    best = np.where(np.arange(num_edges) > 0, gains[0, 0], -np.inf)
    starts = []
    for of_grade in gains[1:]:
        reached = np.where(is_empty, -np.inf, best[:, None] + of_grade)
        starts.append(reached.argmax(axis=0))
        best = reached.max(axis=0)
    edges = [num_edges - 1]
    for start in reversed(starts):
        edges.insert(0, int(start[edges[0]]))
    return np.array(edges[:-1], np.int64)


def _edges_of_best_kappa(within: NDArray[np.float64]) -> NDArray[np.int64]:
    """The edges (4,) of highest kappa: of lowest ratio of observed to chance disagreement, by Dinkelbach's method.

    The ratio is improved by edges that maximize its value so far times the denominator, less the numerator, until it
    no longer is (Dinkelbach, Management Science 1967).
    """
    squared = np.subtract.outer(np.arange(NUM_GRADES), np.arange(NUM_GRADES)).astype(np.float64) ** 2
    num_true = within[:, 0, -1]
    observed = np.tensordot(squared, within, axes=1)
    by_chance = (squared @ num_true / num_true.sum())[:, None, None] * within.sum(axis=0)
    lowest = 1.0
    while True:
        edges = _edges_of_best_sum(lowest * by_chance - observed)
        ends = np.array([0, *edges, within.shape[1] - 1])
        grades, total = np.arange(NUM_GRADES), by_chance[np.arange(NUM_GRADES), ends[:-1], ends[1:]].sum()
        found = observed[grades, ends[:-1], ends[1:]].sum() / total if total > 0 else 0.0
        if found >= lowest - 1e-12:
            return edges
        lowest = found


def _counts_below(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Photographs of each true grade in the bins before each edge, (5, B + 1)."""
    return np.concatenate([np.zeros((NUM_GRADES, 1)), counts.cumsum(axis=1)], axis=1)


def _ascend(counts: NDArray[np.float64]) -> NDArray[np.int64]:
    """Edges (4,), each moved in turn to where the balanced merit is highest, until none moves."""
    below = _counts_below(counts)
    edges = np.round((np.arange(NUM_GRADES - 1) + 0.5) * _STEPS).astype(int) + 1
    for _ in range(20):
        before = edges.copy()
        for cut in range(NUM_GRADES - 1):
            low = edges[cut - 1] + 1 if cut else 1
            high = edges[cut + 1] if cut + 1 < NUM_GRADES - 1 else _NUM_BINS
            candidates = np.arange(low, high)
            if len(candidates):
                edges[cut] = candidates[_merits(below, edges, cut, candidates).argmax()]
        if (edges == before).all():
            break
    return edges


def _merits(
    below: NDArray[np.float64], edges: NDArray[np.int64], cut: int, candidates: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Kappa + (accuracy + macro F1) / 2, (C,), with one edge at each of the candidates."""
    all_edges = np.repeat(edges[None], len(candidates), axis=0)
    all_edges[:, cut] = candidates
    bounds = np.concatenate(
        [np.zeros((len(candidates), 1), int), all_edges, np.full((len(candidates), 1), _NUM_BINS)], axis=1
    )
    matrices = np.diff(below[:, bounds], axis=2).transpose(1, 0, 2)
    # Kappa is undefined where all photographs have one grade and are predicted so: nothing is wrong then.
    kappa = np.nan_to_num(kappas(matrices), nan=1.0)
    f1 = np.nan_to_num(grade_f1s(matrices)).mean(axis=1)
    return np.asarray(kappa + (accuracies(matrices) + f1) / 2)
