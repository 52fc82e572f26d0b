"""The learning rate warms up and falls as a cosine."""

from __future__ import annotations

import itertools

import pytest

from fundusgrade.training.optimizer import learning_rate_factor


def test_the_learning_rate_warms_up_and_falls_as_a_cosine() -> None:
    factors = [learning_rate_factor(step, 100, 10) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == pytest.approx(1)
    assert factors[55] == pytest.approx((1 + 0.01) / 2)
    assert learning_rate_factor(100, 100, 10) == pytest.approx(0.01)
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))
    assert min(factors) >= 0.01


def test_the_learning_rate_without_warm_up_or_beyond_the_end() -> None:
    assert learning_rate_factor(0, 10, 0) == 1
    assert learning_rate_factor(50, 10, 0) == pytest.approx(0.01)
    assert learning_rate_factor(9, 10, 10) == 1
    assert learning_rate_factor(10, 10, 10) == pytest.approx(1)
