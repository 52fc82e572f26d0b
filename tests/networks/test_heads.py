"""The probabilities that follow from the outputs of each head are those of the textbook formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import logistic

from fundusgrade.networks.head_logits import grade_logits
from fundusgrade.networks.heads import (
    MARGIN,
    MIDPOINTS,
    NO_INTERCEPTS,
    NO_OFFSETS,
    NO_SLOPES,
    NUM_CUTS,
    NUM_OUTPUTS,
    UNCALIBRATED,
    Calibration,
    grade_probabilities,
)
from fundusgrade.options import Head

NUM_PHOTOGRAPHS = 200
# The least probability that any grade is given.
FLOOR = 1e-6
# Before calibration a severity is a logistic variable of this scale.
SEVERITY_SCALE = 0.25
CALIBRATED = Calibration(
    temperature=1.7,
    offsets=(0.5, -1.0, 0.25, -2.0, 0.0),
    cutpoints=(0.4, 1.1, 2.9, 3.2),
    slopes=(0.5, 1.0, 2.0, 0.25),
    intercepts=(0.5, -0.5, 0.0, -1.0),
)


def outputs_of(head: Head, *, spread: float = 2.0) -> NDArray[np.float64]:
    """Outputs (N, n) from uncertain to certain; cumulative probabilities from them do not always decrease."""
    return np.random.default_rng(0).normal(1.5, spread, (NUM_PHOTOGRAPHS, NUM_OUTPUTS[head]))


def probabilities_of(
    head: Head, outputs: NDArray[np.float64], calibration: Calibration = UNCALIBRATED
) -> NDArray[np.float64]:
    """Those of NumPy, by which photographs are graded, equal to those that have gradients."""
    probabilities = grade_probabilities(head, outputs, calibration)
    assert probabilities == pytest.approx(with_gradients(head, outputs, calibration), abs=1e-12)
    return probabilities


def with_gradients(head: Head, outputs: NDArray[np.float64], calibration: Calibration) -> NDArray[np.float64]:
    logits = grade_logits(head, torch.from_numpy(outputs), calibration)
    assert logits.shape == (len(outputs), 5)
    return np.asarray(torch.softmax(logits, dim=1).numpy(), np.float64)


def from_cumulative(cumulative: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(grade = k) = P(grade > k - 1) - P(grade > k)."""
    return -np.diff(cumulative, axis=1, prepend=1.0, append=0.0)


@pytest.mark.parametrize("calibration", [UNCALIBRATED, CALIBRATED], ids=["uncalibrated", "calibrated"])
@pytest.mark.parametrize("head", list(Head))
def test_probabilities_of_every_head_sum_to_one(head: Head, calibration: Calibration) -> None:
    for spread in (0.1, 2.0, 50.0):
        probabilities = probabilities_of(head, outputs_of(head, spread=spread), calibration)
        assert np.isfinite(probabilities).all() and (probabilities >= 0).all()
        assert probabilities.sum(axis=1) == pytest.approx(1.0, abs=1e-12)


def test_softmax_adds_offsets_and_then_divides_by_the_temperature() -> None:
    outputs = outputs_of(Head.SOFTMAX)
    expected = softmax((outputs + np.array(CALIBRATED.offsets)) / CALIBRATED.temperature, axis=1)
    assert probabilities_of(Head.SOFTMAX, outputs, CALIBRATED) == pytest.approx(expected, abs=1e-12)
    assert probabilities_of(Head.SOFTMAX, outputs) == pytest.approx(softmax(outputs, axis=1), abs=1e-12)


@pytest.mark.parametrize("calibration", [UNCALIBRATED, CALIBRATED], ids=["uncalibrated", "calibrated"])
def test_regression_is_an_ordered_logit_model(calibration: Calibration) -> None:
    """P(grade <= k) is the logistic distribution function at the k-th cutpoint, around the severity."""
    outputs = outputs_of(Head.REGRESSION)
    scale = SEVERITY_SCALE * calibration.temperature
    at_most = logistic.cdf(np.array(calibration.cutpoints), loc=outputs, scale=scale)
    expected = np.diff(at_most, axis=1, prepend=0.0, append=1.0)
    assert probabilities_of(Head.REGRESSION, outputs, calibration) == pytest.approx(expected, abs=FLOOR)


