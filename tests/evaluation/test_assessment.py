"""Models are assessed on the same photographs in the same order, or not at all."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pytest

from fundusgrade.errors import MetricsError
from fundusgrade.evaluation.assessment import Assessment, assess, find_worst_errors
from fundusgrade.metrics.classification import evaluate_predictions
from fundusgrade.metrics.predictions import PredictionSet
from fundusgrade.metrics.score_keys import ScoreKey
from tests.scored import draw_photographs, grade_again, prediction_set, scored


def two_models(num_photographs: int = 120) -> list[PredictionSet]:
    test = draw_photographs(num_photographs, 0)
    validation = draw_photographs(120, 50)
    return [
        prediction_set(test, validation, model="first"),
        prediction_set(grade_again(test, 9), grade_again(validation, 8), model="second"),
    ]


def test_the_whole() -> None:
    found = assess(two_models(), num_resamples=50)
    assert (found.data, found.part, found.coverage, found.num_resamples) == ("eyes", "test", 0.9, 50)
    assert (found.num_photographs, found.num_groups) == (120, 120)
    assert [(model.num_validation, model.num_folds) for model in found.models] == [(120, 1), (120, 1)]
    assert [model.model for model in found.models] == ["first", "second"]
    assert [(pair.first, pair.second) for pair in found.comparisons] == [("first", "second")]
    for model in found.models:
        assert (len(model.scores), len(model.reliability), len(model.operating_points)) == (len(ScoreKey), 2, 8)
        assert (len(model.decision_curves), len(model.set_coverage), model.subgroups) == (2, 6, ())


def test_assessment_holds_plain_numbers_only() -> None:
    def leaves(value: object) -> list[object]:
        if isinstance(value, dict):
            return [leaf for item in value.values() for leaf in leaves(item)]
        return [leaf for item in value for leaf in leaves(item)] if isinstance(value, tuple) else [value]

    found: Assessment = assess(two_models(), num_resamples=20, columns={"device": ["a", "b"] * 60})
    assert {type(leaf) for leaf in leaves(dataclasses.asdict(found))} <= {int, float, bool, str, ScoreKey, type(None)}


def test_the_same_seed_says_the_same() -> None:
    sets = two_models()
    assert assess(sets, num_resamples=20, seed=1) == assess(sets, num_resamples=20, seed=1)
    assert assess(sets, num_resamples=20, seed=1) != assess(sets, num_resamples=20, seed=2)


def test_clusters_of_acquisition_are_those_of_the_first_in_the_order_of_its_photographs() -> None:
    first, second = two_models()
    clusters = np.arange(120) % 3 + 1
    known = replace(first, test=replace(first.test, acquisitions=clusters))
    shuffled = replace(second, test=second.test.subset(np.random.default_rng(0).permutation(120)))
    found = assess([known, shuffled], num_resamples=20)
    assert [cluster.number for cluster in found.acquisitions] == [1, 2, 3]
    for cluster in found.acquisitions:
        grades = first.test.grades[clusters == cluster.number]
        assert cluster.num_per_grade == tuple(np.bincount(grades, minlength=5)) and cluster.num_photographs == 40
        assert cluster.referable_fraction == pytest.approx((grades >= 2).mean())
    alone = assess([replace(second, test=replace(second.test, acquisitions=clusters))], num_resamples=20)
    kappa, auc = ScoreKey.KAPPA_WITHIN_ACQUISITION, ScoreKey.REFERABLE_AUC_WITHIN_ACQUISITION
    assert found.models[1].score(kappa).value == alone.models[0].score(kappa).value
    (pair,) = found.comparisons
    for difference, key in (
        (pair.kappa_difference_within_acquisition, kappa),
        (pair.auc_difference_within_acquisition, auc),
    ):
        values = [model.score(key).value or 0 for model in found.models]
        assert difference.value == pytest.approx(values[0] - values[1])
    unknown = assess([first, second], num_resamples=20)
    assert unknown.acquisitions == ()
    assert unknown.comparisons[0].kappa_difference_within_acquisition.value is None


def test_photographs_are_brought_into_the_order_of_the_first() -> None:
    first, second = two_models()
    shuffled = replace(second, test=second.test.subset(np.random.default_rng(0).permutation(120)))
    assert assess([first, shuffled], num_resamples=20) == assess([first, second], num_resamples=20)


def test_scores_are_those_of_the_grades_that_were_given() -> None:
    first = two_models()[0]
    cautious = np.minimum(first.test.predicted + 1, 4)
    found = assess([replace(first, test=replace(first.test, predicted=cautious))], num_resamples=20).models[0]
    expected = evaluate_predictions(first.test.grades, first.test.probabilities, predicted=cautious)
    assert found.evaluation == expected
    assert expected.kappa != evaluate_predictions(first.test.grades, first.test.probabilities).kappa
    assert found.score(ScoreKey.KAPPA).value == pytest.approx(expected.kappa)


def test_the_part_is_named_and_must_hold_photographs() -> None:
    alone = prediction_set(two_models()[0].test)
    found = assess([alone], part="all", num_resamples=20)
    assert (found.part, found.num_photographs, found.models[0].num_validation) == ("all", 120, 0)
    assert (found.models[0].operating_points, found.models[0].set_coverage) == ((), ())
    with pytest.raises(MetricsError, match="hold no photographs of part validation"):
        assess([alone, replace(alone, test=alone.validation)], part="validation")


def test_other_photographs_are_refused() -> None:
    first, second = two_models()
    fewer = replace(second, test=second.test.subset(np.arange(3, 120)))
    with pytest.raises(
        MetricsError, match=r"second .* first: 3 photographs \(0.png, 1.png, 2.png\) missing, none only"
    ):
        assess([first, fewer])
    with pytest.raises(
        MetricsError, match=r"first .* second: none missing, 3 photographs .* make the predictions again"
    ):
        assess([fewer, first])
    others = replace(second, test=replace(second.test, sources=tuple(f"{i}.jpg" for i in range(120))))
    with pytest.raises(MetricsError, match=r"120 photographs .* and 117 more"):
        assess([first, others])


def test_other_grades_and_doubled_names_are_refused() -> None:
    first, second = two_models()
    relabeled = replace(second, test=replace(second.test, grades=(second.test.grades + 1) % 5))
    with pytest.raises(MetricsError, match="different true grades of 120 photographs"):
        assess([first, relabeled])
    doubled = replace(second, test=second.test.subset(np.zeros(120, np.int64)))
    with pytest.raises(MetricsError, match="name a photograph more than once"):
        assess([first, doubled])
    with pytest.raises(MetricsError, match="at least one model"):
        assess([])


def test_subgroups_pool_rare_values_and_name_missing_ones() -> None:
    devices = ["b"] * 40 + ["a"] * 30 + [""] * 25 + ["rare"] * 15 + ["rarer"] * 10
    test = two_models()[0].test
    found = assess([prediction_set(test)], num_resamples=50, columns={"device": devices}).models[0].subgroups
    assert [(each.column, each.value, each.num_photographs) for each in found] == [
        ("device", "a", 30), ("device", "b", 40), ("device", "unknown", 25), ("device", "other", 25),
    ]  # fmt: skip
    here = test.subset(np.arange(40, 70))
    expected = evaluate_predictions(here.grades, here.probabilities)
    assert found[0].kappa.value == pytest.approx(expected.kappa)
    assert found[0].accuracy.value == pytest.approx(expected.accuracy)
    assert found[0].referable_auc.value == pytest.approx(expected.referable.auc)
    assert found[0].kappa.low is not None and found[0].kappa.high is not None
    assert found[0].kappa.low < found[0].kappa.high


def test_values_called_other_join_the_pool() -> None:
    columns = {"site": ["other"] * 100 + ["here"] * 20, "empty": [" "] * 120}
    found = assess([prediction_set(two_models()[0].test)], num_resamples=20, columns=columns).models[0].subgroups
    assert [(each.column, each.value, each.num_photographs) for each in found] == [
        ("site", "here", 20), ("site", "other", 100), ("empty", "unknown", 120),
    ]  # fmt: skip


def test_column_of_another_length_is_refused() -> None:
    with pytest.raises(MetricsError, match="device has 2 values for 120 photographs"):
        assess(two_models(), columns={"device": ["a", "b"]})


def test_worst_errors_come_first_and_of_equals_those_with_the_least_probable_label() -> None:
    table = [
        (0.6, 0.3, 0.0, 0.0, 0.1), (0.9, 0.06, 0.0, 0.0, 0.04), (0.8, 0.2, 0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 0.0),
        (0.07, 0.03, 0.0, 0.0, 0.9),
    ]  # fmt: skip
    found = find_worst_errors(scored([4, 4, 1, 0, 0], table))
    assert [(each.source, each.grade, each.predicted, each.probabilities) for each in found] == [
        ("1.png", 4, 0, table[1]), ("4.png", 0, 4, table[4]), ("0.png", 4, 0, table[0]), ("2.png", 1, 0, table[2]),
    ]  # fmt: skip
    assert len(find_worst_errors(draw_photographs(400, 0))) == 24
