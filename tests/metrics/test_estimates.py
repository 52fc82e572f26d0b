"""Estimates are written one way, and what is undefined stays undefined."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fundusgrade.metrics.estimates import (
    UNDEFINED,
    Estimate,
    defined_or_none,
    describe_number,
    mean_of_defined,
)


def test_an_estimate_is_written_with_its_interval() -> None:
    found = Estimate(value=0.8661, low=0.838, high=0.8904)
    assert found.describe() == "0.866 (0.838 to 0.890)"
    assert found.describe(digits=2) == "0.87 (0.84 to 0.89)"
    assert found.describe_interval() == "0.838 to 0.890"


def test_what_is_undefined_is_said_to_be() -> None:
    assert UNDEFINED.describe() == "undefined"
    assert Estimate(value=0.5, low=None, high=None).describe() == "0.500 (no interval)"
    withheld = Estimate(value=0.5, low=0.4, high=0.6).without_interval("few photographs")
    assert withheld.describe() == "0.500 (no interval: few photographs)"
    assert withheld.without_interval("another reason") == withheld
    assert UNDEFINED.without_interval("few photographs") == UNDEFINED
    assert [describe_number(value) for value in (None, math.nan, 0.0)] == ["undefined", "undefined", "0.000"]


def test_nan_becomes_none_and_numbers_become_plain() -> None:
    assert defined_or_none(np.float64("nan")) is None
    assert type(defined_or_none(np.float64(0.5))) is float


def test_means_leave_out_undefined_scores() -> None:
    found = mean_of_defined(np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan]]))
    assert found[0] == pytest.approx(2.0) and np.isnan(found[1])
