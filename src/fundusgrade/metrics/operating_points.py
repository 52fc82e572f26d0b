"""Binary decisions at thresholds chosen on validation, decision-curve analysis, and selective prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusgrade.grades import NUM_GRADES
from fundusgrade.metrics.bootstrap import Resamples, estimate_proportion
from fundusgrade.metrics.classification import probability_from_grade, quadratic_weighted_kappa
from fundusgrade.metrics.estimates import Estimate
from fundusgrade.metrics.predictions import PredictionSet, ScoredPhotographs
from fundusgrade.metrics.score_keys import BINARY_DECISIONS, BinaryDecision

# The sensitivity or specificity that a threshold must reach on validation.
AIMS = (("specificity", 0.90), ("specificity", 0.95), ("sensitivity", 0.90), ("sensitivity", 0.95))
CURVE_THRESHOLDS = tuple(step / 100 for step in range(1, 61))
# Proportions of photographs that are not deferred, from 1 down to 0.5.
COVERAGES = tuple(step / 20 for step in range(20, 9, -1))


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPoint:
    """A binary decision whose threshold was chosen on validation; `threshold` is the mean over folds.

    `decision` is "referable" or "sight-threatening", `aim` the sensitivity or specificity that the
    threshold reaches on validation.
    """

    decision: str
    aim: str
    threshold: float
    sensitivity: Estimate
    specificity: Estimate
    positive_predictive_value: Estimate
    negative_predictive_value: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionCurve:
    """Net benefit at each threshold probability of referring by the model, and of referring all; of none it is 0.

    `decision` is "referable" or "sight-threatening".
    """

    decision: str
    thresholds: tuple[float, ...]
    model: tuple[float, ...]
    treat_all: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskCoverage:
    """Selective prediction: scores of the photographs that remain when the least certain are deferred to people.

    `coverages` are the proportions of photographs that remain.
    """

    coverages: tuple[float, ...]
    kappas: tuple[float | None, ...]
    accuracies: tuple[float, ...]
    off_by_two: tuple[float, ...]


# Operating points


def measure_operating_points(predictions: PredictionSet, resamples: Resamples) -> tuple[MeasuredPoint, ...]:
    """Sensitivity, specificity and predictive values on test at thresholds chosen on validation, fold by fold.

    A point is left out where a fold's validation photographs are all positive or all negative: no threshold can be
    chosen then.
    """
    return tuple(
        point
        for decision in BINARY_DECISIONS
        for measure, aim in AIMS
        if (point := _operating_point(predictions, resamples, decision, measure, aim)) is not None
    )


def choose_threshold(
    positive: NDArray[np.bool_], scores: NDArray[np.float64], measure: str, aim: float
) -> float | None:
    """The threshold that reaches the aim on these photographs with the best possible value of the other measure.

    A score (N,) that reaches the threshold is called positive; `aim`, 0 to 1, is the value to be reached of the
    `measure`, "specificity" or "sensitivity". The threshold lies halfway to the next score. None where all photographs
    are positive, or none is.
    """
    if positive.all() or not positive.any():
        return None
    # Rounded, because (1 - 0.9) * 10 is a little less than 1.
    if measure == "specificity":
        num_called = math.floor(round((1 - aim) * int((~positive).sum()), 9))
        highest_negative = np.sort(scores[~positive])[::-1][num_called]
        above = scores[scores > highest_negative]
        return float((highest_negative + above.min()) / 2) if above.size else float(np.nextafter(highest_negative, 2.0))
    num_called = math.ceil(round(aim * int(positive.sum()), 9))
    lowest_positive = np.sort(scores[positive])[::-1][num_called - 1]
    below = scores[scores < lowest_positive]
    return float((lowest_positive + below.max()) / 2) if below.size else float(lowest_positive)


def _operating_point(
    predictions: PredictionSet, resamples: Resamples, decision: BinaryDecision, measure: str, aim: float
) -> MeasuredPoint | None:
    test, validation, start = predictions.test, predictions.validation, decision.from_grade
    thresholds = np.zeros(len(test))
    chosen = []
    for fold in np.unique(test.folds):
        chosen_on = validation.subset(validation.folds == fold)
        threshold = choose_threshold(
            chosen_on.grades >= start, probability_from_grade(chosen_on.probabilities, start), measure, aim
        ) if len(chosen_on) else None  # fmt: skip
        if threshold is None:
            return None
        chosen.append(threshold)
        thresholds[test.folds == fold] = threshold
    positive, called = test.grades >= start, probability_from_grade(test.probabilities, start) >= thresholds
    return MeasuredPoint(
        decision=decision.name,
        aim=f"{measure} {aim:.2f}",
        threshold=float(np.mean(chosen)),
        sensitivity=estimate_proportion(resamples, called, positive),
        specificity=estimate_proportion(resamples, ~called, ~positive),
        positive_predictive_value=estimate_proportion(resamples, positive, called),
        negative_predictive_value=estimate_proportion(resamples, ~positive, ~called),
    )


# BinaryDecision curves


def measure_decision_curves(photographs: ScoredPhotographs) -> tuple[DecisionCurve, ...]:
    """Net benefit at threshold probabilities of 0.01 to 0.60 (Vickers and Elkin, Medical Decision Making 2006)."""
    curves = []
    for decision in BINARY_DECISIONS:
        positive = photographs.grades >= decision.from_grade
        scores = probability_from_grade(photographs.probabilities, decision.from_grade)
        curves.append(
            DecisionCurve(
                decision=decision.name,
                thresholds=CURVE_THRESHOLDS,
                model=tuple(net_benefit(positive, scores >= cut, cut) for cut in CURVE_THRESHOLDS),
                treat_all=tuple(net_benefit(positive, np.ones_like(positive), cut) for cut in CURVE_THRESHOLDS),
            )
        )
    return tuple(curves)


def net_benefit(positive: NDArray[np.bool_], called: NDArray[np.bool_], threshold: float) -> float:
    """True positives less false positives times the odds of the threshold, per photograph, of N photographs (N,)."""
    harm = threshold / (1 - threshold)
    return float(((positive & called).sum() - harm * (~positive & called).sum()) / len(positive))


# Selective prediction


def grade_variances(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variance of the grade (N,) under probabilities (N, 5), in squared grades."""
    grades = np.arange(NUM_GRADES)
    means = probabilities @ grades
    return np.asarray((probabilities * (grades - means[:, None]) ** 2).sum(axis=1), np.float64)


def measure_risk_coverage(photographs: ScoredPhotographs) -> RiskCoverage:
    """Scores of the photographs of least grade variance, for coverages from 1 down to 0.5."""
    order = np.argsort(grade_variances(photographs.probabilities), kind="stable")
    kappas, accuracies, off_by_two = [], [], []
    for coverage in COVERAGES:
        remaining = order[: max(1, round(coverage * len(order)))]
        grades, predicted = photographs.grades[remaining], photographs.predicted[remaining]
        kappas.append(quadratic_weighted_kappa(grades, predicted))
        accuracies.append(float((grades == predicted).mean()))
        off_by_two.append(float((np.abs(grades - predicted) >= 2).mean()))
    return RiskCoverage(
        coverages=COVERAGES, kappas=tuple(kappas), accuracies=tuple(accuracies), off_by_two=tuple(off_by_two)
    )
