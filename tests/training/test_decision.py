"""A decision rule is fitted to photographs, and grades others; cross-fitted grades show no optimism."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fundusgrade.metrics.classification import quadratic_weighted_kappa
from fundusgrade.networks.build import network_spec
from fundusgrade.networks.heads import UNCALIBRATED
from fundusgrade.networks.spec import NetworkSpec
from fundusgrade.options import Decision, Head, Recipe
from fundusgrade.training import decision
from fundusgrade.training.decision import DecisionRule, RatedOutputs, cross_fit, fit_rule, grade_outputs
from fundusgrade.training.options import TrainOptions
from fundusgrade.training.validation import log_loss

SPEC = replace(network_spec("cnn", 64), head=Head.CUMULATIVE)
COUNTS = np.array([50, 10, 30, 5, 5])
BY_THRESHOLDS = TrainOptions(arch="cnn", decision=Decision.THRESHOLDS).filled()
MOST_PROBABLE = TrainOptions(arch="cnn", decision=Decision.MOST_PROBABLE).filled()


def rated(num_photographs: int, *, skill: float, seed: int = 0) -> RatedOutputs:
    """Cumulative logits of photographs: of their grades and noise, or of noise only where `skill` is 0."""
    rng = np.random.default_rng(seed)
    grades = rng.choice(5, num_photographs, p=COUNTS / COUNTS.sum()).astype(np.int64)
    severity = skill * grades + rng.normal(size=num_photographs)
    outputs = severity[:, None] - skill * (np.arange(4) + 0.5)
    return RatedOutputs(
        outputs=torch.from_numpy(outputs).float(), grades=grades, groups=np.arange(num_photographs) // 2
    )


def kappa_of(grades: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    return quadratic_weighted_kappa(grades, predicted) or 0.0


@pytest.mark.parametrize("options", [BY_THRESHOLDS, MOST_PROBABLE], ids=["thresholds", "most probable"])
def test_a_photograph_is_graded_by_a_rule_that_was_fitted_without_its_group(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs, fitted_on = rated(60, skill=1.0), []

    def spy(spec: NetworkSpec, others: RatedOutputs, counts: NDArray[np.int64], options: TrainOptions) -> DecisionRule:
        fitted_on.append(set(others.groups.tolist()))
        return fit_rule(spec, others, counts, options)

    monkeypatch.setattr(decision, "fit_rule", spy)
    graded = cross_fit(SPEC, photographs, COUNTS, options)
    everyone = set(photographs.groups.tolist())
    assert sorted(group for groups in fitted_on for group in everyone - groups) == sorted(everyone), "each once"
    for groups in fitted_on:
        held_out = ~np.isin(photographs.groups, list(groups))
        rule = fit_rule(SPEC, photographs.subset(~held_out), COUNTS, options)
        expected = grade_outputs(SPEC, photographs.outputs[held_out], rule)
        assert np.array_equal(graded.predicted[held_out], expected.predicted)
        assert np.array_equal(graded.probabilities[held_out], expected.probabilities)


def test_cross_fitted_thresholds_find_no_kappa_in_outputs_that_know_nothing() -> None:
    """A rule is better on the photographs it was fitted to: that optimism must not choose an epoch."""
    kappas, optimism = [], []
    for seed in range(12):
        photographs = rated(30, skill=0.0, seed=seed)
        rule = fit_rule(SPEC, photographs, COUNTS, BY_THRESHOLDS)
        fitted = grade_outputs(SPEC, photographs.outputs, rule)
        graded = cross_fit(SPEC, photographs, COUNTS, BY_THRESHOLDS)
        kappas.append(kappa_of(photographs.grades, graded.predicted))
        losses = [log_loss(photographs.grades, each.probabilities) for each in (graded, fitted)]
        optimism.append(losses[0] - losses[1])
    assert abs(np.mean(kappas)) < 0.1
    assert min(optimism) > 0


def test_the_rule_of_a_run_that_is_not_calibrated_is_the_most_probable_grade() -> None:
    photographs = rated(50, skill=2.0)
    for options in (replace(BY_THRESHOLDS, calibrate=False), TrainOptions(recipe=Recipe.REFERENCE).filled()):
        assert fit_rule(SPEC, photographs, COUNTS, options) == DecisionRule(calibration=UNCALIBRATED, thresholds=None)
        graded = cross_fit(SPEC, photographs, COUNTS, options)
        assert np.array_equal(graded.predicted, graded.probabilities.argmax(axis=1))


def test_photographs_of_one_group_are_graded_by_a_rule_that_is_not_fitted() -> None:
    photographs = replace(rated(8, skill=1.0), groups=np.zeros(8, np.int64))
    found = cross_fit(SPEC, photographs, COUNTS, BY_THRESHOLDS)
    expected = grade_outputs(SPEC, photographs.outputs, DecisionRule())
    assert np.array_equal(found.probabilities, expected.probabilities)
    assert np.array_equal(found.predicted, expected.predicted)
