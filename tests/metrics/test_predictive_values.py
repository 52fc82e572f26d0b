"""Predictive values at a stated prevalence equal Bayes' rule, and their intervals hold the true value."""

from __future__ import annotations

import numpy as np
import pytest

from fundusgrade.errors import MetricsError
from fundusgrade.metrics.bootstrap import estimate_proportion, resample
from fundusgrade.metrics.estimates import UNDEFINED, Estimate
from fundusgrade.metrics.predictive_values import predictive_values


def known(value: float, reach: float = 0.05) -> Estimate:
    return Estimate(value=value, low=max(value - reach, 0.0), high=min(value + reach, 1.0))


def test_values_by_hand() -> None:
    # Of 1000 people 100 have disease: 90 are found, and 180 of the other 900 are called too.
    found = predictive_values(known(0.9), known(0.8), 0.1)
    assert found.positive.value == pytest.approx(90 / 270)
    assert found.negative.value == pytest.approx(720 / 730)
    assert found.prevalence == 0.1


def test_at_the_prevalence_of_the_data_they_are_the_proportions_counted_there() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(400) < 0.3
    called = rng.random(400) < np.where(positive, 0.85, 0.2)
    resamples = resample(np.arange(400), num_resamples=50)
    found = predictive_values(
        estimate_proportion(resamples, called, positive),
        estimate_proportion(resamples, ~called, ~positive),
        float(positive.mean()),
    )
    assert found.positive.value == pytest.approx(positive[called].mean())
    assert found.negative.value == pytest.approx((~positive)[~called].mean())


@pytest.mark.parametrize(("sensitivity", "specificity", "num_positive"), [(0.9, 0.7, 60), (0.97, 0.98, 40)])
@pytest.mark.parametrize("prevalence", [0.02, 0.1])
def test_intervals_hold_the_true_value_in_95_of_100_studies(
    sensitivity: float, specificity: float, num_positive: int, prevalence: float
) -> None:
    truth = predictive_values(known(sensitivity), known(specificity), prevalence)
    rng, num_held = np.random.default_rng(1), np.zeros(2)
    num_negative = 150
    resamples = resample(np.arange(num_positive + num_negative), num_resamples=100)
    positive = np.arange(num_positive + num_negative) < num_positive
    for _ in range(150):
        called = rng.random(len(positive)) < np.where(positive, sensitivity, 1 - specificity)
        found = predictive_values(
            estimate_proportion(resamples, called, positive),
            estimate_proportion(resamples, ~called, ~positive),
            prevalence,
        )
        for i, (of, true) in enumerate(((found.positive, truth.positive), (found.negative, truth.negative))):
            assert of.low is not None and of.value is not None and of.high is not None and true.value is not None
            assert 0 <= of.low <= of.value <= of.high <= 1
            num_held[i] += of.low <= true.value <= of.high
    assert (num_held >= 0.89 * 150).all(), "Seeded: 92 to 98 % here"


def test_a_rate_without_errors_has_a_bound_instead_of_certainty() -> None:
    perfect = Estimate(value=1.0, low=0.9, high=1.0)
    found = predictive_values(perfect, perfect, 0.1)
    assert (found.positive.value, found.positive.high) == (1.0, 1.0) == (found.negative.value, found.negative.high)
    assert found.positive.low is not None and 0.4 < found.positive.low < 0.9
    assert found.negative.low is not None and found.negative.low > 0.97


def test_what_is_not_known_is_undefined() -> None:
    found = predictive_values(UNDEFINED, known(0.8), 0.1)
    assert (found.positive.value, found.negative.value) == (None, None)
    nobody_called = predictive_values(Estimate(value=0.0, low=0.0, high=0.1), known(1.0), 0.1)
    assert nobody_called.positive.value is None and nobody_called.negative.value == pytest.approx(0.9)
    no_interval = Estimate(value=0.9, low=None, high=None, no_interval="few")
    assert predictive_values(no_interval, known(0.8), 0.1).positive.no_interval == "few"


@pytest.mark.parametrize("prevalence", [0.0, 1.0, -0.1, 10.0])
def test_a_prevalence_is_a_proportion(prevalence: float) -> None:
    with pytest.raises(MetricsError, match="expected a proportion between 0 and 1"):
        predictive_values(known(0.9), known(0.8), prevalence)
