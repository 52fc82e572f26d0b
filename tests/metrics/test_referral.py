"""The operating point reaches its sensitivity with the least loss of specificity, and comes back as it was stored."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from fundusgrade.errors import MetricsError
from fundusgrade.metrics.referral import (
    FEWEST_REFERABLE,
    UNSTATED_POINT,
    OperatingPoint,
    ReferralScores,
    choose_operating_point,
    is_referable,
    measure_rates,
    referral_scores,
    threshold_for,
)


def drawn(
    seed: int, num_photographs: int = 300, shift: float = 0.0
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Grades, probabilities of referable DR and groups of two photographs each."""
    rng = np.random.default_rng(seed)
    grades = rng.integers(0, 5, num_photographs)
    scores = 1 / (1 + np.exp(-(1.5 * (grades - 1.5) + shift + rng.normal(0, 1.5, num_photographs))))
    return grades, scores, np.arange(num_photographs) // 2 + 1000 * seed


def scores_of(name: str, seed: int, shift: float = 0.0, num_photographs: int = 300) -> ReferralScores:
    grades, scores, groups = drawn(seed, num_photographs, shift)
    return referral_scores([name] * len(grades), grades, scores, groups)[0]


def rates(scores: ReferralScores, threshold: float) -> tuple[float, float]:
    return (
        float(np.mean(np.array(scores.referable) >= threshold)),
        float(np.mean(np.array(scores.others) < threshold)),
    )


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("sensitivity", [0.8, 0.9, 0.95, 1.0])
def test_no_higher_threshold_of_four_decimals_reaches_the_sensitivity(seed: int, sensitivity: float) -> None:
    scores = scores_of("a", seed)
    threshold = threshold_for([scores], sensitivity)
    assert threshold == round(threshold, 4)
    reached, specificity = rates(scores, threshold)
    assert reached >= sensitivity
    better = [rates(scores, cut) for cut in np.arange(round(threshold * 10_000) + 1, 10_001) / 10_000]
    assert all(found < sensitivity for found, passed in better if passed > specificity)


@pytest.mark.parametrize("seed", range(10))
def test_every_large_data_set_reaches_the_sensitivity_and_all_together(seed: int) -> None:
    parts = [scores_of("bright", seed, shift=1.0), scores_of("dark", seed + 50, shift=-2.0)]
    threshold = threshold_for(parts, 0.9)
    assert all(rates(part, threshold)[0] >= 0.9 for part in parts)
    assert threshold == threshold_for(parts[1:], 0.9) < threshold_for(parts[:1], 0.9)


def test_a_data_set_of_few_referable_photographs_has_no_say_of_its_own() -> None:
    large = scores_of("large", 1)
    few = ReferralScores(data="few", referable=(0.0001,) * 2, referable_groups=(1, 2))
    assert threshold_for([few], 0.9) == 0.0001 < 0.05 < threshold_for([large, few], 0.9)
    many = replace(few, referable=(0.0001,) * FEWEST_REFERABLE, referable_groups=tuple(range(FEWEST_REFERABLE)))
    assert threshold_for([large, many], 0.9) == 0.0001


def test_all_photographs_may_be_referable() -> None:
    scores = ReferralScores(data="a", referable=tuple(np.arange(1, 11) / 10), referable_groups=tuple(range(10)))
    assert threshold_for([scores], 0.9) == 0.2
    assert threshold_for([scores], 1.0) == 0.1


def test_rates_are_those_counted_with_intervals_of_whole_groups() -> None:
    grades, scores, groups = drawn(3)
    names = ["b" if i % 3 else "a" for i in range(len(grades))]
    found = measure_rates(referral_scores(names, grades, scores, groups), 0.4)
    assert [each.data for each in found] == ["", "a", "b"]
    called, positive = np.round(scores, 4) >= 0.4, grades >= 2
    for each, among in zip(found, (np.ones(300, bool), *(np.array(names) == n for n in "ab")), strict=True):
        assert (each.num_referable, each.num_others) == ((positive & among).sum(), (~positive & among).sum())
        assert each.sensitivity.value == pytest.approx(called[positive & among].mean())
        assert each.specificity.value == pytest.approx((~called)[~positive & among].mean())


