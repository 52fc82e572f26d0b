"""The first screen says of each model what was measured, judges by whole intervals, and ranks no model that cheated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fundusgrade.evaluation.assessment import Assessment, assess
from fundusgrade.evaluation.overview import Goal, Origin, judge, overview
from fundusgrade.evaluation.screening import EVERYONE, GRADABLE, ReferralRule, Referrals, ScreenedPhotographs
from fundusgrade.metrics.estimates import UNDEFINED, Estimate
from fundusgrade.metrics.predictions import INFLATED
from fundusgrade.metrics.score_keys import ScoreKey
from tests.scored import draw_photographs, grade_again, prediction_set

NUM = 240
ORIGINS = ["home" if i % 3 else "away" for i in range(NUM)]


def screened(*, patients: bool = True, gradable: bool = True) -> ScreenedPhotographs:
    return ScreenedPhotographs(
        gradable=np.ones(NUM, bool) if gradable else np.arange(NUM) % 7 > 0,
        patients=tuple(f"{ORIGINS[i]} {i // 3 // 2}" for i in range(NUM)) if patients else None,
        unprepared_grades=np.zeros(0, np.int64),
        unprepared_groups=np.zeros(0, np.int64),
        origins=tuple(ORIGINS),
    )


def assessed(*, leakage: tuple[str, str] = ("", ""), patients: bool = True, referred: bool = True) -> Assessment:
    test = draw_photographs(NUM, 0)
    sets = [
        replace(prediction_set(grade_again(test, 9 + i, skill=skill), model=name), leakage=said)
        for i, (name, skill, said) in enumerate((("weak", 0.8, leakage[0]), ("strong", 3.0, leakage[1])))
    ]
    rules = {each.model: ReferralRule(thresholds={0: 0.5}, reason="given") for each in sets}
    return assess(
        sets,
        num_resamples=60,
        origins=ORIGINS,
        columns={"origin": ORIGINS, "eye": ["left", "right"] * (NUM // 2), "site": ["a"] * 20 + ["b"] * (NUM - 20)},
        referrals=Referrals(photographs=screened(patients=patients, gradable=False), rules=rules) if referred else None,
        internal={"strong": frozenset({"home"})},
    )


@pytest.fixture(scope="module")
def found() -> Assessment:
    return assessed()


def test_rows_are_of_all_photographs_then_of_each_data_set(found: Assessment) -> None:
    for of in overview(found).models:
        assert [row.data for row in of.rows] == [None, "away", "home"]
        assert [row.num_photographs for row in of.rows] == [NUM, NUM // 3, NUM * 2 // 3]
        assert of.all.kappa == of.model.score(ScoreKey.KAPPA)
        assert of.rows[1].kappa == of.model.sources[0].score(ScoreKey.KAPPA)
        assert of.model.screening is not None
        for row in of.rows:
            assert row.everyone == of.model.screening.of(EVERYONE, row.data)
            assert row.gradable == of.model.screening.of(GRADABLE, row.data)
            assert row.everyone is not None and row.everyone.unit == "patients"


def test_rates_of_the_data_sets_add_up_to_those_of_all(found: Assessment) -> None:
    for of in overview(found).models:
        everyone = [row.everyone for row in of.rows]
        whole, *parts = [each for each in everyone if each is not None]
        for name in ("num_referable", "num_others", "num_ungradable", "num_sight_threatening_missed"):
            assert getattr(whole, name) == sum(getattr(part, name) for part in parts)
        found_of = [round((part.sensitivity.value or 0) * part.num_referable) for part in parts]
        assert whole.sensitivity.value == pytest.approx(sum(found_of) / whole.num_referable)


def test_a_data_set_is_internal_where_the_model_was_trained_on_it_and_unknown_where_that_is_not_known(
    found: Assessment,
) -> None:
    weak, strong = overview(found).models
    assert [row.origin for row in strong.rows] == [Origin.UNKNOWN, Origin.EXTERNAL, Origin.INTERNAL]
    assert {row.origin for row in weak.rows} == {Origin.UNKNOWN}


def test_the_subgroup_served_worst_has_the_lowest_sensitivity_of_those_with_enough_referable(found: Assessment) -> None:
    for of in overview(found).models:
        large = [each for each in of.model.subgroups if each.num_referable >= 22]
        small = [each for each in of.model.subgroups if each.num_referable < 22]
        assert small, "site a has twenty photographs"
        assert of.num_subgroups == len(large) and of.lowest in large
        assert of.lowest is not None and of.lowest.sensitivity.value == min(
            each.sensitivity.value or 0 for each in large
        )


def test_sensitivity_of_a_subgroup_counts_the_ungradable_as_referred(found: Assessment) -> None:
    (left,) = [each for each in found.models[0].subgroups if each.value == "left"]
    test = grade_again(draw_photographs(NUM, 0), 9, skill=0.8)
    referred = (test.probabilities[:, 2:].sum(axis=1).round(4) >= 0.5) | (np.arange(NUM) % 7 == 0)
    members = np.arange(NUM) % 2 == 0
    assert left.sensitivity.value == pytest.approx(referred[members & (test.grades >= 2)].mean())
    assert left.specificity.value == pytest.approx((~referred)[members & (test.grades < 2)].mean())
    assert left.num_referable == (members & (test.grades >= 2)).sum()


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.85, 0.9, Goal.REACHED), (0.84, 0.9, Goal.OPEN), (0.7, 0.85, Goal.OPEN), (0.7, 0.849, Goal.MISSED)],
)
def test_a_goal_is_reached_or_missed_by_the_whole_interval(low: float, high: float, verdict: Goal) -> None:
    assert judge(Estimate(value=(low + high) / 2, low=low, high=high), 0.85) is verdict
    assert judge(UNDEFINED, 0.85) is Goal.OPEN


def test_the_best_model_has_not_seen_the_photographs(found: Assessment) -> None:
    best = overview(found).best
    assert best is not None and best.model.model == "strong"
    seen = f"9 of 9 photographs were used to train this model: {INFLATED}."
    cheated = assessed(leakage=("", seen))
    best = overview(cheated).best
    assert best is not None and best.model.model == "weak"
    assert [model.is_inflated for model in cheated.models] == [False, True]
    (pair,) = cheated.comparisons
    assert (pair.kappa_p, pair.auc_p, pair.mcnemar_p, pair.is_inflated) == (None, None, None, True)
    assert pair.kappa_difference == found.comparisons[0].kappa_difference, "differences are still shown"
    assert pair.describe_p(pair.kappa_p) == "not tested"
    assert overview(assessed(leakage=(seen, seen))).best is None


def test_without_referrals_there_is_no_verdict_and_without_patients_photographs_count() -> None:
    bare = overview(assessed(referred=False))
    assert bare.best is None and all(of.all.everyone is None and of.lowest is None for of in bare.models)
    of_photographs = overview(assessed(patients=False)).models[0].all.everyone
    assert of_photographs is not None and of_photographs.unit == "photographs"
