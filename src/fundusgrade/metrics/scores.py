"""Every score of one model with its interval: agreement, errors, probabilities, decisions, reliability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusgrade.grades import GRADE_LABELS, NUM_GRADES, REFERABLE_FROM, SIGHT_THREATENING_FROM
from fundusgrade.metrics.auc import delong_interval, weighted_aucs
from fundusgrade.metrics.bootstrap import Estimate, Resample, estimate, estimate_share, ratio
from fundusgrade.metrics.predictions import ScoredPhotographs

DECISIONS = (("referable", int(REFERABLE_FROM)), ("sight-threatening", int(SIGHT_THREATENING_FROM)))
"""Binary decisions: the name, and the grade from which on it is answered with yes."""

# A file of predictions holds six digits: what it writes as 0 may be as much as this.
_SMALLEST_PROBABILITY = 5e-7

_DISTANCES = np.abs(np.subtract.outer(np.arange(NUM_GRADES), np.arange(NUM_GRADES)))


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedEstimate:
    """A score by its name, such as "quadratic weighted kappa" or "F1, Severe"."""

    name: str
    estimate: Estimate


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
        *((f"{what} AUC (DeLong)", delong_interval(*binary_decision(photographs, start), photographs.groups))
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


def binary_decision(photographs: ScoredPhotographs, start: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    return photographs.grades >= start, decision_scores(photographs.probabilities, start)


def _decision_scores(
    photographs: ScoredPhotographs, sample: Resample, what: str, start: int
) -> list[tuple[str, Estimate]]:
    positive, scores = binary_decision(photographs, start)
    called = photographs.predicted >= start
    return [
        (f"{what} AUC", estimate(weighted_aucs(sample.weights, positive, scores), sample)),
        (f"{what} sensitivity", estimate_share(sample, called, positive)),
        (f"{what} specificity", estimate_share(sample, ~called, ~positive)),
    ]