def test_intervals_are_those_of_whole_groups() -> None:
    grades, scores, groups = drawn(3, 60)
    once = measure_rates(referral_scores(["a"] * 60, grades, scores, groups), 0.4)[0].sensitivity
    copies = [np.repeat(values, 10) for values in (grades, scores, groups)]
    tenfold = measure_rates(referral_scores(["a"] * 600, *copies), 0.4)[0].sensitivity
    assert tenfold.value == once.value
    assert tenfold.low == pytest.approx(once.low, abs=0.03), "copies of a photograph add nothing"
    alone = measure_rates(referral_scores(["a"] * 600, copies[0], copies[1], np.arange(600)), 0.4)[0].sensitivity
    assert alone.low is not None and tenfold.low is not None and alone.low - tenfold.low > 0.08


def test_one_data_set_is_measured_once_and_none_not_at_all() -> None:
    scores = scores_of("a", 4)
    assert [each.data for each in measure_rates([scores], 0.5)] == ["", "a"]
    assert measure_rates([], 0.5) == ()


def test_a_point_is_measured_on_photographs_that_did_not_choose_it() -> None:
    chosen_on, held_out = [scores_of("a", 5)], [scores_of("a", 6)]
    point = choose_operating_point(chosen_on, held_out, 0.9)
    assert point is not None and point.is_held_out
    assert point.threshold == threshold_for(chosen_on, 0.9)
    assert (point.rates[0].sensitivity.value, point.rates[0].specificity.value) == rates(held_out[0], point.threshold)
    whole = choose_operating_point(chosen_on, (), 0.9)
    assert whole is not None and not whole.is_held_out
    assert (whole.rates[0].sensitivity.value or 0) >= 0.9
    assert choose_operating_point([replace(chosen_on[0], referable=(), referable_groups=())]) is None


def test_another_sensitivity_or_threshold_follows_from_the_stored_photographs() -> None:
    chosen_on, held_out = [scores_of("a", 7)], [scores_of("a", 8)]
    point = choose_operating_point(chosen_on, held_out, 0.9)
    assert point is not None
    assert point.at_sensitivity(0.95) == choose_operating_point(chosen_on, held_out, 0.95)
    given = point.at_threshold(0.3)
    assert (given.threshold, given.sensitivity) == (0.3, None)
    assert given.rates == measure_rates(held_out, 0.3)
    assert UNSTATED_POINT.at_threshold(0.3) == OperatingPoint(threshold=0.3)


def test_what_cannot_be_chosen_is_an_error_with_the_remedy() -> None:
    point = OperatingPoint(threshold=0.5, chosen_on=(scores_of("a", 9),))
    with pytest.raises(MetricsError, match="not stored with it; give a threshold instead"):
        UNSTATED_POINT.at_sensitivity(0.9)
    for wrong in (0.0, -1.0, 1.1, float("nan")):
        with pytest.raises(MetricsError, match="expected a proportion above 0, at most 1"):
            point.at_sensitivity(wrong)
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(MetricsError, match="expected a probability from 0 to 1"):
            point.at_threshold(wrong)
    with pytest.raises(MetricsError, match="there is none"):
        threshold_for([], 0.9)


def test_a_point_comes_back_from_json() -> None:
    point = choose_operating_point([scores_of("a", 10), scores_of("b", 11)], [scores_of("a", 12)])
    assert point is not None
    assert OperatingPoint.from_json(json.loads(json.dumps(asdict(point)))) == point
    assert OperatingPoint.from_json(json.loads(json.dumps(asdict(UNSTATED_POINT)))) == UNSTATED_POINT


def test_a_probability_is_compared_as_it_is_written() -> None:
    scores = np.array([0.29994, 0.29996, 0.3, 0.30004])
    assert is_referable(scores, 0.3).tolist() == [f"{score:.4f}" >= "0.3000" for score in scores]