def test_at_a_cutpoint_grades_below_and_above_are_equally_likely() -> None:
    for cut, cutpoint in enumerate(CALIBRATED.cutpoints):
        (probabilities,) = probabilities_of(Head.REGRESSION, np.array([[cutpoint]]), CALIBRATED)
        assert probabilities[: cut + 1].sum() == pytest.approx(0.5, abs=FLOOR)


@pytest.mark.parametrize("calibration", [UNCALIBRATED, CALIBRATED], ids=["uncalibrated", "calibrated"])
def test_cumulative_logits_are_scaled_shifted_and_kept_apart(calibration: Calibration) -> None:
    """P(grade > 1) cannot exceed P(grade > 0): a logit is lowered to at least the margin below the one before it."""
    outputs = outputs_of(Head.CUMULATIVE)
    logits = outputs * calibration.slopes + calibration.intercepts
    assert (np.diff(logits, axis=1) > 0).any(), "some increase"
    assert (np.diff(logits, axis=1) < -MARGIN).all(axis=1).any(), "some are in order"
    for cut in range(1, NUM_CUTS):
        logits[:, cut] = np.minimum(logits[:, cut], logits[:, cut - 1] - MARGIN)
    expected = from_cumulative(1 / (1 + np.exp(-logits)))
    found = probabilities_of(Head.CUMULATIVE, outputs, calibration)
    assert found == pytest.approx(expected, abs=FLOOR)
    assert (found > 0).all()


def test_cumulative_probabilities_by_hand() -> None:
    outputs = np.log(np.array([[0.9, 0.6, 0.3, 0.1]]) / (1 - np.array([[0.9, 0.6, 0.3, 0.1]])))
    (probabilities,) = probabilities_of(Head.CUMULATIVE, outputs)
    assert probabilities == pytest.approx([0.1, 0.3, 0.3, 0.2, 0.1], abs=1e-9)


@pytest.mark.parametrize("head", list(Head))
def test_a_higher_temperature_or_lower_slopes_make_every_head_less_certain(head: Head) -> None:
    outputs = outputs_of(head)
    confidence = [
        probabilities_of(head, outputs, Calibration(temperature=temperature, slopes=(1 / temperature,) * NUM_CUTS))
        .max(axis=1)
        .mean()
        for temperature in (0.5, 1.0, 2.0)
    ]
    assert confidence[0] > confidence[1] + 0.02 > confidence[2] + 0.04


@pytest.mark.parametrize("head", list(Head))
def test_extreme_outputs_give_finite_logits_and_gradients(head: Head) -> None:
    outputs = torch.full((1, NUM_OUTPUTS[head]), 1e4, requires_grad=True)
    logits = grade_logits(head, outputs)
    assert torch.isfinite(logits).all()
    logits.sum().backward()  # type: ignore[no-untyped-call]
    assert outputs.grad is not None and torch.isfinite(outputs.grad).all()


def test_the_default_calibration_changes_nothing() -> None:
    nothing = Calibration(
        temperature=1.0, offsets=NO_OFFSETS, cutpoints=MIDPOINTS, slopes=NO_SLOPES, intercepts=NO_INTERCEPTS
    )
    assert nothing == UNCALIBRATED
    assert (NO_OFFSETS, MIDPOINTS) == ((0.0,) * 5, (0.5, 1.5, 2.5, 3.5))
    assert (NO_SLOPES, NO_INTERCEPTS) == ((1.0,) * 4, (0.0,) * 4)
    assert {head: NUM_OUTPUTS[head] for head in Head} == {
        Head.SOFTMAX: 5,
        Head.REGRESSION: 1,
        Head.CUMULATIVE: NUM_CUTS,
    }
