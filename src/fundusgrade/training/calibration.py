"""What is fitted on the validation split once a network is trained: the calibration of its outputs, and thresholds.

A loss with class weights teaches the probabilities of a population in which all grades are equally common; adding
`power * log(frequency)` to the logits goes back towards the frequencies of the training split (logit adjustment, Menon
et al., ICLR 2021). One temperature corrects confidence (Guo et al., ICML 2017), and a severity gets the cutpoints of an
ordered logit (McCullagh, JRSS B 1980). All are fitted by log loss with a weak prior towards no change, which makes the
optimum unique where few photographs, or outputs that hardly differ, leave the log loss flat. Thresholds of the expected
grade are chosen afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import functional

from fundusgrade.grades import NUM_GRADES
from fundusgrade.metrics.classification import quadratic_weighted_kappa
from fundusgrade.metrics.confusion import accuracies, grade_f1s, kappas
from fundusgrade.networks.heads import MIDDLES, NUM_CUTS, SEVERITY_SCALE, Calibration, grade_logits
from fundusgrade.options import Head

# Fractions of the class weights' effect that are undone; 1 undoes it wholly.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
LOG_TEMPERATURE_RANGE = (-3.0, 3.0)
# Weight of the prior, in photographs: the log loss of N photographs outweighs it about N times.
PRIOR_PHOTOGRAPHS = 1.0
_GRID = torch.linspace(*LOG_TEMPERATURE_RANGE, 13, dtype=torch.float64)
_MAX_NEWTON_STEPS = 100


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
    """The same calibration with the temperature T of least penalized log loss; the order of the grades stays.

    In 1/T the log loss is convex and the prior strictly so: there is one optimum, and it moves as little as the outputs
    do. T lies in exp(-3) to exp(3).
    """
    logits = outputs.double()
    if head is Head.SOFTMAX:
        logits = logits + torch.tensor(start.offsets, dtype=torch.float64)
    targets = torch.as_tensor(grades)

    def objective(inverse: Tensor) -> Tensor:
        log_loss = torch.nn.functional.cross_entropy(grade_logits(head, logits * inverse), targets)
        return log_loss + PRIOR_PHOTOGRAPHS / len(targets) * _pull_to_one(inverse).sum()

    found = _minimize(objective, [torch.exp(-log_temperature).reshape(1) for log_temperature in _GRID])
    return replace(start, temperature=float(np.exp(np.clip(-np.log(float(found)), *LOG_TEMPERATURE_RANGE))))


def frequency_offsets(num_per_grade: NDArray[np.int64], power: float) -> tuple[float, ...]:
    """`power * log(frequency)` of each grade; a grade that was never seen counts as half a photograph."""
    counts = np.maximum(np.asarray(num_per_grade, np.float64), 0.5)
    return tuple(float(value) for value in power * np.log(counts / counts.sum()))


def _log_loss(head: Head, outputs: Tensor, grades: NDArray[np.int64], calibration: Calibration) -> float:
    logits = grade_logits(head, outputs.double(), calibration)
    return float(torch.nn.functional.cross_entropy(logits, torch.as_tensor(grades)))


def _fit_cutpoints(outputs: Tensor, grades: NDArray[np.int64]) -> Calibration:
    """Cutpoints and scale of an ordered logit, of least penalized log loss.

    The parameters (5,) are 1/T, the first cutpoint / T, and the steps to the other cutpoints / T, in which the log loss
    is convex (Burridge, JRSS B 1981). The prior keeps 1/T and the steps positive, so that the cutpoints rise.
    """
    severities, targets = outputs.double(), torch.as_tensor(grades)

    def objective(parameters: Tensor) -> Tensor:
        inverse, first, steps = parameters[0], parameters[1], parameters[2:]
        scaled_cutpoints = first + torch.cat([torch.zeros(1, dtype=torch.float64), steps.cumsum(0)])
        worse_than = (severities * inverse - scaled_cutpoints) / SEVERITY_SCALE
        log_loss = torch.nn.functional.cross_entropy(grade_logits(Head.CUMULATIVE, worse_than), targets)
        prior = _pull_to_one(inverse) + _pull_to_one(steps).sum() + (first - MIDDLES[0]).square() / 2
        return log_loss + PRIOR_PHOTOGRAPHS / len(targets) * prior

    uncalibrated = torch.tensor([1.0, MIDDLES[0], *np.diff(MIDDLES)], dtype=torch.float64)
    found = _minimize(objective, [uncalibrated * torch.exp(-log_temperature) for log_temperature in _GRID]).numpy()
    cutpoints = (found[1] + np.concatenate([[0.0], found[2:].cumsum()])) / found[0]
    return Calibration(temperature=float(1 / found[0]), cutpoints=tuple(float(cut) for cut in cutpoints))


def _pull_to_one(positive: Tensor) -> Tensor:
    """Minus the logarithm of a gamma density with mode 1, up to a constant: 0 at 1, and infinite at 0 and infinity."""
    return positive - 1 - positive.log()


def _minimize(objective: Callable[[Tensor], Tensor], starts: list[Tensor]) -> Tensor:
    """The minimum (n,) of a strictly convex function, by Newton's method from the best of the starts.

    Steps that do not lower the function enough are halved (Boyd and Vandenberghe, Convex Optimization, 9.5).
    """
    point = min(starts, key=lambda start: float(objective(start)))
    for _ in range(_MAX_NEWTON_STEPS):
        gradient = functional.jacobian(objective, point)  # type: ignore[no-untyped-call]
        hessian = functional.hessian(objective, point)  # type: ignore[no-untyped-call]
        step = -torch.linalg.solve(hessian, gradient)
        decrease, size = -float(gradient @ step), 1.0
        # Close to the minimum differences of the function are rounding, and whole steps are right.
        while decrease > 1e-10 and not objective(point + size * step) <= objective(point) - 0.25 * size * decrease:
            size /= 2
        point = point + size * step
        if decrease < 1e-14:
            break
    return point


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
    # The kappa is undefined where all are of one grade and predicted so: nothing is wrong then.
    kappa = np.nan_to_num(kappas(matrices), nan=1.0)
    f1 = np.nan_to_num(grade_f1s(matrices)).mean(axis=1)
    return np.asarray(kappa + (accuracies(matrices) + f1) / 2)
