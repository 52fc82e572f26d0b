"""Concentration of heat, on maps whose numbers are known."""

from __future__ import annotations

import numpy as np
import pytest

from fundusgrade.evaluation.concentration import coarsened, count_regions, measure_concentration
from fundusgrade.evaluation.landmarks import Landmarks, Spot

MASK = np.ones((20, 20), np.bool_)


def test_a_uniform_map_is_least_concentrated() -> None:
    found = measure_concentration(np.full((20, 20), 3.0, np.float32), MASK, 10, Landmarks())
    assert (found.num_peaks, found.disc_distance, found.fovea_distance) == (1, None, None)
    assert (found.half_area, found.entropy) == (pytest.approx(0.5), pytest.approx(1.0))


def test_a_single_pixel_is_most_concentrated() -> None:
    heat = np.zeros((20, 20), np.float32)
    heat[4, 7] = 2.0
    found = measure_concentration(heat, MASK, 10, Landmarks(optic_disc=Spot(x=10, y=8), fovea=Spot(x=7, y=4)))
    assert found.half_area == pytest.approx(0.5 / 400)
    assert (found.entropy, found.num_peaks) == (pytest.approx(0.0), 1)
    assert (found.disc_distance, found.fovea_distance) == (pytest.approx(0.5), 0.0)


def test_peaks_are_separate_regions_of_half_the_maximum() -> None:
    heat = np.zeros((20, 20), np.float32)
    heat[2, 2], heat[2, 10], heat[12, 12], heat[13, 13] = 4.0, 1.9, 2.0, 3.0
    assert measure_concentration(heat, MASK, 10, Landmarks()).num_peaks == 2
    assert count_regions(heat > 0) == 3


def test_half_of_the_heat_is_counted_to_a_part_of_a_pixel() -> None:
    heat = np.zeros((20, 20), np.float32)
    heat[0, :3] = (1.0, 1.0, 2.0)
    assert measure_concentration(heat, MASK, 10, Landmarks()).half_area == pytest.approx(1 / 400)
    heat[0, :3] = (3.0, 2.0, 1.0)
    assert measure_concentration(heat, MASK, 10, Landmarks()).half_area == pytest.approx(1 / 400)
    heat[0, :3] = (2.0, 2.0, 1.0)
    assert measure_concentration(heat, MASK, 10, Landmarks()).half_area == pytest.approx(1.25 / 400)


def test_a_map_without_heat_in_the_mask_has_no_numbers() -> None:
    heat, mask = np.zeros((20, 20), np.float32), MASK.copy()
    heat[0, 0], mask[0] = 5.0, False
    found = measure_concentration(heat, mask, 10, Landmarks())
    assert (found.half_area, found.entropy, found.num_peaks) == (None, None, None)


def test_coarse_maps_keep_their_heat() -> None:
    heat = np.zeros((224, 224), np.float32)
    heat[112, 112] = 1.0
    coarse = coarsened(heat)
    assert coarse.sum() == pytest.approx(1.0, abs=1e-4)
    assert (coarse > 0.5 * coarse.max()).sum() == pytest.approx(np.pi * (16 * 1.1774) ** 2, rel=0.03)
