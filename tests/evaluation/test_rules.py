"""Decision rules are compared on photographs whose labels did not choose their thresholds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score

from fundusgrade.evaluation import rules
from fundusgrade.evaluation.rules import MOST_PROBABLE, compare_rules, thresholds_of_fold
from fundusgrade.metrics.bootstrap import resample
from fundusgrade.metrics.classification import expected_grades
from fundusgrade.metrics.predictions import ScoredPhotographs
from fundusgrade.metrics.score_keys import F1_KEYS, ScoreKey
from fundusgrade.metrics.thresholds import fit_thresholds
from fundusgrade.options import DecideFor
from tests.scored import draw_photographs


def in_folds(num_photographs: int = 400, num_folds: int = 4) -> ScoredPhotographs:
    """Photographs of folds; every tenth of the first fold has a copy in the second, as in folds by source."""
    photographs = draw_photographs(num_photographs, 11)
    folds = np.arange(num_photographs) % num_folds + 1
    groups = photographs.groups.copy()
    groups[1 : num_photographs : 10 * num_folds] = groups[0 : num_photographs : 10 * num_folds]
    return replace(photographs, folds=folds, groups=groups)


def test_thresholds_of_a_fold_are_fitted_without_its_photographs_and_their_copies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photographs, seen = in_folds(), []

    def spy(grades: NDArray[np.int64], expected: NDArray[np.float64], decide_for: DecideFor) -> tuple[float, ...]:
        seen.append((grades, expected))
        return (0.5, 1.5, 2.5, 3.5)

    monkeypatch.setattr(rules, "fit_thresholds", spy)
    for fold in (1, 2, 3):
        thresholds_of_fold(photographs, fold, DecideFor.KAPPA)
        grades, expected = seen.pop()
        used = photographs.folds != fold
        if fold < 3:
            used[10 * 4 * np.arange(10) + 2 - fold] = False
            assert used.sum() == 290
        assert np.array_equal(grades, photographs.grades[used])
        assert np.array_equal(expected, expected_grades(photographs.probabilities[used]))


def test_scores_of_rules_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    photographs, fitted = in_folds(num_folds=2), []

    def record(grades: NDArray[np.int64], expected: NDArray[np.float64], decide_for: DecideFor) -> tuple[float, ...]:
        fitted.append((decide_for, fit_thresholds(grades, expected, decide_for, num_resamples=5)))
        return fitted[-1][1]

    monkeypatch.setattr(rules, "fit_thresholds", record)
    found = compare_rules(photographs, resample(photographs.groups, num_resamples=100))
    assert [rule.rule for rule in found] == [MOST_PROBABLE, *DecideFor]
    grades, expected = photographs.grades, expected_grades(photographs.probabilities)
    options = {"labels": range(5), "zero_division": 0.0}
    for rule in found:
        of_folds = [thresholds for decide_for, thresholds in fitted if decide_for == rule.rule]
        predicted = photographs.probabilities.argmax(axis=1)
        if of_folds:
            predicted = (expected[:, None] >= np.array(of_folds)[photographs.folds - 1]).sum(axis=1)
            assert rule.thresholds == pytest.approx(np.mean(of_folds, axis=0))
        macro, of_each = (f1_score(grades, predicted, average=average, **options) for average in ("macro", None))
        kappa = cohen_kappa_score(grades, predicted, weights="quadratic", labels=range(5))
        for key, value in (
            (ScoreKey.KAPPA, kappa),
            (ScoreKey.ACCURACY, accuracy_score(grades, predicted)),
            (ScoreKey.MACRO_F1, macro),
            *zip(F1_KEYS, of_each, strict=True),
        ):
            assert rule.score(key).value == pytest.approx(value)
            assert rule.score(key).low is not None


def test_what_was_not_cross_validated_has_no_rules_to_compare() -> None:
    photographs = draw_photographs(60, 0)
    resamples = resample(photographs.groups, num_resamples=20)
    assert compare_rules(photographs, resamples) == ()
    assert compare_rules(replace(photographs, folds=np.full(60, 3)), resamples) == ()
    assert compare_rules(replace(photographs, folds=np.arange(60) % 2), resamples) == (), "some are of no fold"
