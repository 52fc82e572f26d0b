"""What sections mention is what was measured: the extremes, the ranges and the better model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fundusgrade.evaluation.assessment import Assessment, assess
from fundusgrade.metrics.estimates import Estimate
from fundusgrade.metrics.operating_points import DecisionCurve
from fundusgrade.metrics.score_keys import F1_KEYS, ScoreKey
from fundusgrade.reports.html.sections import (
    largest_calibration_error,
    net_benefit_range,
    net_benefit_ranges,
    reported_comparisons,
    reported_models,
    subgroup_tables,
)
from tests.scored import draw_photographs, grade_again, prediction_set, scored


@pytest.fixture(scope="module")
def found() -> Assessment:
    test, validation = draw_photographs(150, 0), draw_photographs(120, 50)
    weak = prediction_set(grade_again(test, 9, skill=0.8), grade_again(validation, 70, skill=0.8), model="weak")
    strong = prediction_set(grade_again(test, 10, skill=3), grade_again(validation, 71, skill=3), model="strong")
    return assess([weak, strong], num_resamples=60, columns={"site": ["north", "south", "south"] * 50})


def test_models_are_named_by_letter_where_there_are_several(found: Assessment) -> None:
    assert [model.name for model in reported_models(found)] == ["A weak", "B strong"]
    assert [model.name for model in reported_models(replace(found, models=found.models[:1]))] == ["weak"]


def test_the_weakest_grade_has_the_lowest_f1(found: Assessment) -> None:
    for model in reported_models(found):
        values = [model.assessment.score(key).value for key in F1_KEYS]
        assert model.weakest_grade is not None
        assert values[model.weakest_grade] == min(value for value in values if value is not None)
        assert model.kappa == model.assessment.score(ScoreKey.KAPPA)


def test_deferral_and_coverage_are_those_of_the_curves(found: Assessment) -> None:
    for model in reported_models(found):
        of = model.assessment.risk_coverage
        curve = dict(zip(of.coverages, of.accuracies, strict=True))
        assert model.deferral is not None and model.coverage is not None
        assert (model.deferral.accuracy, model.deferral.remaining_accuracy) == (curve[1.0], curve[0.8])
        assert model.deferral.deferred == pytest.approx(0.2)
        everywhere, *grades = model.assessment.set_coverage
        assert model.coverage.all == everywhere
        assert model.coverage.lowest.covered.value == min(of.covered.value or 0.0 for of in (everywhere, *grades))
        bounds = [of.bound_covered.value or 0.0 for of in (everywhere, *grades)]
        assert model.coverage.lowest_bound.bound_covered.value == min(bounds)


def test_what_is_undefined_is_not_reported() -> None:
    healthy = scored([0] * 12, np.tile([0.9, 0.05, 0.03, 0.01, 0.01], (12, 1)))
    (model,) = reported_models(assess([prediction_set(healthy)], num_resamples=20))
    assert (model.weakest_grade, model.coverage) == (0, None), "the other grades are neither true nor predicted"


def test_the_largest_calibration_error_is_of_all_models_and_kinds(found: Assessment) -> None:
    every = {
        (model.name, of.outcome): of.calibration_error.value or 0.0
        for model in reported_models(found)
        for of in model.assessment.reliability
    }
    worst = largest_calibration_error(reported_models(found))
    assert worst is not None and worst.error == max(every.values()) == every[worst.model, worst.outcome]
    assert worst.num_per_bin == 50, "150 photographs in bins of 50 at least"
    assert largest_calibration_error([]) is None


def test_net_benefit_is_reported_where_every_model_exceeds_both_simple_rules(found: Assessment) -> None:
    def with_curves(*curves: tuple[float, ...]) -> Assessment:
        models = [
            replace(
                found.models[0],
                decision_curves=(
                    DecisionCurve(
                        decision="referable", thresholds=(0.1, 0.2, 0.3), model=of, treat_all=(0.5, 0.1, -0.2)
                    ),
                ),
            )
            for of in curves
        ]
        return replace(found, models=tuple(models))

    def bounds(*curves: tuple[float, ...]) -> tuple[float | None, float | None]:
        of = net_benefit_range(with_curves(*curves), "referable")
        return of.low, of.high

    assert bounds((0.6, 0.2, 0.1)) == (0.1, 0.3)
    assert bounds((0.6, 0.2, 0.1), (0.4, 0.2, -0.1)) == (0.2, 0.2), "more than all at 0.1, more than none at 0.3"
    assert bounds((0.5, 0.1, 0.0)) == (None, None), "as good is not better"
    assert [of.decision for of in net_benefit_ranges(found)] == ["referable", "sight-threatening"]


def test_a_pair_has_a_better_model_only_where_the_difference_is_significant(found: Assessment) -> None:
    (pair,) = reported_comparisons(found)
    assert (pair.name, pair.better, pair.worse) == ("A weak − B strong", "B strong", "A weak")
    for p in (0.05, None):
        alike = replace(found, comparisons=(replace(found.comparisons[0], kappa_p=p),))
        assert [(of.better, of.worse) for of in reported_comparisons(alike)] == [(None, None)]
    first = replace(found.comparisons[0], kappa_p=0.01, kappa_difference=Estimate(value=0.1, low=0.0, high=0.2))
    assert reported_comparisons(replace(found, comparisons=(first,)))[0].better == "A weak"


def test_subgroups_keep_the_models_in_order_and_say_where_one_has_none(found: Assessment) -> None:
    weak, strong = found.models
    (table,) = subgroup_tables(replace(found, models=(replace(weak, subgroups=weak.subgroups[:1]), strong)))
    assert (table.column, [(row.value, row.num_photographs) for row in table.rows]) == (
        "site", [("north", 50), ("south", 100)],
    )  # fmt: skip
    assert table.rows[0].by_model == (weak.subgroups[0], strong.subgroups[0])
    assert table.rows[1].by_model == (None, strong.subgroups[1])
