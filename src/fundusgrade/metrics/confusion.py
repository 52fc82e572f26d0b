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
    squared = _DISTANCES**2
    by_chance = np.einsum("mi,mi->m", matrices.sum(axis=2), matrices.sum(axis=1) @ squared)
    observed = np.einsum("mij,ij->m", matrices, squared) * matrices.sum(axis=(1, 2))
    return 1 - ratio(observed, by_chance)


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
