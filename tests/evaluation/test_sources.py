"""The scores of a data set are those of its photographs alone, wherever several are scored together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fundusgrade.errors import MetricsError
from fundusgrade.evaluation.assessment import assess
from fundusgrade.evaluation.sources import score_sources
from fundusgrade.metrics.bootstrap import resample
from fundusgrade.metrics.operating_points import choose_threshold
from fundusgrade.metrics.predictions import PredictionSet
from fundusgrade.metrics.score_keys import ScoreKey
from tests.scored import by_key, draw_photographs, prediction_set

ORIGINS = ["north"] * 90 + ["south"] * 60
TEST = draw_photographs(150, 3)
BY_SOURCE = replace(TEST, folds=np.repeat([1, 2], [90, 60]))


def folds_by_source() -> PredictionSet:
    validation = draw_photographs(160, 4)
    return prediction_set(BY_SOURCE, replace(validation, folds=np.repeat([1, 2], 80)))


def test_each_data_set_has_the_scores_of_its_photographs_alone() -> None:
    found = score_sources(folds_by_source(), ORIGINS, resample(TEST.groups, num_resamples=200))
    assert [(source.name, source.num_photographs) for source in found] == [("north", 90), ("south", 60)]
    for source in found:
        members = TEST.subset(np.array(ORIGINS) == source.name)
        alone = assess([prediction_set(members)], num_resamples=200).models[0]
        assert by_key(source.scores) == by_key(alone.scores)
        kappa = source.score(ScoreKey.KAPPA)
        assert kappa.low is not None and kappa.value is not None and kappa.high is not None
        assert kappa.low < kappa.value < kappa.high
        of_alone = alone.score(ScoreKey.KAPPA)
        assert of_alone.low is not None and kappa.low == pytest.approx(of_alone.low, abs=0.05)
        assert source.num_per_grade == tuple(np.bincount(members.grades, minlength=5))


def test_operating_points_of_a_data_set_have_the_threshold_of_its_fold() -> None:
    predictions = folds_by_source()
    found = score_sources(predictions, ORIGINS, resample(TEST.groups, num_resamples=50))
    for fold, source in enumerate(found, 1):
        chosen_on = predictions.validation.subset(predictions.validation.folds == fold)
        scores = chosen_on.probabilities[:, 2:].sum(axis=1)
        threshold = choose_threshold(chosen_on.grades >= 2, scores, "sensitivity", 0.90)
        point = next(of for of in source.operating_points if (of.decision, of.aim) == ("referable", "sensitivity 0.90"))
        members = TEST.subset(np.array(ORIGINS) == source.name)
        called = members.probabilities[:, 2:].sum(axis=1) >= threshold
        assert point.threshold == threshold
        assert point.sensitivity.value == pytest.approx(called[members.grades >= 2].mean())
        assert point.specificity.value == pytest.approx((~called[members.grades < 2]).mean())


def test_one_data_set_is_not_scored_twice_and_every_photograph_needs_a_name() -> None:
    resamples = resample(TEST.groups, num_resamples=20)
    assert score_sources(folds_by_source(), ["north"] * 150, resamples) == ()
    assert score_sources(folds_by_source(), (), resamples) == ()
    with pytest.raises(MetricsError, match="2 names of data sets for 150 photographs"):
        score_sources(folds_by_source(), ["north", "south"], resamples)


def test_an_assessment_of_several_models_scores_the_data_sets_of_each() -> None:
    first, second = prediction_set(TEST, model="first"), prediction_set(TEST, model="second")
    shuffled = second.test.subset(np.random.default_rng(0).permutation(150))
    found = assess([first, replace(second, test=shuffled)], num_resamples=50, origins=ORIGINS)
    one, other = (model.sources for model in found.models)
    assert [source.name for source in one] == ["north", "south"]
    assert [by_key(source.scores) for source in one] == [by_key(source.scores) for source in other]
    assert assess([first], num_resamples=20).models[0].sources == ()
