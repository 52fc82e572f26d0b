"""Thresholds are chosen on validation and reach their aims; curves equal those computed by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from fundusgrade.metrics.bootstrap import resample
from fundusgrade.metrics.classification import quadratic_weighted_kappa
from fundusgrade.metrics.operating_points import (
    COVERAGES,
    choose_threshold,
    grade_variances,
    measure_decision_curves,
    measure_operating_points,
    measure_risk_coverage,
    net_benefit,
)
from tests.scored import draw_photographs, prediction_set, scored


def rates(positive: NDArray[np.bool_], scores: NDArray[np.float64], threshold: float) -> dict[str, float]:
    called = scores >= threshold
    return {"sensitivity": called[positive].mean(), "specificity": (~called)[~positive].mean()}


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize(("side", "other"), [("sensitivity", "specificity"), ("specificity", "sensitivity")])
def test_threshold_reaches_the_aim_with_the_best_other_side(seed: int, side: str, other: str) -> None:
    rng = np.random.default_rng(seed)
    positive = rng.random(50) < 0.4
    # Every second time with ties.
    scores = np.round(np.clip(0.3 * positive + 0.7 * rng.random(50), 0, 1), 1 if seed % 2 else 6)
    aim = (0.9, 0.95, 0.8)[seed % 3]
    threshold = choose_threshold(positive, scores, side, aim)
    assert threshold is not None
    found = rates(positive, scores, threshold)
    every = [rates(positive, scores, cut) for cut in [*np.unique(scores), 2.0]]
    assert found[side] >= aim
    assert found[other] == max(each[other] for each in every if each[side] >= aim)


def test_threshold_lies_halfway_to_the_next_score() -> None:
    positive = np.array([False] * 10 + [True] * 10)
    scores = np.concatenate([np.arange(10) / 20, 0.55 + np.arange(10) / 25])
    # One of ten may be called wrongly, which is exactly 0.90: between 0.40 and 0.45.
    assert choose_threshold(positive, scores, "specificity", 0.9) == pytest.approx(0.425)
    assert choose_threshold(positive, scores, "specificity", 0.95) == pytest.approx(0.5)
    assert choose_threshold(positive, scores, "sensitivity", 0.9) == pytest.approx(0.57)
    assert choose_threshold(positive, scores, "sensitivity", 0.95) == pytest.approx(0.5)


def test_threshold_where_no_other_score_is_near() -> None:
    positive = np.array([True, False])
    assert (
        rates(positive, np.ones(2), choose_threshold(positive, np.ones(2), "specificity", 0.9) or 0)["specificity"] == 1
    )
    assert choose_threshold(positive, np.ones(2), "sensitivity", 0.9) == 1.0
    assert choose_threshold(np.array([True, True]), np.ones(2), "sensitivity", 0.9) is None


def test_thresholds_are_chosen_fold_by_fold() -> None:
    test, validation = draw_photographs(200, 0), draw_photographs(300, 5)
    test = replace(test, folds=np.arange(200) % 2 + 1)
    validation = replace(validation, folds=np.arange(300) % 2 + 1)
    points = measure_operating_points(prediction_set(test, validation), resample(test.groups, num_resamples=200))
    assert [(point.decision, point.aim) for point in points] == [
        (what, aim)
        for what in ("referable", "sight-threatening")
        for aim in ("specificity 0.90", "specificity 0.95", "sensitivity 0.90", "sensitivity 0.95")
    ]
    point = points[4]
    thresholds = [
        choose_threshold(known.grades >= 3, known.probabilities[:, 3:].sum(axis=1), "specificity", 0.9)
        for known in (validation.subset(validation.folds == fold) for fold in (1, 2))
    ]
    assert point.threshold == pytest.approx(np.mean(thresholds))
    called = test.probabilities[:, 3:].sum(axis=1) >= np.array(thresholds)[test.folds - 1]
    positive = test.grades >= 3
    assert point.sensitivity.value == pytest.approx(called[positive].mean())
    assert point.specificity.value == pytest.approx((~called)[~positive].mean())
    assert point.positive_predictive_value.value == pytest.approx(positive[called].mean())
    assert point.negative_predictive_value.value == pytest.approx((~positive)[~called].mean())
    assert point.sensitivity.low is not None and point.sensitivity.low < point.sensitivity.value
    assert point.sensitivity.high is not None and point.sensitivity.value < point.sensitivity.high


def test_no_threshold_is_chosen_without_validation_of_every_fold() -> None:
    test = draw_photographs(60, 0)
    resamples = resample(test.groups, num_resamples=20)
    assert measure_operating_points(prediction_set(test), resamples) == ()
    folds = replace(test, folds=np.arange(60) % 2 + 1)
    first_only = folds.subset(folds.folds == 1)
    assert measure_operating_points(prediction_set(folds, first_only), resamples) == ()
    # Without sight-threatening photographs on validation only the referable points can have a threshold.
    mild = test.subset(test.grades < 3)
    points = measure_operating_points(prediction_set(test, mild), resamples)
    assert {point.decision for point in points} == {"referable"}


def test_net_benefit_by_hand() -> None:
    positive, called = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], bool), np.array([1, 1, 0, 1, 0, 0, 0, 0, 0, 0], bool)
    assert net_benefit(positive, called, 0.2) == pytest.approx(2 / 10 - 1 / 10 * 0.2 / 0.8)
    assert net_benefit(positive, np.ones(10, bool), 0.2) == pytest.approx(0.3 - 0.7 * 0.25)


def test_decision_curves() -> None:
    photographs = scored([0, 2, 3, 0], [[1, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0.5, 0, 0.1, 0.4, 0], [0.7, 0, 0.3, 0, 0]])
    referable, threatening = measure_decision_curves(photographs)
    assert (referable.decision, threatening.decision) == ("referable", "sight-threatening")
    assert referable.thresholds == pytest.approx([step / 100 for step in range(1, 61)])
    at = {round(cut, 2): i for i, cut in enumerate(referable.thresholds)}
    assert referable.model[at[0.25]] == pytest.approx(2 / 4 - 1 / 4 * (1 / 3))
    assert referable.model[at[0.5]] == pytest.approx(2 / 4)
    assert referable.model[at[0.6]] == pytest.approx(1 / 4)
    assert referable.treat_all[at[0.5]] == pytest.approx(0.0)
    assert threatening.model[at[0.4]] == pytest.approx(1 / 4)
    assert threatening.model[at[0.41]] == 0.0


def test_variance_of_the_grade() -> None:
    table = np.array([[0, 1, 0, 0, 0], [0.5, 0, 0, 0, 0.5], [0, 0.5, 0.5, 0, 0]])
    assert grade_variances(table) == pytest.approx([0, 4, 0.25])


def test_the_least_uncertain_are_kept() -> None:
    photographs = draw_photographs(200, 0)
    found = measure_risk_coverage(photographs)
    assert found.coverages == COVERAGES == pytest.approx(np.arange(20, 9, -1) / 20)
    kept = np.argsort(grade_variances(photographs.probabilities), kind="stable")[:100]
    grades, predicted = photographs.grades[kept], photographs.predicted[kept]
    assert found.accuracies[-1] == pytest.approx((grades == predicted).mean())
    assert found.kappas[-1] == quadratic_weighted_kappa(grades, predicted)
    assert found.off_by_two[-1] == pytest.approx((np.abs(grades - predicted) >= 2).mean())
    assert found.accuracies[0] == pytest.approx((photographs.grades == photographs.predicted).mean())
    assert found.accuracies[-1] > found.accuracies[0]


def test_selective_prediction_of_one_photograph() -> None:
    found = measure_risk_coverage(scored([0], [[1, 0, 0, 0, 0]]))
    assert (set(found.kappas), set(found.accuracies), set(found.off_by_two)) == ({None}, {1.0}, {0.0})
