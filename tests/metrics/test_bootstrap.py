"""Resamples keep groups together and let the mix of grades vary; intervals equal those of textbooks and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from fundusgrade.metrics.bootstrap import (
    FEW_VALUES,
    NO_VARIATION,
    RARELY_DEFINED,
    draw_weights,
    estimate,
    estimate_average,
    estimate_mean,
    estimate_proportion,
    from_weights,
    percentile_interval,
    resample,
)
from fundusgrade.metrics.classification import quadratic_weighted_kappa
from fundusgrade.metrics.estimates import UNDEFINED, Estimate, ratio
from fundusgrade.metrics.scores import estimate_kappa


def test_weights_are_seeded_and_of_one_row_per_resample() -> None:
    weights = draw_weights(np.arange(70), num_resamples=30, seed=3)
    assert (weights.shape, weights.dtype) == ((30, 70), np.float32)
    assert np.array_equal(weights, draw_weights(np.arange(70), num_resamples=30, seed=3))
    assert not np.array_equal(weights, draw_weights(np.arange(70), num_resamples=30, seed=4))
    assert weights.sum(axis=1) == pytest.approx(np.full(30, 70), rel=1e-5)


def test_the_number_of_each_grade_varies_between_resamples_as_between_samples_of_a_population() -> None:
    """The number of photographs of a grade is binomial where each patient has one photograph."""
    rare = np.arange(200) < 20
    counts = draw_weights(np.arange(200), num_resamples=4000)[:, rare].sum(axis=1)
    assert counts.mean() == pytest.approx(20, abs=0.3)
    assert counts.var() == pytest.approx(200 * 0.1 * 0.9, rel=0.1)


def test_groups_are_resampled_whole_whatever_their_grades() -> None:
    groups = np.array([7, 7, 5, 5, 9, 9, 8])
    weights = draw_weights(groups, num_resamples=200)
    for group in (5, 7, 9):
        members = weights[:, groups == group]
        assert np.array_equal(members[:, 0], members[:, 1])
        assert len(set(members[:, 0].tolist())) == 4
    # Three of four groups are drawn, each counting 4 / 3 times.
    assert set(np.round(weights * 3 / 4, 5).ravel().tolist()) == {0.0, 1.0, 2.0, 3.0}


def test_variance_of_a_mean_is_that_of_the_textbook_also_of_few_groups() -> None:
    rng = np.random.default_rng(0)
    for count in (3, 12, 70):
        values = rng.normal(size=count)
        weights = draw_weights(np.arange(count), num_resamples=20_000)
        assert (weights @ values / count).var() == pytest.approx(values.var(ddof=1) / count, rel=0.05)


def test_nothing_to_resample_and_one_group_that_is_always_drawn() -> None:
    assert draw_weights(np.zeros(0, np.int64), num_resamples=3).shape == (3, 0)
    assert (draw_weights(np.zeros(4, np.int64), num_resamples=3) == 1).all()


def test_percentiles_leave_out_undefined_resamples_unless_they_are_many() -> None:
    scores = np.arange(101.0)
    assert percentile_interval(scores) == pytest.approx((2.5, 97.5))
    scores[:5] = np.nan
    assert percentile_interval(scores) == pytest.approx((7.375, 97.625))
    scores[:20] = np.nan
    assert percentile_interval(scores) is None
    assert percentile_interval(np.zeros(0)) is None


def test_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(size=400)
    resamples = resample(np.arange(400), num_resamples=4000)
    found = estimate(resamples.totals(values[:, None])[:, 0] / 400, resamples)
    error = 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.015)


def test_interval_of_a_skewed_mean_equals_that_of_scipy() -> None:
    """The bias-corrected and accelerated bootstrap of scipy leaves out one value after the other."""
    values = np.random.default_rng(1).exponential(size=400)
    error = values.std() / 20
    resamples = resample(np.arange(400), num_resamples=20_000)
    means = resamples.totals(values[:, None])[:, 0] / 400
    ours, plain = estimate(means, resamples), percentile_interval(means[1:])
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, batch=1000, method="BCa", rng=0)
    bounds = theirs.confidence_interval
    assert (ours.low, ours.high) == pytest.approx((bounds.low, bounds.high), abs=0.12 * error)
    assert ours.low is not None and ours.high is not None and plain is not None
    assert ours.low > plain[0] + 0.02 * error and ours.high > plain[1] + 0.08 * error


def test_interval_is_wider_where_few_groups_determine_it() -> None:
    """Percentiles of ten normal values are too narrow; with Student's quantiles the interval is 15 % wider."""
    num_covered, widened = 0, []
    for seed in range(400):
        values = np.random.default_rng(seed).normal(size=10)
        resamples = resample(np.arange(10), num_resamples=400, seed=seed)
        means = resamples.totals(values[:, None])[:, 0] / 10
        found, plain = estimate(means, resamples), percentile_interval(means[1:])
        assert found.low is not None and found.high is not None and plain is not None
        num_covered += found.low <= 0 <= found.high
        widened.append((found.high - found.low) / (plain[1] - plain[0]))
    assert 0.9 <= num_covered / 400 <= 0.98
    assert 1.06 < np.median(widened) < 1.2


