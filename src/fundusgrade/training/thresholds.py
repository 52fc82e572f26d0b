"""Thresholds of the expected grade, fitted to calibrated probabilities of validation photographs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fundusgrade.grades import NUM_GRADES
from fundusgrade.metrics.confusion import accuracies, grade_f1s, kappas
from fundusgrade.networks.heads import MIDPOINTS, NUM_CUTS

# Expected grades are counted in bins of 0.02.
_STEPS = 50
_NUM_BINS = (NUM_GRADES - 1) * _STEPS + 1


def fit_thresholds(
    grades: NDArray[np.int64], expected_grades: NDArray[np.float64], *, num_resamples: int = 50, seed: int = 0
) -> tuple[float, ...]:
    """Four rising thresholds of the expected grade (0 to 4): the mean of those of highest merit in bootstrap resamples.

    `grades` and `expected_grades` are (N,). Merit is quadratic weighted kappa plus the mean of
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
        best_edges.append(_best_edges(counts))
    return tuple(float(value) for value in (np.mean(best_edges, axis=0) - 0.5) / _STEPS)


def _best_edges(counts: NDArray[np.float64]) -> NDArray[np.int64]:
    """The first bin (4,) of each grade from 1, each moved in turn to where merit is highest, until none moves."""
    below = np.concatenate([np.zeros((NUM_GRADES, 1)), counts.cumsum(axis=1)], axis=1)
    edges = np.round(np.array(MIDPOINTS) * _STEPS).astype(int) + 1
    for _ in range(20):
        before = edges.copy()
        for cut in range(NUM_CUTS):
            low = edges[cut - 1] + 1 if cut else 1
            high = edges[cut + 1] if cut + 1 < NUM_CUTS else _NUM_BINS
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
