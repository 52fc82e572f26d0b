"""Thresholds are found where grades change, and the same data give the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score

from fundusgrade.metrics import thresholds as thresholds_module
from fundusgrade.metrics.classification import decide_grades
from fundusgrade.metrics.confusion import accuracies, grade_f1s, kappas
from fundusgrade.metrics.thresholds import fit_thresholds
from fundusgrade.networks.heads import MIDPOINTS
from fundusgrade.options import DecideFor

Floats = NDArray[np.float64]
Grades = NDArray[np.int64]


def draw_expected(thresholds: tuple[float, ...], noise: float, seed: int = 0) -> tuple[Grades, Floats]:
    """Expected grades, and grades that change at these thresholds, give or take some noise."""
    rng = np.random.default_rng(seed)
    expected = rng.uniform(0, 4, 2000)
    return np.searchsorted(thresholds, expected + rng.normal(0, noise, 2000)).astype(np.int64), expected


@pytest.mark.parametrize(
    ("noise", "tolerance"), [(0.0, 0.03), (0.15, 0.12)], ids=["without noise", "with noise at the thresholds"]
)
@pytest.mark.parametrize("made_with", [(0.5, 1.5, 2.5, 3.5), (0.3, 0.8, 2.4, 3.1), (1.0, 2.0, 3.0, 3.6)])
def test_thresholds_are_found_where_grades_change(made_with: tuple[float, ...], noise: float, tolerance: float) -> None:
    thresholds = fit_thresholds(*draw_expected(made_with, noise))
    assert thresholds == pytest.approx(made_with, abs=tolerance)
    assert (np.diff(thresholds) > 0).all()


def objective(grades: Grades, expected: Floats, thresholds: tuple[float, ...], decide_for: DecideFor) -> float:
    """What thresholds are chosen by, as scikit-learn computes it."""
    predicted = np.searchsorted(thresholds, expected, side="right")
    scores = {
        DecideFor.KAPPA: cohen_kappa_score(grades, predicted, weights="quadratic", labels=range(5)),
        DecideFor.ACCURACY: accuracy_score(grades, predicted),
        DecideFor.MACRO_F1: f1_score(grades, predicted, average="macro", labels=range(5), zero_division=0.0),
    }
    balanced = scores[DecideFor.KAPPA] + (scores[DecideFor.ACCURACY] + scores[DecideFor.MACRO_F1]) / 2
    return float(balanced if decide_for is DecideFor.BALANCED else scores[decide_for])


def merit(grades: Grades, expected: Floats, thresholds: tuple[float, ...]) -> float:
    return objective(grades, expected, thresholds, DecideFor.BALANCED)


def test_thresholds_beat_those_in_the_middle_on_other_photographs_too() -> None:
    made_with = (0.3, 0.8, 2.4, 3.1)
    thresholds = fit_thresholds(*draw_expected(made_with, 0.2))
    for seed in (0, 1, 2):
        grades, expected = draw_expected(made_with, 0.2, seed)
        assert merit(grades, expected, thresholds) > merit(grades, expected, MIDPOINTS) + 0.1


def test_the_merit_that_is_searched_is_scikit_learn_s() -> None:
    grades, expected = draw_expected((0.3, 0.8, 2.4, 3.1), 0.3)
    steps, num_bins = thresholds_module._STEPS, thresholds_module._NUM_BINS
    bins = (expected * steps).round().astype(int)
    counts = np.zeros((5, num_bins))
    np.add.at(counts, (grades, bins), 1)
    below = np.concatenate([np.zeros((5, 1)), counts.cumsum(axis=1)], axis=1)
    edges, candidates = np.array([20, 60, 110, 170]), np.array([30, 60, 90])
    merits = thresholds_module._merits(below, edges, 1, candidates)
    for candidate, found in zip(candidates, merits, strict=True):
        tried = (20, int(candidate), 110, 170)
        assert found == pytest.approx(merit(grades, bins.astype(np.float64), tried), abs=1e-12)


@pytest.mark.parametrize("decide_for", [DecideFor.KAPPA, DecideFor.ACCURACY, DecideFor.MACRO_F1])
def test_no_thresholds_are_better_for_an_objective_than_those_that_are_found(decide_for: DecideFor) -> None:
    """Brute force: all ways to divide 14 photographs, in order of their expected grade, among five grades."""
    steps, num_bins = thresholds_module._STEPS, thresholds_module._NUM_BINS
    for seed in range(8):
        rng = np.random.default_rng(seed)
        bins = np.sort(rng.choice(np.arange(6, 195, 6), 14, replace=False))
        grades = np.clip(np.round(bins / steps + rng.normal(0, 0.9, 14)), 0, 4).astype(np.int64)
        counts = np.zeros((5, num_bins))
        np.add.at(counts, (grades, bins), 1)
        found = thresholds_module._best_edges(counts, decide_for)
        assert (np.diff([0, *found, num_bins]) > 0).all()
        cuts = np.array(list(itertools.combinations_with_replacement(range(15), 4)))
        predicted = (np.arange(14)[None, :, None] >= cuts[:, None, :]).sum(axis=2)  # (ways, 14)
        by_found = np.searchsorted(found, bins, side="right")
        of_all = scores_of_ways(grades, np.concatenate([predicted, by_found[None]]), decide_for)
        best, value = of_all[:-1].max(), of_all[-1]
        assert value == pytest.approx(best, abs=1e-9) and (of_all[:-1] < best - 0.01).any()
        assert value == pytest.approx(objective(grades, bins.astype(np.float64), tuple(found - 0.5), decide_for))


def scores_of_ways(grades: Grades, predicted: Grades, decide_for: DecideFor) -> Floats:
    """The objective (W,) of W predictions (W, N)."""
    cells = grades * 5 + predicted
    matrices = (cells[:, :, None] == np.arange(25)).sum(axis=1).reshape(-1, 5, 5).astype(np.float64)
    if decide_for is DecideFor.KAPPA:
        return kappas(matrices)
    return accuracies(matrices) if decide_for is DecideFor.ACCURACY else np.nan_to_num(grade_f1s(matrices)).mean(axis=1)


@pytest.mark.parametrize("seed", range(2))
def test_thresholds_of_each_objective_are_best_at_it_on_the_photographs_that_they_were_fitted_to(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grades = rng.choice(5, 1500, p=[0.5, 0.1, 0.27, 0.05, 0.08]).astype(np.int64)
    expected = np.clip(0.8 * grades + 0.3 + rng.normal(0, 0.55, 1500), 0, 4)
    bins = np.round(expected * thresholds_module._STEPS)
    counts = np.zeros((5, thresholds_module._NUM_BINS))
    np.add.at(counts, (grades, bins.astype(int)), 1)
    best = {each: tuple(thresholds_module._best_edges(counts, each) - 0.5) for each in DecideFor}
    fitted = {each: fit_thresholds(grades, expected, each) for each in DecideFor}
    for each in DecideFor:
        values = {other: objective(grades, bins, best[other], each) for other in DecideFor}
        assert all(values[each] >= value for other, value in values.items() if other is not each), values
        averaged = {other: objective(grades, expected, fitted[other], each) for other in DecideFor}
        assert averaged[each] > max(averaged.values()) - 0.005, "the mean over resamples"
    rare = {
        each: f1_score(grades, np.searchsorted(fitted[each], expected, side="right"), average=None)[3]
        for each in (DecideFor.ACCURACY, DecideFor.MACRO_F1)
    }
    assert rare[DecideFor.MACRO_F1] > rare[DecideFor.ACCURACY] + 0.05, "severe, of which there are few"


@pytest.mark.parametrize("decide_for", DecideFor)
@pytest.mark.parametrize("present", [(0,), (0, 4), (1, 3), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("num_photographs", [1, 8, 200])
def test_thresholds_rise_whatever_grades_there_are(
    num_photographs: int, present: tuple[int, ...], decide_for: DecideFor
) -> None:
    rng = np.random.default_rng(1)
    grades = rng.choice(present, num_photographs).astype(np.int64)
    for expected in (rng.uniform(0, 4, num_photographs), np.full(num_photographs, 4.0), np.zeros(num_photographs)):
        thresholds = fit_thresholds(grades, expected, decide_for, num_resamples=10)
        assert len(thresholds) == 4 and (np.diff(thresholds) > 0).all()
        assert thresholds[0] >= -0.02 and thresholds[3] <= 4.02


def test_thresholds_decide_as_they_were_fitted() -> None:
    """A photograph in the first bin of a grade gets that grade."""
    made_with = (0.49, 1.49, 2.49, 3.49)
    grades, expected = draw_expected(made_with, 0.0)
    thresholds = fit_thresholds(grades, expected)
    share = expected / 4
    ends_only = np.stack([1 - share, 0 * share, 0 * share, 0 * share, share], axis=1)
    assert (decide_grades(ends_only, thresholds) == grades).mean() > 0.985


def test_the_same_data_and_seed_give_the_same_thresholds_and_another_seed_others() -> None:
    grades, expected = draw_expected((0.3, 0.8, 2.4, 3.1), 0.4)
    first, again, other = (fit_thresholds(grades, expected, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert first == pytest.approx(other, abs=0.1)
