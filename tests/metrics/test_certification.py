"""The certified sensitivity is reached as often as it is promised, on as few patients as the binomial law allows."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, binomtest

from fundusgrade.errors import MetricsError
from fundusgrade.metrics.certification import (
    Certificate,
    NotCertifiable,
    certify,
    misses_p_value,
    num_misses_allowed,
    num_referable_needed,
    sensitivity_bound,
)
from fundusgrade.metrics.operating_points import choose_threshold


@pytest.mark.parametrize(
    ("sensitivity", "needed", "allowed"),
    [(0.80, 11, (1, 2, 5, 14)), (0.85, 15, (0, 1, 3, 10)), (0.90, 22, (None, 0, 1, 5)), (0.95, 45, (None, None, 0, 1))],
)
def test_the_fewest_referable_patients_and_the_misses_allowed_are_those_of_the_binomial_law(
    sensitivity: float, needed: int, allowed: tuple[int | None, ...]
) -> None:
    assert num_referable_needed(sensitivity, 0.9) == needed
    assert sensitivity ** (needed - 1) > 0.1 >= sensitivity**needed
    assert tuple(num_misses_allowed(count, sensitivity, 0.9) for count in (20, 30, 50, 100)) == allowed


@pytest.mark.parametrize(("num_missed", "num_referable"), [(0, 22), (1, 22), (3, 41), (17, 100), (20, 20)])
@pytest.mark.parametrize("sensitivity", [0.8, 0.9, 0.95])
def test_p_values_and_bounds_are_those_of_scipys_exact_test(
    num_missed: int, num_referable: int, sensitivity: float
) -> None:
    test = binomtest(num_referable - num_missed, num_referable, sensitivity, alternative="greater")
    assert misses_p_value(num_missed, num_referable, sensitivity) == pytest.approx(test.pvalue, rel=1e-9)
    bound = test.proportion_ci(confidence_level=0.9, method="exact").low
    assert sensitivity_bound(num_missed, num_referable, 0.9) == pytest.approx(bound, abs=1e-9)


def mapie_p_values(misses: NDArray[np.int64], num_referable: int, risk: float) -> NDArray[np.float64]:
    """MAPIE's Hoeffding-Bentkus p-value of a binary risk: the smaller of Hoeffding's bound and the binomial tail."""
    rate = misses / num_referable
    below = np.minimum(rate, risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        first = np.where(below > 0, below * np.log(below / risk), 0.0)
    divergence = first + (1 - below) * np.log((1 - below) / (1 - risk))
    return np.minimum(np.exp(-num_referable * divergence), binom.cdf(misses, num_referable, risk))


@pytest.mark.parametrize("seed", range(12))
def test_the_threshold_is_that_of_a_fixed_sequence_that_tests_every_threshold_upwards(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_patients = int(rng.integers(60, 300))
    is_referable = rng.random(num_patients) < 0.4
    # Two decimals: many patients share a score.
    scores = (rng.beta(1 + 2 * is_referable, 2).round(2) * 0.98 + 0.01).round(4)
    sensitivity, confidence = float(rng.choice([0.75, 0.85, 0.9])), float(rng.choice([0.8, 0.9, 0.95]))
    grid = np.linspace(0, 1, 20_001)
    misses = (scores[is_referable] < grid[:, None]).sum(axis=1)
    p_values = mapie_p_values(misses, int(is_referable.sum()), 1 - sensitivity)
    passed = int(np.argmax(np.append(p_values, 1.0) > 1 - confidence))  # the number before the first that fails
    found = certify(scores, is_referable, sensitivity=sensitivity, confidence=confidence)
    if isinstance(found, NotCertifiable):
        assert passed == 0
        return
    by_sequence, by_certificate = scores >= grid[passed - 1], scores >= found.threshold
    assert (by_sequence == by_certificate).all()
    assert found.num_missed == (is_referable & ~by_sequence).sum()
    assert found.num_others_referred == (~is_referable & by_sequence).sum()
    assert found.lower_bound >= sensitivity


def uniform_scores(rng: np.random.Generator, num_referable: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores of referable patients, uniform on 0 to 1, so that the sensitivity at a threshold is 1 less it; others."""
    others = rng.random(40) ** 2
    return np.concatenate([rng.random(num_referable), others]), np.arange(num_referable + 40) < num_referable


def share_broken(thresholds: list[float], sensitivity: float) -> float:
    return float(np.mean([1 - threshold < sensitivity for threshold in thresholds]))


