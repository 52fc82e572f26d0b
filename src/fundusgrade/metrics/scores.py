"""Every score of one model with its interval: agreement, errors, probabilities, decisions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusgrade.grades import NUM_GRADES, REFERABLE_FROM
from fundusgrade.metrics import confusion
from fundusgrade.metrics.auc import delong_interval, stratified_aucs, weighted_aucs
from fundusgrade.metrics.bootstrap import Resamples, estimate, estimate_average, estimate_proportion
from fundusgrade.metrics.classification import probability_from_grade
from fundusgrade.metrics.estimates import UNDEFINED, Estimate, mean_of_defined, ratio
from fundusgrade.metrics.predictions import ScoredPhotographs
from fundusgrade.metrics.recalibration import (
    SMALLEST_PROBABILITY,
    calibration_intercepts,
    calibration_slopes,
    log_odds,
)
from fundusgrade.metrics.score_keys import (
    BINARY_DECISIONS,
    F1_KEYS,
    WITHIN_ACQUISITION_KEYS,
    BinaryDecision,
    ScoreKey,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedEstimate:
    """A score with its key, its name for people, and why it is undefined; the reason is empty where it is defined."""

    key: ScoreKey
    name: str
    estimate: Estimate
    undefined_reason: str = ""


def score_predictions(photographs: ScoredPhotographs, resamples: Resamples) -> tuple[NamedEstimate, ...]:
    """All scores of N photographs with intervals from their resamples, in the order of `ScoreKey`."""
    estimates: dict[ScoreKey, Estimate] = {
        ScoreKey.MACRO_AUC: estimate(macro_aucs(photographs, resamples), resamples),
        **_grade_scores(photographs, resamples),
        **{key: estimate(scores, resamples) for key, scores in probability_scores(photographs, resamples).items()},
        **_calibration_scores(photographs, resamples),
        ScoreKey.COMMONEST_GRADE_ACCURACY: _commonest_accuracy(
            photographs, np.zeros(len(photographs), np.int64), resamples
        ),
        **_scores_within_acquisition(photographs, resamples),
    }
    for decision in BINARY_DECISIONS:
        estimates |= _decision_scores(photographs, resamples, decision)
    return tuple(_named(key, estimates[key]) for key in ScoreKey)


def score_grades(photographs: ScoredPhotographs, resamples: Resamples) -> tuple[NamedEstimate, ...]:
    """The scores that depend on the predicted grades alone, of all five grades, with intervals from their resamples."""
    return tuple(_named(key, score) for key, score in _grade_scores(photographs, resamples).items())


def _named(key: ScoreKey, score: Estimate) -> NamedEstimate:
    reason = key.undefined_reason if score.value is None else ""
    return NamedEstimate(key=key, name=key.label, estimate=score, undefined_reason=reason)


def find_score(scores: Iterable[NamedEstimate], key: ScoreKey) -> Estimate:
    """The score of this key. Raises KeyError where it was not estimated."""
    for score in scores:
        if score.key == key:
            return score.estimate
    raise KeyError(key)


# Scores of predicted grades


def weighted_matrices(
    resamples: Resamples, grades: NDArray[np.int64], predicted: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Confusion matrices (1 + R, 5, 5) of all resamples: rows are true grades, columns predicted ones."""
    cells = (grades * NUM_GRADES + predicted)[:, None] == np.arange(NUM_GRADES**2)
    return resamples.totals(cells).reshape(-1, NUM_GRADES, NUM_GRADES)


def estimate_kappa(grades: NDArray[np.int64], predicted: NDArray[np.int64], resamples: Resamples) -> Estimate:
    """Quadratic weighted kappa of true grades (N,) and predicted ones (N,) with its interval."""
    return estimate(confusion.kappas(weighted_matrices(resamples, grades, predicted)), resamples)