def test_undefined_scores_and_scores_that_no_resample_changes_have_no_bounds() -> None:
    resamples = resample(np.arange(3), num_resamples=50)
    undefined = Estimate(value=None, low=None, high=None)
    assert estimate(np.full(51, np.nan), resamples) == undefined
    assert estimate(np.ones(51), resamples) == Estimate(value=1.0, low=None, high=None, no_interval=NO_VARIATION)
    rare = estimate(np.array([0.5] + [np.nan] * 50), resamples)
    assert rare == Estimate(value=0.5, low=None, high=None, no_interval=RARELY_DEFINED)
    assert estimate_proportion(resamples, np.ones(3, bool), np.zeros(3, bool)) == undefined


def test_proportion_of_all_or_none_has_the_exact_bound_of_as_many_groups() -> None:
    groups = np.repeat(np.arange(10), 2)
    resamples = resample(groups, num_resamples=50)
    everyone = np.ones(20, bool)
    exact = stats.binomtest(10, 10).proportion_ci()
    found = estimate_proportion(resamples, everyone, everyone)
    assert (found.value, found.low, found.high) == (1.0, pytest.approx(exact.low), 1.0)
    found = estimate_proportion(resamples, ~everyone, everyone)
    assert (found.value, found.low, found.high) == (0.0, 0.0, pytest.approx(1 - exact.low))


def test_proportion_of_too_few_photographs_for_resamples_has_bounds_for_as_many_groups() -> None:
    """Two of 40 photographs have the grade: an eighth of the resamples hold neither."""
    resamples = resample(np.arange(40), num_resamples=2000)
    among, hits = np.arange(40) < 2, np.arange(40) < 1
    expected = stats.binomtest(1, 2).proportion_ci(method="wilson")
    found = estimate_proportion(resamples, hits, among)
    assert (found.value, found.low, found.high) == (0.5, pytest.approx(expected.low), pytest.approx(expected.high))
    # One eye of each patient is a hit: no resample differs.
    pairs = resample(np.repeat(np.arange(20), 2), num_resamples=200)
    expected = stats.binomtest(10, 20).proportion_ci(method="wilson")
    found = estimate_proportion(pairs, np.arange(40) % 2 == 0, np.ones(40, bool))
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_proportion_is_not_more_certain_than_that_of_independent_photographs() -> None:
    """Eyes of a patient that are right or wrong in turn vary less than independent ones, by luck or not."""
    rng = np.random.default_rng(0)
    first = rng.random(60) < 0.5
    hits = np.stack([first, ~first ^ (rng.random(60) < 0.1)], axis=1).ravel()
    found = estimate_proportion(resample(np.repeat(np.arange(60), 2)), hits, np.ones(120, bool))
    expected = stats.binomtest(int(hits.sum()), 120).proportion_ci(method="wilson")
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_bounds_of_an_average_add_like_standard_errors_with_the_correlations_of_the_resamples() -> None:
    rng = np.random.default_rng(0)
    apart = rng.normal(size=(4001, 2))
    parts = [Estimate(value=0.5, low=0.2, high=0.6), Estimate(value=0.7, low=0.3, high=0.9)]
    found = estimate_average(parts, apart)
    assert found.value == pytest.approx(0.6)
    assert found.low == pytest.approx(0.6 - np.hypot(0.3, 0.4) / 2, abs=0.005)
    assert found.high == pytest.approx(0.6 + np.hypot(0.1, 0.2) / 2, abs=0.005)
    together = estimate_average(parts, apart[:, [0, 0]])
    assert (together.low, together.high) == (pytest.approx(0.25), pytest.approx(0.75))
    opposite = estimate_average([parts[0], parts[0]], apart[:, :1] * [1, -1])
    assert (opposite.low, opposite.high) == (pytest.approx(0.5), pytest.approx(0.5))


def test_an_average_is_that_of_the_defined_estimates_and_may_lack_bounds() -> None:
    known, other = (
        Estimate(value=0.5, low=0.2, high=0.6),
        Estimate(value=1.0, low=None, high=None, no_interval=NO_VARIATION),
    )
    scores = np.random.default_rng(0).normal(size=(101, 2))
    assert estimate_average([UNDEFINED, UNDEFINED], scores) == UNDEFINED
    found = estimate_average([UNDEFINED, known], scores)
    assert (found.value, found.low, found.high) == (pytest.approx(0.5), pytest.approx(0.2), pytest.approx(0.6))
    found = estimate_average([known, other], scores)
    assert found == Estimate(value=0.75, low=None, high=None, no_interval=NO_VARIATION)
    # A score that no resample changes, and resamples that do not define one, leave the others' bounds as they are.
    scores[:, 0] = 1.0
    scores[3:9, 1] = np.nan
    constant = estimate_average([known, known], scores)
    assert constant.low == pytest.approx(0.5 - 0.3 * np.sqrt(2) / 2)


