"""Every score equals scikit-learn's or one worked by hand, on the sample and on every draw."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from fundusgrade.grades import GRADE_LABELS
from fundusgrade.metrics.auc import auc_covariance, delong_interval, weighted_aucs
from fundusgrade.metrics.bootstrap import Estimate, Resample, of_weights, resample
from fundusgrade.metrics.classification import evaluate_predictions
from fundusgrade.metrics.predictions import ScoredPhotographs
from fundusgrade.metrics.reliability import measure_reliability
from fundusgrade.metrics.scores import photograph_losses, score_predictions
from tests.scored import by_name, draw_photographs, repeated, scored

RANGE = range(5)


def drawn(photographs: ScoredPhotographs, num_resamples: int = 50, seed: int = 0) -> Resample:
    return resample(photographs.grades, photographs.groups, num_resamples=num_resamples, seed=seed)


def of_scikit_learn(photographs: ScoredPhotographs, weights: NDArray[np.float64]) -> dict[str, float]:
    """All that it knows, of weighted photographs that hold every grade."""
    given = (photographs.grades, photographs.predicted)
    table = photographs.probabilities
    f1s = sklearn_metrics.f1_score(*given, average=None, labels=RANGE, sample_weight=weights)
    found = {
        "quadratic weighted kappa": sklearn_metrics.cohen_kappa_score(
            *given, labels=RANGE, weights="quadratic", sample_weight=weights
        ),
        "accuracy": sklearn_metrics.accuracy_score(*given, sample_weight=weights),
        "balanced accuracy": sklearn_metrics.balanced_accuracy_score(*given, sample_weight=weights),
        "macro F1": f1s.mean(),
        **{f"F1, {label}": f1s[grade] for grade, label in enumerate(GRADE_LABELS)},
        "mean absolute error": sklearn_metrics.mean_absolute_error(*given, sample_weight=weights),
        "off by two or more": np.average(np.abs(given[0] - given[1]) >= 2, weights=weights),
        "Brier score": sum(
            sklearn_metrics.brier_score_loss(given[0] == grade, table[:, grade], sample_weight=weights)
            for grade in RANGE
        ),
        "log loss": sklearn_metrics.log_loss(given[0], table, labels=RANGE, sample_weight=weights),
        "macro AUC": np.mean(
            [sklearn_metrics.roc_auc_score(given[0] == g, table[:, g], sample_weight=weights) for g in RANGE]
        ),
    }
    for what, start in (("referable", 2), ("sight-threatening", 3)):
        positive, called = given[0] >= start, given[1] >= start
        found[f"{what} AUC"] = sklearn_metrics.roc_auc_score(
            positive, table[:, start:].sum(axis=1), sample_weight=weights
        )
        found[f"{what} sensitivity"] = sklearn_metrics.recall_score(positive, called, sample_weight=weights)
        found[f"{what} specificity"] = sklearn_metrics.recall_score(~positive, ~called, sample_weight=weights)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_scikit_learn_on_weighted_photographs_too(seed: int) -> None:
    photographs = draw_photographs(300, seed)
    draws = drawn(photographs, num_resamples=2, seed=seed).weights
    for weights in draws:
        sample = of_weights(np.stack([weights, weights]), photographs.groups)
        ours = by_name(score_predictions(photographs, sample))
        for name, theirs in of_scikit_learn(photographs, weights.astype(np.float64)).items():
            assert ours[name] == pytest.approx(theirs, abs=1e-5), name


@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_those_of_an_evaluation_with_absent_grades_too(seed: int) -> None:
    photographs = draw_photographs(20, seed)
    ours = by_name(score_predictions(photographs, drawn(photographs)))
    theirs = evaluate_predictions(photographs.grades, photographs.probabilities)
    assert ours["quadratic weighted kappa"] == pytest.approx(theirs.kappa)
    assert ours["balanced accuracy"] == pytest.approx(theirs.balanced_accuracy)
    assert ours["macro F1"] == pytest.approx(theirs.macro_f1)
    for grade, label in enumerate(GRADE_LABELS):
        assert ours[f"F1, {label}"] == pytest.approx(theirs.grades[grade].f1)
    for what, scores in (("referable", theirs.referable), ("sight-threatening", theirs.sight_threatening)):
        assert ours[f"{what} AUC"] == pytest.approx(scores.auc)
        assert ours[f"{what} AUC (DeLong)"] == pytest.approx(scores.auc)
        assert ours[f"{what} sensitivity"] == pytest.approx(scores.sensitivity)
        assert ours[f"{what} specificity"] == pytest.approx(scores.specificity)


def test_scores_of_probabilities_by_hand() -> None:
    losses = photograph_losses(scored([1, 4], [[0.5, 0.3, 0.2, 0, 0], [1, 0, 0, 0, 0]]))
    # Below each cut: 0.5, 0.8, 1, 1 where the truth says 0, 1, 1, 1; then 1, 1, 1, 1 where it says 0, 0, 0, 0.
    assert losses["ranked probability score"] == pytest.approx([(0.25 + 0.04) / 4, 1.0])
    assert losses["Brier score"] == pytest.approx([0.25 + 0.49 + 0.04, 2.0])
    # A probability that was written as 0.000000 is not taken to be 0.
    assert losses["log loss"] == pytest.approx([-np.log(0.3), -np.log(5e-7)])


def test_one_grade_only_leaves_what_needs_two_undefined() -> None:
    photographs = scored([0, 0, 0], [[1, 0, 0, 0, 0]] * 3)
    ours = by_name(score_predictions(photographs, drawn(photographs)))
    undefined = {name for name, value in ours.items() if value is None}
    assert undefined == {
        *("quadratic weighted kappa", "macro AUC"),
        *(f"F1, {label}" for label in GRADE_LABELS[1:]),
        *(f"{what} {score}" for what in ("referable", "sight-threatening")
          for score in ("AUC", "AUC (DeLong)", "sensitivity")),
    }  # fmt: skip


def test_names_come_in_the_order_in_which_they_are_read() -> None:
    photographs = draw_photographs(50, 0)
    names = [score.name for score in score_predictions(photographs, drawn(photographs))]
    assert names[:4] == ["quadratic weighted kappa", "accuracy", "balanced accuracy", "macro F1"]
    assert len(names) == len(set(names)) == 23


def test_copies_of_one_group_do_not_make_a_score_surer() -> None:
    photographs = draw_photographs(150, 3)
    twice = repeated(photographs, 2)
    single = {each.name: each.estimate for each in score_predictions(photographs, drawn(photographs, 2000))}
    double = {each.name: each.estimate for each in score_predictions(twice, drawn(twice, 2000, seed=1))}
    apart = scored(twice.grades, twice.probabilities)
    surer = {each.name: each.estimate for each in score_predictions(apart, drawn(apart, 2000))}
    for name, expected in single.items():
        assert double[name].value == pytest.approx(expected.value)
        assert width(double[name]) == pytest.approx(width(expected), rel=0.15), name
        assert width(surer[name]) < 0.85 * width(expected), name


def width(estimate: Estimate) -> float:
    assert estimate.low is not None and estimate.high is not None
    return estimate.high - estimate.low


# Areas under the curve


@pytest.mark.parametrize("seed", range(5))
def test_weighted_areas_equal_scikit_learn_with_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    positive, scores = rng.random(80) < 0.3, rng.integers(0, 10, 80) / 10
    weights = rng.integers(0, 4, (300, 80)).astype(np.float32)
    ours = weighted_aucs(weights, positive, scores)
    theirs = [sklearn_metrics.roc_auc_score(positive, scores, sample_weight=row) for row in weights]
    assert ours == pytest.approx(theirs)


def test_area_is_undefined_where_a_draw_lacks_one_side() -> None:
    weights = np.array([[1, 1], [2, 0]], np.float32)
    assert np.isnan(weighted_aucs(weights, np.array([True, False]), np.array([0.7, 0.2]))).tolist() == [False, True]
    assert np.isnan(weighted_aucs(weights, np.array([True, True]), np.array([0.7, 0.2]))).all()


def structural_components(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """How often each positive beats the negatives, and each negative is beaten, from all pairs (DeLong 1988)."""
    high, low = scores[positive][:, None], scores[~positive][None]
    wins = (high > low) + 0.5 * (high == low)
    return wins.mean(axis=1), wins.mean(axis=0)


@pytest.mark.parametrize("seed", range(5))
def test_covariance_of_areas_equals_that_of_all_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    positive = rng.random(60) < 0.4
    scores = np.round(rng.normal(size=(2, 60)) + positive, 1)
    areas, covariance = auc_covariance(positive, scores, np.arange(60))
    parts = [structural_components(positive, row) for row in scores]
    expected = np.cov([part[0] for part in parts]) / positive.sum() + np.cov([p[1] for p in parts]) / (~positive).sum()
    assert areas == pytest.approx([part[0].mean() for part in parts])
    assert covariance == pytest.approx(expected)


def test_variance_of_an_area_does_not_shrink_with_copies() -> None:
    photographs = draw_photographs(200, 0)
    twice = repeated(photographs, 2)
    variances = [
        auc_covariance(each.grades >= 2, each.probabilities[None, :, 2:].sum(axis=2), each.groups)[1]
        for each in (photographs, twice)
    ]
    assert variances[0] == pytest.approx(variances[1], rel=0.02)


def test_interval_of_an_area_by_hand() -> None:
    positive, scores = np.array([True, True, True, False, False]), np.array([0.9, 0.8, 0.3, 0.5, 0.1])
    # Components 1, 1, 1/2 and 2/3, 1: variances 1/12 and 1/18, of 3 and 2 photographs.
    error = np.sqrt(1 / 36 + 1 / 36)
    area, reach = 5 / 6, 1.959964 * error / (5 / 36)
    found = delong_interval(positive, scores, np.arange(5))
    assert found.value == pytest.approx(area)
    assert found.low == pytest.approx(1 / (1 + np.exp(-(np.log(5) - reach))))
    assert found.high == pytest.approx(1 / (1 + np.exp(-(np.log(5) + reach))))


def test_area_without_a_variance_has_no_bounds() -> None:
    apart = delong_interval(np.array([True, True, False, False]), np.array([0.9, 0.8, 0.2, 0.1]), np.arange(4))
    assert apart == Estimate(value=1.0, low=None, high=None)
    alone = delong_interval(np.array([True, False, False]), np.array([0.5, 0.8, 0.2]), np.arange(3))
    assert alone == Estimate(value=0.5, low=None, high=None)
    assert delong_interval(np.array([True]), np.array([0.5]), np.arange(1)).value is None


# Reliability


def test_reliability_by_hand() -> None:
    confidences = np.linspace(0.4, 1.0, 30)
    table = np.zeros((30, 5))
    table[:, 0], table[:, 1] = confidences, 1 - confidences
    table[confidences < 0.5] = [0.5, 0.5, 0, 0, 0]
    photographs = scored(np.arange(30) % 3 == 0, table)
    found = measure_reliability(photographs, drawn(photographs))[0]
    # Five equal confidences stay in one bin, that of their middle.
    assert [each.num_photographs for each in found.bins] == [5, 1] + [2] * 12
    right = (table.argmax(axis=1) == photographs.grades).astype(float)
    assert found.bins[0].confidence == pytest.approx(0.5)
    assert found.bins[0].observed == pytest.approx(right[:5].mean())
    assert found.bins[-1].observed == pytest.approx(right[-2:].mean())
    gaps = [each.num_photographs * abs(each.confidence - each.observed) for each in found.bins]
    assert found.calibration_error.value == pytest.approx(sum(gaps) / 30)


def test_calibration_error_of_an_honest_model_may_be_small() -> None:
    rng = np.random.default_rng(0)
    table = rng.dirichlet(np.ones(5), 1500)
    grades = (rng.random((1500, 1)) > table.cumsum(axis=1)).sum(axis=1)
    honest = scored(grades, table)
    sure = scored(grades, table**3 / (table**3).sum(axis=1, keepdims=True))
    for each, other in zip(measure_reliability(honest, drawn(honest, 300)),
                           measure_reliability(sure, drawn(sure, 300)), strict=True):  # fmt: skip
        error, large = each.calibration_error, other.calibration_error
        assert error.low is not None and error.value is not None and error.high is not None and large.low is not None
        # Noise alone makes the error of an honest model about 0.03 here, and the lower bound allows for it.
        assert error.low < 0.02 < error.value < error.high < large.low
        assert len(each.bins) == 15


def test_error_by_chance_is_what_honest_models_show() -> None:
    """The mean over many data sets whose grades are drawn from the probabilities, and one bin by hand."""
    rng = np.random.default_rng(1)
    table = rng.dirichlet(np.ones(5), 300)
    errors = []
    for _ in range(400):
        grades = (rng.random((300, 1)) > table.cumsum(axis=1)).sum(axis=1)
        honest = scored(np.minimum(grades, 4), table)
        found = measure_reliability(honest, drawn(honest, 1))
        errors.append([each.calibration_error.value for each in found])
    assert [each.by_chance for each in found] == pytest.approx(np.mean(errors, axis=0).tolist(), abs=0.003)
    certain = scored([0] * 20, np.tile([1.0, 0, 0, 0, 0], (20, 1)))
    assert measure_reliability(certain, drawn(certain, 5))[0].by_chance == 0


def test_referable_reliability_bins_the_probability_of_referable() -> None:
    photographs = draw_photographs(150, 0)
    found = measure_reliability(photographs, drawn(photographs))[1]
    assert found.what == "referable"
    mean = sum(each.num_photographs * each.confidence for each in found.bins) / 150
    assert mean == pytest.approx(photographs.probabilities[:, 2:].sum(axis=1).mean())
    observed = sum(each.num_photographs * each.observed for each in found.bins) / 150
    assert observed == pytest.approx((photographs.grades >= 2).mean())


# Coverage


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """A small simulation of independent photographs; benchmarks/coverage.py does the same at length."""
    world = draw_photographs(100_000, 0, skill=1.2)
    truth = by_name(score_predictions(world, of_weights(np.ones((2, len(world)), np.float32), world.groups)))
    pools = [np.flatnonzero(world.grades == grade) for grade in RANGE]
    rng = np.random.default_rng(1)
    hits = dict.fromkeys(truth, 0)
    for seed in range(200):
        chosen = np.concatenate([rng.choice(pool, round(len(pool) / 400)) for pool in pools])
        photographs = scored(world.grades[chosen], world.probabilities[chosen])
        for score in score_predictions(photographs, drawn(photographs, 300, seed)):
            low, high = score.estimate.low, score.estimate.high
            hits[score.name] += low is not None and high is not None and low <= (truth[score.name] or 0) <= high
    assert {name: count for name, count in hits.items() if not 0.89 <= count / 200 <= 0.99} == {}
