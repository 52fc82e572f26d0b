"""Scores of confusion matrices, of many at once: rows are true grades, columns predicted ones.

Matrices (M, 5, 5) hold counts or weighted counts, such as those of bootstrap resamples. Scores are NaN where a matrix
does not define them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fundusgrade.grades import NUM_GRADES
from fundusgrade.metrics.estimates import ratio

_DISTANCES = np.abs(np.subtract.outer(np.arange(NUM_GRADES), np.arange(NUM_GRADES))).astype(np.float64)


def kappas(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quadratic weighted kappa (M,), at most 1 (Cohen, Psychological Bulletin 1968).

    NaN where chance leaves no disagreement: no photographs, or all of one grade and predicted so. Weights count all
    five grades, so a grade that is missing from both does not move the others together.
    """
    observed, by_chance = _disagreements(matrices)
    return 1 - ratio(observed * matrices.sum(axis=(1, 2)), by_chance)


def stratified_kappas(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quadratic weighted kappa (M,) within strata, from the matrices (M, C, 5, 5) of each of C strata.

    1 less the observed disagreement of all strata over that expected by chance, where chance knows the stratum: answers
    are permuted within strata only. So a model that knows nothing but the stratum has a kappa of 0, however much the
    strata differ, and each stratum's own kappa counts by its disagreement by chance (the average of strata in Barlow,
    Lai and Azen, Statistics in Medicine 1991, with these weights). With one stratum it is `kappas`. NaN where chance
    leaves no disagreement in any stratum.
    """
    flat = matrices.reshape(-1, NUM_GRADES, NUM_GRADES)
    observed, by_chance = _disagreements(flat)
    expected = np.nan_to_num(ratio(by_chance, flat.sum(axis=(1, 2))))
    shape = matrices.shape[:2]
    return 1 - ratio(observed.reshape(shape).sum(axis=1), expected.reshape(shape).sum(axis=1))


def answers_by_grade_only(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matrices (M, C, 5, 5) of strata as they would be if answers depended on the true grade, but not on the stratum.

    Each stratum keeps how many photographs have each grade, and all give a grade the same distribution of answers: that
    of all strata together. A model whose kappa within strata is far below that of these matrices recognizes strata.
    """
    pooled = matrices.sum(axis=1, keepdims=True)
    answers = np.nan_to_num(ratio(pooled, pooled.sum(axis=3, keepdims=True)))
    return np.asarray(matrices.sum(axis=3, keepdims=True) * answers, np.float64)


def _disagreements(matrices: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of squared distances (M,): of the photographs, and of all pairs of a true and a predicted grade."""
    squared = _DISTANCES**2
    by_chance = np.einsum("mi,mi->m", matrices.sum(axis=2), matrices.sum(axis=1) @ squared)
    return np.einsum("mij,ij->m", matrices, squared), by_chance


def accuracies(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Proportion of photographs (M,) whose predicted grade is the true one, 0 to 1; NaN without photographs."""
    return ratio(_hits(matrices).sum(axis=1), matrices.sum(axis=(1, 2)))


def grade_precisions(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Precision of each grade (M, 5), 0 to 1; NaN where a grade is never predicted."""
    return ratio(_hits(matrices), matrices.sum(axis=1))


def grade_recalls(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Recall of each grade (M, 5), 0 to 1; NaN where no photograph has a grade."""
    return ratio(_hits(matrices), matrices.sum(axis=2))


def grade_f1s(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 of each grade (M, 5), 0 to 1; NaN where a grade is neither true nor predicted.

    Counted, not made of precision and recall: a grade that is never predicted has no precision but an F1 of 0.
    """
    return ratio(2 * _hits(matrices), matrices.sum(axis=1) + matrices.sum(axis=2))


def mean_absolute_errors(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean distance (M,) of the predicted from the true grade, 0 to 4; NaN without photographs."""
    return ratio(np.einsum("mij,ij->m", matrices, _DISTANCES), matrices.sum(axis=(1, 2)))


def _hits(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.diagonal(matrices, axis1=1, axis2=2)
