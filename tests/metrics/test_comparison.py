"""Tests between two models equal scipy's or a worked example; corrections count the pairs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fundusgrade.metrics.bootstrap import resample
from fundusgrade.metrics.classification import quadratic_weighted_kappa
from fundusgrade.metrics.comparison import (
    bootstrap_p,
    compare_all,
    compare_aucs,
    correct_by_holm,
    find_disagreements,
    mcnemar_p,
)
from fundusgrade.metrics.estimates import UNDEFINED, Estimate
from fundusgrade.metrics.predictions import PredictionSet
from tests.scored import draw_photographs, grade_again, prediction_set, repeated, scored


@pytest.mark.parametrize(("first", "second"), [(0, 0), (3, 3), (1, 0), (0, 8), (12, 3), (40, 90), (900, 1100)])
def test_mcnemar_equals_the_binomial_test(first: int, second: int) -> None:
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    right, other = discordant(first, second)
    each = np.arange(len(right))
    assert mcnemar_p(right, other, each) == pytest.approx(expected)
    assert mcnemar_p(other, right, each) == pytest.approx(expected)


def discordant(first: int, second: int, agreeing: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Photographs that only the first model, only the second, and both grade right."""
    right = np.array([True] * first + [False] * second + [True] * agreeing)
    return right, np.array([False] * first + [True] * second + [True] * agreeing)


def test_copies_of_photographs_are_no_evidence_for_mcnemar() -> None:
    right, other = discordant(33, 19)
    groups = np.arange(len(right))
    alone = mcnemar_p(right, other, groups)
    for times in (2, 4):
        assert mcnemar_p(*(np.tile(each, times) for each in (right, other, groups))) == pytest.approx(alone)
    # Two eyes of a patient that speak against each other say nothing.
    assert mcnemar_p(np.array([True, False]), np.array([False, True]), np.array([7, 7])) == 1.0


def test_mcnemar_rejects_as_often_as_it_says_where_both_eyes_err_together() -> None:
    rng = np.random.default_rng(0)
    rejected = []
    for _ in range(400):
        patient = rng.normal(size=(2, 100, 1)) + 0.5 * rng.normal(size=(2, 100, 2))
        right, other = (patient < 0.5).reshape(2, 200)
        rejected.append(mcnemar_p(right, other, np.repeat(np.arange(100), 2)) < 0.05)
    assert np.mean(rejected) < 0.065


def test_holm_by_hand() -> None:
    assert correct_by_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    # The second is not corrected to less than the first; none exceeds 1.
    assert correct_by_holm([0.02, 0.03]) == pytest.approx((0.04, 0.04))
    assert correct_by_holm([0.6, 0.9, 0.7]) == (1.0, 1.0, 1.0)
    assert correct_by_holm([0.03, None, 0.02]) == (pytest.approx(0.04), None, pytest.approx(0.04))
    assert correct_by_holm([]) == ()


@pytest.mark.parametrize("seed", range(12))
def test_bootstrap_p_agrees_with_the_interval(seed: int) -> None:
    first = draw_photographs(70, seed)
    sets = [prediction_set(each, model=name) for each, name in ((first, "a"), (grade_again(first, seed + 40), "b"))]
    (pair,) = compare_all(sets, resample(first.groups, num_resamples=300, seed=seed))
    (turned,) = compare_all(sets[::-1], resample(first.groups, num_resamples=300, seed=seed))
    of = pair.kappa_difference
    assert of.low is not None and of.high is not None and pair.kappa_p is not None
    assert (of.low > 0 or of.high < 0) == (pair.kappa_p < 0.05)
    assert turned.kappa_p == pytest.approx(pair.kappa_p, abs=0.02)


def test_a_clear_difference_is_not_hidden_by_the_number_of_resamples() -> None:
    first = draw_photographs(400, 0, skill=3.0)
    resamples = resample(first.groups, num_resamples=100)
    sets = [prediction_set(each, model=name) for each, name in ((first, "a"), (grade_again(first, 5, skill=0.5), "b"))]
    (pair,) = compare_all(sets, resamples)
    assert pair.kappa_p is not None and pair.kappa_p < 1e-6


def test_bootstrap_p_of_what_cannot_differ() -> None:
    resamples = resample(np.arange(9), num_resamples=20)
    assert bootstrap_p(Estimate(value=0.0, low=None, high=None), np.zeros(20), resamples) == 1.0
    assert bootstrap_p(Estimate(value=0.1, low=None, high=None), np.full(20, 0.1), resamples) is None
    assert bootstrap_p(UNDEFINED, np.full(20, np.nan), resamples) is None


def test_difference_of_areas_equals_that_of_all_pairs() -> None:
    first = draw_photographs(80, 0)
    second = grade_again(first, 5, skill=0.8)
    positive = first.grades >= 2
    wins = []
    for each in (first, second):
        scores = each.probabilities[:, 2:].sum(axis=1)
        wins.append(np.sign(scores[positive][:, None] - scores[~positive]) / 2 + 0.5)
    gaps = wins[0] - wins[1]
    variance = gaps.mean(axis=1).var(ddof=1) / positive.sum() + gaps.mean(axis=0).var(ddof=1) / (~positive).sum()
    difference, p = compare_aucs(first, second)
    assert difference.value == pytest.approx(gaps.mean())
    assert p == pytest.approx(2 * stats.norm.sf(abs(gaps.mean()) / np.sqrt(variance)))
    assert difference.low == pytest.approx(gaps.mean() - 1.959964 * np.sqrt(variance))
    assert difference.high == pytest.approx(gaps.mean() + 1.959964 * np.sqrt(variance))


