"""Tests between two models equal scipy's or a worked example; corrections count the pairs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fundusgrade.comparison import (
    bootstrap_p,
    compare_all,
    compare_aucs,
    correct_by_holm,
    find_disagreements,
    mcnemar_p,
)
from fundusgrade.metrics import quadratic_weighted_kappa
from fundusgrade.predictions import PredictionSet
from fundusgrade.resampling import resample
from tests.scored import draw_photographs, grade_again, prediction_set, repeated, scored


@pytest.mark.parametrize(("first", "second"), [(0, 0), (3, 3), (1, 0), (0, 8), (12, 3), (40, 90), (900, 1100)])
def test_mcnemar_equals_the_binomial_test(first: int, second: int) -> None:
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar_p(first, second) == pytest.approx(expected)
    assert mcnemar_p(first, second) == mcnemar_p(second, first)


def test_holm_by_hand() -> None:
    assert correct_by_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    # The second is not corrected to less than the first; none exceeds 1.
    assert correct_by_holm([0.02, 0.03]) == pytest.approx((0.04, 0.04))
    assert correct_by_holm([0.6, 0.9, 0.7]) == (1.0, 1.0, 1.0)
    assert correct_by_holm([0.03, None, 0.02]) == (pytest.approx(0.04), None, pytest.approx(0.04))
    assert correct_by_holm([]) == ()


def test_bootstrap_p_counts_the_rarer_side_of_zero() -> None:
    draws = np.array([0.1] * 96 + [-0.1] * 3)
    assert bootstrap_p(draws) == pytest.approx(2 * 4 / 100)
    assert bootstrap_p(-draws) == bootstrap_p(draws)
    assert bootstrap_p(np.full(99, 0.1)) == pytest.approx(0.02)
    assert bootstrap_p(np.zeros(99)) == 1.0
    assert bootstrap_p(np.array([np.nan] * 5 + [0.1] * 19)) == pytest.approx(0.1)
    assert bootstrap_p(np.full(5, np.nan)) is None


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
    healthy = photographs.chosen(photographs.grades == 0)
    assert compare_aucs(healthy, healthy)[0].value is None


def three_models(num_photographs: int = 300) -> list[PredictionSet]:
    first = draw_photographs(num_photographs, 0)
    others = [grade_again(first, 14), grade_again(first, 9, skill=0.7)]
    return [prediction_set(each, model=name) for each, name in zip([first, *others], "abc", strict=True)]


def test_pairs_of_three_models() -> None:
    sets = three_models()
    sample = resample(sets[0].test.grades, sets[0].test.groups, num_draws=400)
    pairs = compare_all(sets, sample)
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
    # The smallest p-value there can be, three times.
    assert far.kappa_p == pytest.approx(3 * 2 / 401)
    assert far.mcnemar_p in [factor * mcnemar_p(far.num_first_only, far.num_second_only) for factor in (2, 3)]
    assert far.kappa_difference.low is not None and far.kappa_difference.low > 0
    assert far.auc_p is not None and far.auc_p < 0.01
    assert like.kappa_p is not None and like.kappa_p > 0.05 and like.mcnemar_p > 0.05


def test_a_model_does_not_differ_from_itself() -> None:
    one = three_models(60)[0]
    pair = compare_all([one, one], resample(one.test.grades, one.test.groups, num_draws=50))[0]
    assert (pair.kappa_difference.value, pair.kappa_p, pair.mcnemar_p, pair.auc_p) == (0.0, 1.0, 1.0, None)
    assert (pair.agreement_kappa, pair.disagreements) == (1.0, ())


def test_kappas_that_are_undefined_are_not_compared() -> None:
    healthy = prediction_set(scored([0, 0, 0], [[1, 0, 0, 0, 0]] * 3))
    pair = compare_all([healthy, healthy], resample(healthy.test.grades, healthy.test.groups, num_draws=50))[0]
    assert (pair.kappa_difference.value, pair.kappa_p, pair.agreement_kappa) == (None, None, None)


def test_copies_of_one_group_do_not_make_a_difference_surer() -> None:
    first, second = (repeated(each.test, 2) for each in three_models(100)[:2])
    single = [prediction_set(each.test) for each in three_models(100)[:2]]
    doubled = compare_all(
        [prediction_set(first), prediction_set(second)], resample(first.grades, first.groups, num_draws=2000)
    )[0]
    plain = compare_all(single, resample(single[0].test.grades, single[0].test.groups, num_draws=2000))[0]
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
