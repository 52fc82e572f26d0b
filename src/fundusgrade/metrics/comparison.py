"""Pairs of models on the same photographs: differences of their scores, and significance tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fundusgrade.grades import REFERABLE_FROM
from fundusgrade.metrics.auc import auc_covariance
from fundusgrade.metrics.bootstrap import Resamples, estimate, measure_correction
from fundusgrade.metrics.classification import (
    confusion_matrix,
    expected_grades,
    probability_from_grade,
    quadratic_weighted_kappa,
)
from fundusgrade.metrics.confusion import accuracies, kappas
from fundusgrade.metrics.estimates import UNDEFINED, Estimate, describe_p_value
from fundusgrade.metrics.predictions import PredictionSet, ScoredPhotographs
from fundusgrade.metrics.scores import aucs_within_acquisition, kappas_within_acquisition, weighted_matrices

MAX_DISAGREEMENTS = 20
# Halvings of the search for a p-value: to a millionth.
_HALVINGS = 20
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """A photograph to which two models give different grades, its true grade, and the expected grades, 0.0 to 4.0."""

    source: str
    grade: int
    first: int
    second: int
    first_expected: float
    second_expected: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedComparison:
    """Two models on the same photographs; p-values are corrected by Holm over all pairs, each kind of test separately.

    There are none where one of the two was trained or selected on photographs that are scored (`is_inflated`): a test
    would compare memory with skill.

    Differences are the first model's score less the second's. `agreement` (5, 5) counts photographs by the first
    model's grade (row) and the second's (column), `agreement_kappa` is their kappa. `num_first_only` counts photographs
    that only the first grades right. Differences within acquisition are undefined where it is not known.
    """

    first: str
    second: str
    kappa_difference: Estimate
    kappa_p: float | None
    accuracy_difference: Estimate
    num_first_only: int
    num_second_only: int
    mcnemar_p: float | None
    auc_difference: Estimate
    auc_p: float | None
    kappa_difference_within_acquisition: Estimate
    auc_difference_within_acquisition: Estimate
    agreement_kappa: float | None
    agreement: tuple[tuple[int, ...], ...]
    disagreements: tuple[Disagreement, ...]
    is_inflated: bool = False

    def describe_p(self, p: float | None) -> str:
        """One of the p-values for people: "0.012", or why there is none."""
        return "not tested" if self.is_inflated else describe_p_value(p)


def compare_all(sets: Sequence[PredictionSet], resamples: Resamples) -> tuple[PairedComparison, ...]:
    """All pairs of models on the same test photographs in the same order, with Holm's correction."""
    matrices = [weighted_matrices(resamples, model.test.grades, model.test.predicted) for model in sets]
    pairs = [
        _without_tests(pair) if sets[i].is_inflated or sets[j].is_inflated else pair
        for i, j in combinations(range(len(sets)), 2)
        for pair in [_compare(sets[i], sets[j], matrices[i], matrices[j], resamples)]
    ]
    kappa_ps = correct_by_holm([pair.kappa_p for pair in pairs])
    auc_ps = correct_by_holm([pair.auc_p for pair in pairs])
    mcnemar_ps = correct_by_holm([pair.mcnemar_p for pair in pairs])
    return tuple(
        replace(pair, kappa_p=kappa_p, auc_p=auc_p, mcnemar_p=mcnemar_p)
        for pair, kappa_p, auc_p, mcnemar_p in zip(pairs, kappa_ps, auc_ps, mcnemar_ps, strict=True)
    )


def _compare(
    first: PredictionSet,
    second: PredictionSet,
    first_matrices: NDArray[np.float64],
    second_matrices: NDArray[np.float64],
    resamples: Resamples,
) -> PairedComparison:
    """One pair, p-values uncorrected; the resamples are the same for both, so common variation cancels."""
    one, other = first.test, second.test
    right, other_right = one.predicted == one.grades, other.predicted == other.grades
    num_first_only, num_second_only = int((right & ~other_right).sum()), int((other_right & ~right).sum())
    kappa_differences = kappas(first_matrices) - kappas(second_matrices)
    kappa_difference = estimate(kappa_differences, resamples)
    auc_difference, auc_p = compare_aucs(one, other)
    return PairedComparison(
        first=first.model,
        second=second.model,
        kappa_difference=kappa_difference,
        kappa_p=bootstrap_p(kappa_difference, kappa_differences[1:], resamples),
        accuracy_difference=estimate(accuracies(first_matrices) - accuracies(second_matrices), resamples),
        num_first_only=num_first_only,
        num_second_only=num_second_only,
        mcnemar_p=mcnemar_p(right, other_right, one.groups),
        auc_difference=auc_difference,
        auc_p=auc_p,
        kappa_difference_within_acquisition=_within_difference(kappas_within_acquisition, one, other, resamples),
        auc_difference_within_acquisition=_within_difference(aucs_within_acquisition, one, other, resamples),
        agreement_kappa=quadratic_weighted_kappa(one.predicted, other.predicted),
        agreement=tuple(tuple(row) for row in confusion_matrix(one.predicted, other.predicted).tolist()),
        disagreements=find_disagreements(one, other),
    )


