"""Color scales: the absolute one is the same for every photograph, the relative one ends at the map's own maximum."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from fundusgrade.explanation.heat_scale import CONTOUR_FRACTION, HeatScale
from fundusgrade.options import ColorScale

SCALE = HeatScale(unit="logits", ceiling=0.5)


def peak(value: float) -> NDArray[np.float32]:
    heat = np.zeros((4, 5), np.float32)
    heat[1, 2] = value
    return heat


@pytest.mark.parametrize("strongest", [0.0, 0.23, 0.5, 100.0])
def test_the_absolute_scale_is_the_same_for_every_map(strongest: float) -> None:
    shown = SCALE.shown(peak(strongest), ColorScale.ABSOLUTE)
    assert (shown.start, shown.contour, shown.end) == (0.125, 0.25, 0.5)
    assert np.array_equal(shown.fractions(np.array([0, 0.125, 0.3125, 0.5, 9], np.float32)), [0, 0, 0.5, 1, 1])


@pytest.mark.parametrize(("strongest", "expected"), [(0.0, False), (0.249, False), (0.25, True), (3.0, True)])
def test_the_absolute_scale_draws_what_reaches_its_contour(strongest: float, expected: bool) -> None:
    assert SCALE.shown(peak(strongest), ColorScale.ABSOLUTE).draws(peak(strongest)) is expected
    assert SCALE.display_level == 0.25


def test_whatever_is_drawn_has_a_contour() -> None:
    """So that no map looks like the photograph alone."""
    for chosen in ColorScale:
        for strongest in np.geomspace(1e-4, 10, 200):
            heat = peak(float(strongest))
            shown = SCALE.shown(heat, chosen)
            assert not shown.draws(heat) or heat.max() >= shown.contour


@pytest.mark.parametrize("strongest", [0.03, 0.4, 40.0])
def test_the_relative_scale_ends_at_the_maximum(strongest: float) -> None:
    shown = SCALE.shown(peak(strongest), ColorScale.RELATIVE)
    assert (shown.start, shown.end) == (0, pytest.approx(strongest))
    assert shown.contour == pytest.approx(CONTOUR_FRACTION * strongest)
    assert shown.draws(peak(strongest))


@pytest.mark.parametrize("strongest", [0.0, 0.024])
def test_the_relative_scale_does_not_make_next_to_nothing_look_strong(strongest: float) -> None:
    shown = SCALE.shown(peak(strongest), ColorScale.RELATIVE)
    assert not shown.draws(peak(strongest))
    assert shown.level == pytest.approx(0.025)


def test_the_default_scale_is_used_where_none_is_chosen() -> None:
    assert SCALE.shown(peak(9)).scale is ColorScale.RELATIVE
    fixed = HeatScale(unit="logits", ceiling=0.5, default=ColorScale.ABSOLUTE)
    assert fixed.shown(peak(9)).scale is ColorScale.ABSOLUTE
    assert fixed.shown(peak(9), ColorScale.RELATIVE).end == 9


def test_scales_need_no_torch() -> None:
    script = "import sys, fundusgrade.explanation.heat_scale; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
