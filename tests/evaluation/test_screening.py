"""Referrals are counted as a program counts them: what cannot be graded refers, a patient is the worst photograph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fundusgrade.data.manifest import write_manifest
from fundusgrade.evaluation.screening import (
    EVERYONE,
    GRADABLE,
    PATIENTS,
    PHOTOGRAPHS,
    ReferralRule,
    ScreenedPhotographs,
    ScreeningRates,
    measure_screening,
    rule_of_point,
    rule_of_predictions,
    screened_photographs,
)
from fundusgrade.metrics.predictions import ScoredPhotographs
from fundusgrade.metrics.referral import UNSTATED_POINT, choose_operating_point, referral_scores, threshold_for
from tests.prepared import prepared_dataset
from tests.scored import draw_photographs, prediction_set

RULE = ReferralRule(thresholds={0: 0.4}, reason="given")


def of_drawn(seed: int, num_photographs: int = 120) -> tuple[ScoredPhotographs, ScreenedPhotographs]:
    rng = np.random.default_rng(seed)
    test = draw_photographs(num_photographs, seed)
    patients = rng.integers(0, 50, num_photographs + 10)
    test = replace(test, groups=patients[:num_photographs], folds=np.zeros(num_photographs, np.int64))
    return test, ScreenedPhotographs(
        gradable=rng.random(num_photographs) < 0.8,
        patients=tuple(f"p{number}" for number in patients),
        unprepared_grades=rng.integers(0, 5, 10),
        unprepared_groups=patients[num_photographs:],
    )


def measured(test: ScoredPhotographs, photographs: ScreenedPhotographs) -> dict[tuple[str, str], ScreeningRates]:
    found = measure_screening(test, RULE, photographs, num_resamples=200, seed=0)
    return {(of.unit, of.scope): of for of in found.rates}


@pytest.mark.parametrize("seed", range(8))
def test_rates_equal_those_counted_one_by_one(seed: int) -> None:
    test, photographs = of_drawn(seed)
    found = measured(test, photographs)
    assert photographs.patients is not None
    entries: dict[str, dict[str, list[tuple[int, bool, bool]]]] = {PHOTOGRAPHS: {}, PATIENTS: {}}
    grades = [*test.grades.tolist(), *photographs.unprepared_grades.tolist()]
    for i, (grade, patient) in enumerate(zip(grades, photographs.patients, strict=True)):
        is_prepared = i < len(test)
        reaches = is_prepared and round(float(test.probabilities[i, 2:].sum()), 4) >= 0.4
        gradable = is_prepared and bool(photographs.gradable[i])
        entries[PHOTOGRAPHS][str(i)] = [(grade, reaches, gradable)]
        entries[PATIENTS].setdefault(patient, []).append((grade, reaches, gradable))
    for unit, items in entries.items():
        for scope in (GRADABLE, EVERYONE):
            counts = {True: [0, 0], False: [0, 0]}
            missed, num_ungradable = [0] * 5, 0
            for photos in items.values():
                worst = max(grade for grade, _, _ in photos)
                reaches, gradable = any(each[1] for each in photos), all(each[2] for each in photos)
                if scope == GRADABLE and not gradable:
                    continue
                refers = reaches or not gradable
                num_ungradable += not gradable and not reaches
                counts[worst >= 2][0] += 1
                counts[worst >= 2][1] += refers
                missed[worst] += not refers
            rates = found[unit, scope]
            assert (rates.num_referable, rates.num_others) == (counts[True][0], counts[False][0])
            assert rates.sensitivity.value == pytest.approx(counts[True][1] / counts[True][0])
            assert rates.specificity.value == pytest.approx(1 - counts[False][1] / counts[False][0])
            assert (list(rates.num_missed), rates.num_ungradable) == (missed, num_ungradable)


def test_rejecting_photographs_never_lowers_the_sensitivity_of_everyone() -> None:
    test, photographs = of_drawn(1)
    all_gradable = measured(test, replace(photographs, gradable=np.ones(len(test), bool)))
    none_gradable = measured(test, replace(photographs, gradable=np.zeros(len(test), bool)))
    for unit in (PHOTOGRAPHS, PATIENTS):
        everyone = none_gradable[unit, EVERYONE]
        assert (everyone.sensitivity.value, everyone.specificity.value) == (1.0, 0.0)
        assert sum(everyone.num_missed) == 0 < sum(all_gradable[unit, EVERYONE].num_missed)
        assert none_gradable[unit, GRADABLE].sensitivity.value is None


def test_without_patients_only_photographs_are_counted() -> None:
    test, photographs = of_drawn(2)
    assert {unit for unit, _ in measured(test, replace(photographs, patients=None))} == {PHOTOGRAPHS}


def test_each_fold_has_the_threshold_of_its_own_validation_photographs() -> None:
    folds = np.arange(80) % 2 + 1
    test, validation = (replace(draw_photographs(80, seed), folds=folds) for seed in (3, 4))
    predictions = prediction_set(test, validation)
    rule = rule_of_predictions(predictions, sensitivity=0.8)
    for fold in (1, 2):
        of = validation.subset(validation.folds == fold)
        scores = referral_scores(["d"] * len(of), of.grades, of.probabilities[:, 2:].sum(axis=1), of.groups)
        assert rule.thresholds[fold] == threshold_for(scores, 0.8)
    assert rule.of(test).tolist() == [rule.thresholds[int(fold)] for fold in folds]
    assert "sensitivity of 0.8 on the validation photographs of each fold" in rule.reason
    assert rule_of_predictions(predictions, threshold=0.25).thresholds == {1: 0.25, 2: 0.25}
    unknown = rule_of_predictions(prediction_set(test))
    assert set(unknown.thresholds.values()) == {0.5} and "no validation photographs" in unknown.reason


def test_the_rule_of_a_model_is_its_operating_point() -> None:
    unknown = rule_of_point(UNSTATED_POINT)
    assert (dict(unknown.thresholds), unknown.reason) == ({0: 0.5}, "the model stores no operating point")
    test = draw_photographs(80, 5)
    scores = referral_scores(["d"] * 80, test.grades, test.probabilities[:, 2:].sum(axis=1), test.groups)
    point = choose_operating_point(scores)
    assert point is not None
    rule = rule_of_point(point)
    assert (dict(rule.thresholds), rule.reason) == (
        *({0: point.threshold}, "chosen for a sensitivity of 0.9 on photographs of d"),
    )


def test_photographs_that_could_not_be_prepared_count_where_all_others_are_scored(tmp_path: Path) -> None:
    dataset = prepared_dataset(tmp_path / "toy")
    lost = replace(dataset.rows[0], source="lost.png", image="", split=None, error="truncated", group=99)
    manifest = write_manifest(dataset.directory, (*dataset.rows, lost))
    dataset = replace(dataset, rows=manifest.rows)
    everything = [row.source for row in dataset.graded_rows()]
    whole = screened_photographs(dataset, everything)
    assert whole.unprepared_grades.tolist() == [lost.grade] and whole.unprepared_groups.tolist() == [99]
    assert len(whole.gradable) == len(everything)
    assert len(screened_photographs(dataset, everything[1:]).unprepared_grades) == 0