def test_chosen_photographs_keep_their_weights() -> None:
    groups = np.array([0, 0, 1, 1, 2, 3])
    resamples = resample(groups, num_resamples=20)
    some = resamples.subset(np.array([True, False, True, True, False, True]))
    assert np.array_equal(some.weights, resamples.weights[:, [0, 2, 3, 5]])
    assert np.array_equal(some.group_weights, resamples.weights[:, [0, 2, 5]])
    assert (some.weights[0] == 1).all()


def test_ratio_of_nothing_is_undefined() -> None:
    assert np.array_equal(ratio(np.array([1.0, 0.0]), np.array([2.0, 0.0])), [0.5, np.nan], equal_nan=True)


def test_intervals_of_proportions_cover_the_true_proportion() -> None:
    """Patients with two eyes that are right or wrong together more often than not, rare errors."""
    rng = np.random.default_rng(0)
    num_covered = 0
    for seed in range(300):
        chance = np.where(rng.random((60, 1)) < 0.6, rng.random((60, 1)), rng.random((60, 2)))
        right = (chance < 0.85).ravel()
        resamples = resample(np.repeat(np.arange(60), 2), num_resamples=400, seed=seed)
        found = estimate_proportion(resamples, right, np.ones(120, bool))
        assert found.low is not None and found.high is not None
        num_covered += found.low <= 0.85 <= found.high
    assert 0.91 <= num_covered / 300 <= 0.985


def test_weights_may_be_given() -> None:
    resamples = from_weights(np.ones((2, 3), np.float32), np.arange(3))
    assert resamples.totals(np.array([[True], [False], [True]])).tolist() == [[2.0], [2.0]]


# The kappa


def test_the_interval_of_kappa_covers_the_true_kappa_of_a_population_of_patients() -> None:
    """Patients are drawn at random; their two eyes have like grades, and the grader misses disease in both alike.

    Resamples within grades, which leave out that the number of each grade varies, cover it in 89 %.
    """
    rng = np.random.default_rng(0)

    def simulate(num_patients: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        severity = (rng.normal(size=(num_patients, 1)) + 0.4 * rng.normal(size=(num_patients, 2))).ravel()
        missed = 0.8 * np.abs(np.repeat(rng.normal(size=num_patients), 2))
        cuts = (0.0, 0.25, 1.1, 1.5)
        seen = np.where(severity > 0.25, severity - missed, severity)
        return np.searchsorted(cuts, severity), np.searchsorted(cuts, seen)

    true_kappa = quadratic_weighted_kappa(*simulate(200_000))
    assert true_kappa is not None
    num_covered = 0
    for seed in range(400):
        grades, predicted = simulate(75)
        resamples = resample(np.repeat(np.arange(75), 2), num_resamples=300, seed=seed)
        found = estimate_kappa(grades, predicted, resamples)
        assert found.low is not None and found.high is not None
        num_covered += found.low <= true_kappa <= found.high
    assert 0.92 <= num_covered / 400 <= 0.97


def test_copies_widen_the_interval_because_they_are_resampled_together() -> None:
    rng = np.random.default_rng(0)
    grades = rng.integers(0, 5, 100)
    predicted = np.clip(grades + rng.choice([-1, 0, 1], 100), 0, 4)
    tripled = np.tile(grades, 3), np.tile(predicted, 3)

    def bounds(
        grades: NDArray[np.int64], predicted: NDArray[np.int64], groups: NDArray[np.int64]
    ) -> tuple[float, float]:
        found = estimate_kappa(grades, predicted, resample(groups))
        assert found.low is not None and found.high is not None
        return found.low, found.high

    apart, together = bounds(*tripled, groups=np.arange(300)), bounds(*tripled, groups=np.tile(np.arange(100), 3))
    single = bounds(grades, predicted, groups=np.arange(100))
    assert together[1] - together[0] > 1.4 * (apart[1] - apart[0])
    assert together == pytest.approx(single, abs=0.02)


def test_means_leave_out_undefined_values_and_have_bounds_from_six_values_on() -> None:
    values = np.array([np.nan, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    every = resample(np.arange(7))
    found = estimate_mean(values, every)
    assert found.value == pytest.approx(3.5) and found.low is not None and found.low < 3.5
    values[1] = np.nan
    assert estimate_mean(values, every) == Estimate(
        value=pytest.approx(4.0), low=None, high=None, no_interval=FEW_VALUES
    )
    assert estimate_mean(np.full(7, np.nan), every) == UNDEFINED
    assert estimate_mean(np.full(7, 0.5), every) == Estimate(value=0.5, low=None, high=None, no_interval=NO_VARIATION)