@pytest.mark.parametrize(("num_referable", "sensitivity"), [(22, 0.9), (60, 0.9), (50, 0.8), (45, 0.95)])
def test_a_certificate_is_broken_no_more_often_than_it_allows(num_referable: int, sensitivity: float) -> None:
    rng = np.random.default_rng(num_referable)
    thresholds = []
    for _ in range(3000):
        found = certify(*uniform_scores(rng, num_referable), sensitivity=sensitivity, confidence=0.9)
        assert isinstance(found, Certificate)
        thresholds.append(found.threshold)
    allowed = num_misses_allowed(num_referable, sensitivity, 0.9)
    assert allowed is not None
    expected = binom.cdf(allowed, num_referable, 1 - sensitivity)
    broken = share_broken(thresholds, sensitivity)
    # A threshold lies a little below the limit, halfway to the next score, so that it is broken a little less often.
    assert broken <= expected + 4 * np.sqrt(expected * (1 - expected) / 3000)
    assert broken > 0.3 * expected, "the simulation could not tell a broken certificate from one that holds"


def test_a_threshold_that_reaches_the_sensitivity_on_its_own_patients_is_broken_far_more_often() -> None:
    rng = np.random.default_rng(1)
    chosen = [choose_threshold(*uniform_scores(rng, 60)[::-1], "sensitivity", 0.9) for _ in range(1000)]
    assert share_broken([threshold or 0.0 for threshold in chosen], 0.9) > 0.3


def test_one_more_miss_than_allowed_would_break_the_certificate_too_often() -> None:
    rng = np.random.default_rng(2)
    allowed = num_misses_allowed(60, 0.9, 0.9)
    assert allowed is not None
    limits = [float(np.sort(rng.random(60))[allowed + 1]) for _ in range(3000)]
    assert share_broken(limits, 0.9) > 0.12


def test_photographs_counted_as_patients_break_the_certificate_too_often() -> None:
    rng, thresholds = np.random.default_rng(3), []
    for _ in range(1500):
        scores, is_referable = uniform_scores(rng, 30)
        eyes = certify(np.repeat(scores, 2), np.repeat(is_referable, 2), sensitivity=0.9, confidence=0.9)
        assert isinstance(eyes, Certificate)
        thresholds.append(eyes.threshold)
    assert share_broken(thresholds, 0.9) > 0.12


def test_too_few_referable_patients_are_refused_with_the_number_missing_and_the_best_that_is() -> None:
    scores, is_referable = np.linspace(0, 1, 40), np.arange(40) >= 27
    found = certify(scores, is_referable, sensitivity=0.9, confidence=0.9)
    assert isinstance(found, NotCertifiable)
    assert (found.num_referable, found.num_needed) == (13, 22)
    assert "needs 9 more referable patients (13 of 22); the best that 13 can certify is 0.83" in found.describe()
    assert isinstance(certify(scores, is_referable, sensitivity=0.83, confidence=0.9), Certificate)
    assert isinstance(certify(scores, is_referable, sensitivity=0.84, confidence=0.9), NotCertifiable)


def test_without_any_referable_patient_nothing_is_certified() -> None:
    found = certify(np.linspace(0, 1, 5), np.zeros(5, bool), sensitivity=0.5, confidence=0.9)
    assert isinstance(found, NotCertifiable)
    assert found.best_sensitivity == 0
    assert found.describe().endswith("(0 of 4)")


def test_the_certificate_does_not_depend_on_how_many_patients_are_not_referable() -> None:
    rng = np.random.default_rng(4)
    scores, is_referable = uniform_scores(rng, 30)
    few = certify(scores[:32], is_referable[:32], sensitivity=0.9, confidence=0.9)
    many = certify(scores, is_referable, sensitivity=0.9, confidence=0.9)
    assert isinstance(few, Certificate) and isinstance(many, Certificate)
    limit = scores[:30].min()
    assert few.threshold <= limit and many.threshold <= limit
    assert few.num_missed == many.num_missed == 0


@pytest.mark.parametrize("value", [0.0, 1.0, 90.0, -0.1])
def test_a_sensitivity_or_confidence_that_is_none_is_refused(value: float) -> None:
    scores, is_referable = np.linspace(0, 1, 40), np.arange(40) >= 10
    for options in ({"sensitivity": value, "confidence": 0.9}, {"sensitivity": 0.9, "confidence": value}):
        with pytest.raises(MetricsError, match="must lie between 0 and 1"):
            certify(scores, is_referable, **options)
