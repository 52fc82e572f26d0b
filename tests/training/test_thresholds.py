"""Thresholds are found where grades change, and the same data give the same."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score

from fundusgrade.metrics.classification import decide_grades
from fundusgrade.networks.heads import MIDPOINTS
from fundusgrade.training import thresholds as thresholds_module
from fundusgrade.training.thresholds import fit_thresholds

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


def merit(grades: Grades, expected: Floats, thresholds: tuple[float, ...]) -> float:
    """What thresholds are chosen by, as scikit-learn computes it."""
    predicted = np.searchsorted(thresholds, expected, side="right")
    kappa = cohen_kappa_score(grades, predicted, weights="quadratic", labels=range(5))
    f1 = f1_score(grades, predicted, average="macro", labels=range(5), zero_division=0.0)
    return float(kappa + (accuracy_score(grades, predicted) + f1) / 2)


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


@pytest.mark.parametrize("present", [(0,), (0, 4), (1, 3), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("num_photographs", [1, 8, 200])
def test_thresholds_rise_whatever_grades_there_are(num_photographs: int, present: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    grades = rng.choice(present, num_photographs).astype(np.int64)
    for expected in (rng.uniform(0, 4, num_photographs), np.full(num_photographs, 4.0), np.zeros(num_photographs)):
        thresholds = fit_thresholds(grades, expected)
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