def _grade_scores(photographs: ScoredPhotographs, resamples: Resamples) -> dict[ScoreKey, Estimate]:
    """Scores of predicted grades: agreement, errors, and those of each grade."""
    grades, predicted = photographs.grades, photographs.predicted
    matrices = weighted_matrices(resamples, grades, predicted)
    f1s = [estimate_f1(resamples, grades == grade, predicted == grade) for grade in range(NUM_GRADES)]
    recalls = [estimate_proportion(resamples, predicted == grade, grades == grade) for grade in range(NUM_GRADES)]
    return {
        ScoreKey.KAPPA: estimate(confusion.kappas(matrices), resamples),
        ScoreKey.ACCURACY: proportion_off_by(photographs, resamples, range(1)),
        ScoreKey.OFF_BY_TWO: proportion_off_by(photographs, resamples, range(2, NUM_GRADES)),
        ScoreKey.BALANCED_ACCURACY: estimate_average(recalls, confusion.grade_recalls(matrices)),
        ScoreKey.MACRO_F1: estimate_average(f1s, confusion.grade_f1s(matrices)),
        **dict(zip(F1_KEYS, f1s, strict=True)),
        ScoreKey.MEAN_ABSOLUTE_ERROR: estimate(confusion.mean_absolute_errors(matrices), resamples),
    }


def estimate_f1(resamples: Resamples, is_true: NDArray[np.bool_], is_predicted: NDArray[np.bool_]) -> Estimate:
    """F1 of an outcome that photographs (N,) truly have and are predicted to have, with its interval.

    F1 rises with the Jaccard index J, as 2 J / (1 + J), and J is a proportion: of the photographs that have the outcome
    or are predicted to have it, those of which both are right. So the bounds are those of a proportion.
    """
    jaccard = estimate_proportion(resamples, is_true & is_predicted, is_true | is_predicted)
    value, low, high = (
        None if part is None else 2 * part / (1 + part) for part in (jaccard.value, jaccard.low, jaccard.high)
    )
    return Estimate(value=value, low=low, high=high)


def proportion_off_by(photographs: ScoredPhotographs, resamples: Resamples, distances: range) -> Estimate:
    """Proportion of photographs whose predicted grade is off by one of the distances; `range(1)` gives the accuracy."""
    off = np.isin(np.abs(photographs.grades - photographs.predicted), distances)
    return estimate_proportion(resamples, off, np.ones_like(off))


# Scores of probabilities


def probability_scores(photographs: ScoredPhotographs, resamples: Resamples) -> dict[ScoreKey, NDArray[np.float64]]:
    """Ranked probability, Brier and log score (1 + R,) of all resamples; lower is better.

    The ranked probability score (Epstein, Journal of Applied Meteorology 1969) is divided by 4, the number of cuts, so
    that it is 0 to 1; the Brier score is the sum over all grades (Brier, Monthly Weather Review 1950), 0 to 2.
    """
    losses = photograph_losses(photographs)
    totals = resamples.totals(np.stack([*losses.values(), np.ones(len(photographs))], axis=1))
    return {key: ratio(totals[:, i], totals[:, -1]) for i, key in enumerate(losses)}


def photograph_losses(photographs: ScoredPhotographs) -> dict[ScoreKey, NDArray[np.float64]]:
    """The loss of each photograph (N,), whose means are the scores of `probability_scores`."""
    truth = photographs.grades[:, None] == np.arange(NUM_GRADES)
    gaps = photographs.probabilities - truth
    of_true_grade = photographs.probabilities[truth]
    return {
        ScoreKey.RANKED_PROBABILITY_SCORE: (gaps.cumsum(axis=1)[:, :-1] ** 2).sum(axis=1) / (NUM_GRADES - 1),
        ScoreKey.BRIER_SCORE: (gaps**2).sum(axis=1),
        ScoreKey.LOG_LOSS: -np.log(np.maximum(of_true_grade, SMALLEST_PROBABILITY)),
    }


def macro_aucs(photographs: ScoredPhotographs, resamples: Resamples) -> NDArray[np.float64]:
    """Mean over grades of the area under the curve of a grade against all others, (1 + R,)."""
    aucs = [
        weighted_aucs(resamples.weights, photographs.grades == grade, photographs.probabilities[:, grade])
        for grade in range(NUM_GRADES)
    ]
    return mean_of_defined(np.stack(aucs, axis=1))


# Binary decisions


