"""What is fitted on the validation split once a network is trained: how much its outputs are worth, and its thresholds.

A loss that weighs rare grades up teaches probabilities of a world where all grades are equally common; adding
`power * log(frequency)` to the logits goes back towards this one (logit adjustment, Menon et al., ICLR 2021). One
temperature makes confidence honest (Guo et al., ICML 2017), and a severity gets the cutpoints of an ordered logit
(McCullagh, JRSS B 1980). All are fitted by log loss. Thresholds of the expected grade are chosen afterwards.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fundusgrade.grades import NUM_GRADES
from fundusgrade.metrics.classification import quadratic_weighted_kappa
from fundusgrade.networks.heads import MIDDLES, NUM_CUTS, UNCALIBRATED, Calibration, grade_logits
from fundusgrade.options import Head

# Shares of the way back from weighted classes; 1 undoes the weights wholly.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
_LOG_TEMPERATURE = (-3.0, 3.0)
_NARROWEST_GRADE = 1e-3


def fit_calibration(
    head: Head,
    outputs: Tensor,
    grades: NDArray[np.int64],
    num_per_grade: NDArray[np.int64],
    *,
    class_weight_power: float,
) -> Calibration:
    """The calibration of least log loss on outputs (N, n) of validation photographs with grades (N,).

    `num_per_grade` (5,) counts the training photographs, `class_weight_power` is the power of the inverse frequency in
    the loss.
    """
    if head is Head.REGRESSION:
        return _fit_cutpoints(outputs, grades)
    shares = SHARES if head is Head.SOFTMAX and class_weight_power > 0 else (0.0,)
    starts = [Calibration(offsets=frequency_offsets(num_per_grade, share * class_weight_power)) for share in shares]
    fitted = [fit_temperature(head, outputs, grades, start) for start in starts]
    return min(fitted, key=lambda each: _log_loss(head, outputs, grades, each))


def choose_offsets(
    outputs: Tensor, grades: NDArray[np.int64], num_per_grade: NDArray[np.int64], *, class_weight_power: float
) -> Calibration:
    """The share of a softmax's class weights whose undoing gives the most probable grades the highest kappa.

    The smallest of equally good shares; the temperature stays 1.
    """
    tried = []
    for share in SHARES if class_weight_power > 0 else (0.0,):
        calibration = Calibration(offsets=frequency_offsets(num_per_grade, share * class_weight_power))
        predicted = grade_logits(Head.SOFTMAX, outputs, calibration).argmax(dim=1).numpy()
        tried.append((calibration, quadratic_weighted_kappa(grades, predicted)))
    return max(tried, key=lambda each: -2.0 if each[1] is None else each[1])[0]


def fit_temperature(head: Head, outputs: Tensor, grades: NDArray[np.int64], start: Calibration) -> Calibration:
    """The same calibration with the temperature of least log loss; the order of the grades stays as it is."""
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        return _log_loss(head, outputs, grades, replace(start, temperature=float(np.exp(log_temperature))))

    found = minimize_scalar(loss, bounds=_LOG_TEMPERATURE, method="bounded")
    return replace(start, temperature=float(np.exp(found.x)))


def frequency_offsets(num_per_grade: NDArray[np.int64], power: float) -> tuple[float, ...]:
    """`power * log(frequency)` of each grade; a grade that was never seen counts as half a photograph."""
    counts = np.maximum(np.asarray(num_per_grade, np.float64), 0.5)
    return tuple(float(value) for value in power * np.log(counts / counts.sum()))


def _log_loss(head: Head, outputs: Tensor, grades: NDArray[np.int64], calibration: Calibration) -> float:
    logits = grade_logits(head, outputs.double(), calibration)
    return float(torch.nn.functional.cross_entropy(logits, torch.as_tensor(grades)))


def _fit_cutpoints(outputs: Tensor, grades: NDArray[np.int64]) -> Calibration:
    """Cutpoints and scale of an ordered logit; the first cutpoint and the logarithms of the steps are searched."""
    from scipy.optimize import minimize

    def read(parameters: NDArray[np.float64]) -> Calibration:
        steps = np.exp(np.clip(parameters[2:], np.log(_NARROWEST_GRADE), 3.0))
        cutpoints = parameters[1] + np.concatenate([[0.0], np.cumsum(steps)])
        temperature = float(np.exp(np.clip(parameters[0], *_LOG_TEMPERATURE)))
        return Calibration(temperature=temperature, cutpoints=tuple(float(cut) for cut in cutpoints))

    def loss(parameters: NDArray[np.float64]) -> float:
        return _log_loss(Head.REGRESSION, outputs, grades, read(parameters))

    start = np.array([0.0, MIDDLES[0], *np.log(np.diff(MIDDLES))])
    found = minimize(loss, start, method="L-BFGS-B")
    return read(found.x) if found.fun < loss(start) else UNCALIBRATED


def fit_thresholds(
    grades: NDArray[np.int64], expected_grades: NDArray[np.float64], *, num_resamples: int = 50, seed: int = 0
) -> tuple[float, ...]:
    """Four rising thresholds of the expected grade (0 to 4), the mean over bootstrap draws of those of highest merit.

    Merit is kappa plus the mean of accuracy and macro F1: kappa alone gives up the grades in between. The single best
    thresholds of a few hundred photographs hang on a few of them; their mean over draws with replacement (bagging,
    Breiman, Machine Learning 1996) does so less. Seeded, so that the same data give the same.
    """
    bins = np.clip((expected_grades * _STEPS).round().astype(int), 0, _NUM_BINS - 1)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(num_resamples):
        drawn = rng.integers(0, len(grades), len(grades))
        counts = np.zeros((NUM_GRADES, _NUM_BINS))
        np.add.at(counts, (grades[drawn], bins[drawn]), 1)
        found.append(_best_edges(counts))
    return tuple(float(value) for value in (np.mean(found, axis=0) - 0.5) / _STEPS)


# Expected grades are counted in bins of 0.02.
_STEPS = 50
_NUM_BINS = (NUM_GRADES - 1) * _STEPS + 1


def _best_edges(counts: NDArray[np.float64]) -> NDArray[np.int64]:
    """Bins (4,) at which the next grade begins, each moved in turn to the place of highest merit until none moves."""
    below = np.concatenate([np.zeros((NUM_GRADES, 1)), counts.cumsum(axis=1)], axis=1)
    edges = np.round(np.array(MIDDLES) * _STEPS).astype(int) + 1
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
    distance = np.subtract.outer(np.arange(NUM_GRADES), np.arange(NUM_GRADES)) ** 2
    margins = matrices.sum(axis=2)[:, :, None] * matrices.sum(axis=1)[:, None, :]
    chance = (distance * margins).sum(axis=(1, 2)) / matrices.sum(axis=(1, 2))
    kappa = 1 - (distance * matrices).sum(axis=(1, 2)) / np.maximum(chance, 1e-12)
    hits = np.diagonal(matrices, axis1=1, axis2=2)
    f1 = 2 * hits / np.maximum(matrices.sum(axis=2) + matrices.sum(axis=1), 1e-12)
    return np.asarray(kappa + (hits.sum(axis=1) / matrices.sum(axis=(1, 2)) + f1.mean(axis=1)) / 2)