def test_areas_that_cannot_be_compared() -> None:
    photographs = draw_photographs(40, 0)
    difference, p = compare_aucs(photographs, photographs)
    assert (difference.value, difference.low, difference.high, p) == (0.0, None, None, None)
    healthy = photographs.subset(photographs.grades == 0)
    assert compare_aucs(healthy, healthy)[0].value is None


def three_models(num_photographs: int = 300) -> list[PredictionSet]:
    first = draw_photographs(num_photographs, 0)
    others = [grade_again(first, 14), grade_again(first, 9, skill=0.7)]
    return [prediction_set(each, model=name) for each, name in zip([first, *others], "abc", strict=True)]


def test_pairs_of_three_models() -> None:
    sets = three_models()
    resamples = resample(sets[0].test.groups, num_resamples=400)
    pairs = compare_all(sets, resamples)
    assert [(pair.first, pair.second) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    like, far = pairs[0], pairs[1]
    for pair, (first, second) in zip(pairs, [(0, 1), (0, 2), (1, 2)], strict=True):
        one, other = sets[first].test, sets[second].test
        one_kappa = quadratic_weighted_kappa(one.grades, one.predicted)
        other_kappa = quadratic_weighted_kappa(other.grades, other.predicted)
        assert one_kappa is not None and other_kappa is not None
        assert pair.kappa_difference.value == pytest.approx(one_kappa - other_kappa)
        right, other_right = one.predicted == one.grades, other.predicted == other.grades
        assert pair.accuracy_difference.value == pytest.approx(right.mean() - other_right.mean())
        assert pair.num_first_only - pair.num_second_only == right.sum() - other_right.sum()
        assert np.sum(pair.agreement) == 300
        assert pair.agreement[1][2] == ((one.predicted == 1) & (other.predicted == 2)).sum()
        assert pair.agreement_kappa == quadratic_weighted_kappa(one.predicted, other.predicted)
    assert far.kappa_p is not None and far.kappa_p < 1e-4
    alone = stats.binomtest(far.num_first_only, far.num_first_only + far.num_second_only).pvalue
    assert far.mcnemar_p in [pytest.approx(factor * alone) for factor in (2, 3)]
    assert far.kappa_difference.low is not None and far.kappa_difference.low > 0
    assert far.auc_p is not None and far.auc_p < 0.01
    assert like.kappa_p is not None and like.kappa_p > 0.05 and like.mcnemar_p > 0.05


def test_a_model_does_not_differ_from_itself() -> None:
    one = three_models(60)[0]
    pair = compare_all([one, one], resample(one.test.groups, num_resamples=50))[0]
    assert (pair.kappa_difference.value, pair.kappa_p, pair.mcnemar_p, pair.auc_p) == (0.0, 1.0, 1.0, None)
    assert (pair.agreement_kappa, pair.disagreements) == (1.0, ())


def test_kappas_that_are_undefined_are_not_compared() -> None:
    healthy = prediction_set(scored([0, 0, 0], [[1, 0, 0, 0, 0]] * 3))
    pair = compare_all([healthy, healthy], resample(healthy.test.groups, num_resamples=50))[0]
    assert (pair.kappa_difference.value, pair.kappa_p, pair.agreement_kappa) == (None, None, None)


def test_copies_of_one_group_do_not_narrow_the_interval_of_a_difference() -> None:
    first, second = (repeated(each.test, 2) for each in three_models(100)[:2])
    single = [prediction_set(each.test) for each in three_models(100)[:2]]
    doubled = compare_all([prediction_set(first), prediction_set(second)], resample(first.groups, num_resamples=2000))[
        0
    ]
    plain = compare_all(single, resample(single[0].test.groups, num_resamples=2000))[0]
    for name in ("kappa_difference", "accuracy_difference", "auc_difference"):
        narrow, wide = getattr(doubled, name), getattr(plain, name)
        assert narrow.high - narrow.low == pytest.approx(wide.high - wide.low, rel=0.12), name


def test_disagreements_come_in_order() -> None:

    first = scored([0, 1, 2, 3], [[1, 0, 0, 0, 0], [0.6, 0.4, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 1, 0]])
    second = scored([0, 1, 2, 3], [[0, 1, 0, 0, 0], [0, 0, 0, 0, 1], [0.4, 0.6, 0, 0, 0], [0, 0, 0, 1, 0]])
    found = find_disagreements(first, second)
    assert [(each.source, each.first, each.second) for each in found] == [
        ("1.png", 0, 4), ("0.png", 0, 1), ("2.png", 0, 1),
    ]  # fmt: skip
    assert [each.grade for each in found] == [1, 0, 2]
    assert len(find_disagreements(draw_photographs(200, 0), draw_photographs(200, 7))) == 20