def _decision_scores(
    photographs: ScoredPhotographs, resamples: Resamples, decision: BinaryDecision
) -> dict[ScoreKey, Estimate]:
    positive = photographs.grades >= decision.from_grade
    scores = probability_from_grade(photographs.probabilities, decision.from_grade)
    called = photographs.predicted >= decision.from_grade
    return {
        decision.auc: estimate(weighted_aucs(resamples.weights, positive, scores), resamples),
        decision.sensitivity: estimate_proportion(resamples, called, positive),
        decision.specificity: estimate_proportion(resamples, ~called, ~positive),
        decision.auc_delong: delong_interval(positive, scores, photographs.groups),
    }


def _calibration_scores(photographs: ScoredPhotographs, resamples: Resamples) -> dict[ScoreKey, Estimate]:
    positive = photographs.grades >= REFERABLE_FROM
    logits = log_odds(probability_from_grade(photographs.probabilities, REFERABLE_FROM))
    slopes = calibration_slopes(resamples.weights, positive, logits)
    intercepts = calibration_intercepts(resamples.weights, positive, logits)
    return {
        ScoreKey.REFERABLE_CALIBRATION_SLOPE: estimate(slopes, resamples),
        ScoreKey.REFERABLE_CALIBRATION_INTERCEPT: estimate(intercepts, resamples),
    }


# Answers that need no retina, and scores within acquisition


def _commonest_accuracy(photographs: ScoredPhotographs, strata: NDArray[np.int64], resamples: Resamples) -> Estimate:
    """Accuracy of always answering the commonest grade of a photograph's stratum (N,), of equals the lower."""
    names, stratum = np.unique(strata, return_inverse=True)
    counts = np.zeros((len(names), NUM_GRADES), np.int64)
    np.add.at(counts, (stratum, photographs.grades), 1)
    is_commonest = photographs.grades == counts.argmax(axis=1)[stratum]
    return estimate_proportion(resamples, is_commonest, np.ones_like(is_commonest))


def _scores_within_acquisition(photographs: ScoredPhotographs, resamples: Resamples) -> dict[ScoreKey, Estimate]:
    """Scores that give no credit for telling one camera from another; undefined where acquisition is not known."""
    if photographs.acquisitions is None:
        return dict.fromkeys(WITHIN_ACQUISITION_KEYS, UNDEFINED)
    matrices = _acquisition_matrices(photographs, resamples)
    by_grade = confusion.stratified_kappas(confusion.answers_by_grade_only(matrices))
    return {
        ScoreKey.KAPPA_WITHIN_ACQUISITION: estimate(confusion.stratified_kappas(matrices), resamples),
        ScoreKey.KAPPA_WITHIN_ACQUISITION_BY_GRADE: estimate(by_grade, resamples),
        ScoreKey.REFERABLE_AUC_WITHIN_ACQUISITION: estimate(aucs_within_acquisition(photographs, resamples), resamples),
        ScoreKey.COMMONEST_GRADE_ACCURACY_WITHIN_ACQUISITION: _commonest_accuracy(
            photographs, photographs.acquisitions, resamples
        ),
    }


def kappas_within_acquisition(photographs: ScoredPhotographs, resamples: Resamples) -> NDArray[np.float64]:
    """Quadratic weighted kappa (1 + R,) within clusters of acquisition, which must be known, by `stratified_kappas`."""
    return confusion.stratified_kappas(_acquisition_matrices(photographs, resamples))


def _acquisition_matrices(photographs: ScoredPhotographs, resamples: Resamples) -> NDArray[np.float64]:
    """Confusion matrices (1 + R, C, 5, 5) of each cluster."""
    assert photographs.acquisitions is not None, "callers score photographs of known acquisition"
    names, cluster = np.unique(photographs.acquisitions, return_inverse=True)
    matrices = [
        weighted_matrices(
            resamples.subset(cluster == i), photographs.grades[cluster == i], photographs.predicted[cluster == i]
        )
        for i in range(len(names))
    ]
    return np.stack(matrices, axis=1)


def aucs_within_acquisition(photographs: ScoredPhotographs, resamples: Resamples) -> NDArray[np.float64]:
    """Referable AUC (1 + R,) over pairs of one cluster of acquisition, which must be known, by `stratified_aucs`."""
    assert photographs.acquisitions is not None, "callers score photographs of known acquisition"
    return stratified_aucs(
        resamples.weights,
        photographs.grades >= REFERABLE_FROM,
        probability_from_grade(photographs.probabilities, REFERABLE_FROM),
        photographs.acquisitions,
    )
