"""Drift is SciPy's two-sample Kolmogorov-Smirnov test; batches without drift are rarely reported, shifted ones are."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import ks_2samp

from fundusgrade.metrics.drift import MIN_PHOTOGRAPHS, SIGNIFICANCE, measure_drift, reference_scores


def patients(rng: np.random.Generator, count: int, *, shift: float = 0.0) -> NDArray[np.float64]:
    """Scores (2 * count,) of two photographs of each patient, which are alike."""
    severity = rng.normal(-1.5 + shift, 1.5, count)
    return expit(np.repeat(severity, 2) + rng.normal(0, 0.5, 2 * count))


def test_distance_and_p_value_are_those_of_scipy_where_every_photograph_is_of_another_patient() -> None:
    rng = np.random.default_rng(0)
    known, batch = rng.random(150).round(4), (rng.random(120) ** 1.4).round(4)
    found = measure_drift(batch.tolist(), reference_scores(known, np.arange(150)))
    expected = ks_2samp(known, batch, method="asymp")
    assert found is not None
    assert found.distance == pytest.approx(expected.statistic, abs=1e-12)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-6)


def test_two_hundred_quantiles_stand_for_any_number_of_photographs() -> None:
    rng = np.random.default_rng(1)
    known, batch = rng.random(1731), rng.random(400) ** 1.3
    reference = reference_scores(known, np.arange(1731))
    assert len(reference.quantiles) == 200
    found = measure_drift(batch.tolist(), reference)
    assert found is not None
    assert found.distance == pytest.approx(ks_2samp(known, batch).statistic, abs=0.004)
    assert found.reference_median == pytest.approx(np.median(known), abs=0.004)


def share_reported(seed: int, *, shift: float) -> float:
    rng, reported = np.random.default_rng(seed), []
    for _ in range(400):
        reference = reference_scores(patients(rng, 150), np.arange(300) // 2)
        drift = measure_drift(patients(rng, 100, shift=shift).tolist(), reference)
        assert drift is not None
        reported.append(drift.is_significant)
    return float(np.mean(reported))


def test_batches_like_the_calibration_are_reported_no_more_often_than_stated() -> None:
    assert share_reported(2, shift=0.0) <= SIGNIFICANCE + 3 * np.sqrt(SIGNIFICANCE / 400)


def test_batches_of_another_distribution_are_reported() -> None:
    assert share_reported(3, shift=1.5) > 0.9


def test_counting_photographs_of_a_patient_as_independent_would_report_too_often() -> None:
    rng = np.random.default_rng(4)
    p_values = [ks_2samp(patients(rng, 150), patients(rng, 100)).pvalue for _ in range(400)]
    assert np.mean(np.array(p_values) < SIGNIFICANCE) > 3 * SIGNIFICANCE


@pytest.mark.parametrize(("noise", "correlation"), [(0.0, 1.0), (1.5, 0.5), (50.0, 0.0)])
def test_the_design_effect_is_that_of_the_correlation_within_patients(noise: float, correlation: float) -> None:
    rng = np.random.default_rng(6)
    severity = np.repeat(rng.normal(0, 1.5, 4000), 2)
    scores = expit(severity + rng.normal(0, noise, 8000) if noise else severity)
    found = reference_scores(scores, np.arange(8000) // 2).design_effect
    # The correlation of ranks of normal variables is a little below that of the variables.
    assert found == pytest.approx(1 + 6 / np.pi * np.arcsin(correlation / 2), abs=0.05)
    assert reference_scores(scores[::2], np.arange(4000)).design_effect == 1


def test_a_batch_that_is_too_small_is_not_tested() -> None:
    reference = reference_scores(np.random.default_rng(5).random(100), np.arange(100))
    assert measure_drift([0.5] * (MIN_PHOTOGRAPHS - 1), reference) is None
    assert measure_drift([0.5] * MIN_PHOTOGRAPHS, reference) is not None