def _without_tests(pair: PairedComparison) -> PairedComparison:
    return replace(pair, kappa_p=None, auc_p=None, mcnemar_p=None, is_inflated=True)


def _within_difference(
    measure: Callable[[ScoredPhotographs, Resamples], NDArray[np.float64]],
    first: ScoredPhotographs,
    second: ScoredPhotographs,
    resamples: Resamples,
) -> Estimate:
    """The difference of one score; both sets have the same photographs, and so the same clusters."""
    if first.acquisitions is None or second.acquisitions is None:
        return UNDEFINED
    return estimate(measure(first, resamples) - measure(second, resamples), resamples)


# Tests


def bootstrap_p(difference: Estimate, resampled: NDArray[np.float64], resamples: Resamples) -> float | None:
    """Two-sided p-value of a difference from that of each resample (R,), NaN where undefined; None without interval.

    It is 1 less the confidence of the widest interval, of the kind that `estimate` gives, which excludes zero: the 95 %
    interval does so where p < 0.05, and only there. Where no resample reaches zero, a normal distribution of their
    standard deviation gives the p-value, so that it is not limited by the number of resamples.
    """
    if difference.value == 0:
        return 1.0
    if difference.value is None or difference.low is None or difference.high is None:
        return None
    defined = ~np.isnan(resampled)
    differences = resampled[defined]
    correction = measure_correction(difference.value, differences, resamples.group_weights[1:][defined])
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        bounds = np.quantile(differences, correction.corrected((middle / 2, 1 - middle / 2)))
        low, high = (low, middle) if bounds[0] > 0 or bounds[1] < 0 else (middle, high)
    beyond = (differences <= 0) if difference.value > 0 else (differences >= 0)
    if beyond.any():
        return high
    return min(high, 2 * _NORMAL.cdf(-abs(difference.value) / float(differences.std())))


def mcnemar_p(right: NDArray[np.bool_], other_right: NDArray[np.bool_], groups: NDArray[np.int64]) -> float:
    """Exact two-sided p-value: is either model right more often on photographs (N,) of groups (N,)?

    McNemar's test (Psychometrika 1947) gives a random sign to each photograph that only one model grades right.
    Photographs of one group are not independent, so each group's difference gets one random sign (Fisher's
    randomization test); where each group is one photograph, the two tests are the same. 1 where the models are right
    and wrong on the same photographs.
    """
    _, group = np.unique(groups, return_inverse=True)
    differences = np.bincount(group, right.astype(float) - other_right.astype(float)).astype(np.int64)
    # The probability of each total, from -sum to +sum, when every difference gets a random sign.
    probabilities = np.ones(1)
    for size in np.abs(differences[differences != 0]):
        probabilities = (np.pad(probabilities, (0, 2 * size)) + np.pad(probabilities, (2 * size, 0))) / 2
    totals = np.arange(len(probabilities)) - (len(probabilities) - 1) // 2
    return min(1.0, float(probabilities[np.abs(totals) >= abs(int(differences.sum()))].sum()))


def compare_aucs(first: ScoredPhotographs, second: ScoredPhotographs) -> tuple[Estimate, float | None]:
    """Difference of the areas under the curve of referable retinopathy, and its p-value, by `auc_covariance`.

    Without interval and p-value where the variance is 0 or unknown.
    """
    positive = first.grades >= REFERABLE_FROM
    if positive.all() or not positive.any():
        return UNDEFINED, None
    scores = np.stack([probability_from_grade(model.probabilities, REFERABLE_FROM) for model in (first, second)])
    aucs = auc_covariance(positive, scores, first.groups)
    difference, covariance = float(aucs.areas[0] - aucs.areas[1]), aucs.covariance
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if not variance > 1e-15:
        return Estimate(value=difference, low=None, high=None, no_interval="the difference does not vary"), None
    error = math.sqrt(variance)
    half = _NORMAL.inv_cdf(0.975) * error
    p = 2 * _NORMAL.cdf(-abs(difference) / error)
    return Estimate(value=difference, low=difference - half, high=difference + half), p


def correct_by_holm(p_values: Sequence[float | None]) -> tuple[float | None, ...]:
    """P-values corrected for multiple tests (Holm, Scandinavian Journal of Statistics 1979), in the same order.

    None stays None and does not count.
    """
    defined = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(defined):
        highest = max(highest, min(1.0, p * (len(defined) - rank)))
        corrected[i] = highest
    return tuple(corrected)


# Single photographs


def find_disagreements(
    first: ScoredPhotographs, second: ScoredPhotographs, limit: int = MAX_DISAGREEMENTS
) -> tuple[Disagreement, ...]:
    """Photographs whose predicted grades differ, the most first; of equals those whose expected grades differ more."""
    apart = np.abs(first.predicted - second.predicted)
    first_expected, second_expected = expected_grades(first.probabilities), expected_grades(second.probabilities)
    order = np.lexsort((-np.abs(first_expected - second_expected), -apart))[:limit]
    return tuple(
        Disagreement(
            source=first.sources[i],
            grade=int(first.grades[i]),
            first=int(first.predicted[i]),
            second=int(second.predicted[i]),
            first_expected=float(first_expected[i]),
            second_expected=float(second_expected[i]),
        )
        for i in order
        if apart[i] > 0
    )
