"""Agreement of heat with lesions, against counting and scikit-learn."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from fundusgrade.evaluation.lesion_agreement import (
    NO_AGREEMENT,
    lesion_coverage,
    measure_agreement,
    weighted_average_precision,
)
from fundusgrade.photographs.recipe import PreprocessRecipe
from tests.drawn_eyes import cut, paint_lesions, plain_retina, preprocess_photograph, squash

EVERYWHERE = np.ones((8, 8), np.bool_)


def test_an_uninformative_map_has_the_share_of_the_area() -> None:
    coverage = np.zeros((8, 8), np.float32)
    coverage[:2] = 1
    found = measure_agreement(np.ones((8, 8), np.float32), EVERYWHERE, coverage)
    assert (found.heat_fraction, found.area_fraction, found.lift, found.average_precision) == (0.25, 0.25, 1.0, 0.25)


def test_a_map_of_the_lesions_is_right_everywhere() -> None:
    coverage = np.zeros((8, 8), np.float32)
    coverage[2:4, 2:4] = 1
    found = measure_agreement(coverage.copy(), EVERYWHERE, coverage)
    assert (found.heat_fraction, found.lift, found.average_precision, found.peak_on_lesion) == (1.0, 16.0, 1.0, True)


def test_a_peak_beside_the_lesion_is_a_miss() -> None:
    coverage, heat = np.zeros((8, 8), np.float32), np.zeros((8, 8), np.float32)
    coverage[2, 2], heat[2, 2], heat[5, 5] = 1, 1.0, 3.0
    found = measure_agreement(heat, EVERYWHERE, coverage)
    assert (found.heat_fraction, found.peak_on_lesion) == (0.25, False)


def test_nothing_outside_of_the_mask_counts() -> None:
    generator = np.random.default_rng(0)
    heat, coverage = generator.random((8, 8)).astype(np.float32), generator.random((8, 8)).astype(np.float32)
    mask = generator.random((8, 8)) > 0.4
    changed = np.where(mask, heat, 9).astype(np.float32)
    assert measure_agreement(heat, mask, coverage) == measure_agreement(changed, mask, coverage)


def test_without_heat_or_lesion_nothing_is_claimed() -> None:
    zero, one = np.zeros((8, 8), np.float32), np.ones((8, 8), np.float32)
    assert measure_agreement(zero, EVERYWHERE, one) == NO_AGREEMENT
    assert measure_agreement(one, EVERYWHERE, zero) == NO_AGREEMENT


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_equals_scikit_learn(seed: int) -> None:
    """With ties; a pixel of which a share is lesion counts as that much of a lesion and as much of the rest."""
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 20, 300).astype(np.float64)
    positive = (generator.random(300) < 0.2).astype(np.float64)
    expected = average_precision_score(positive, scores)
    assert weighted_average_precision(scores, positive) == pytest.approx(expected)
    shares = generator.random(300)
    twice = np.concatenate([np.ones(300), np.zeros(300)])
    weights = np.concatenate([shares, 1 - shares])
    expected = average_precision_score(twice, np.concatenate([scores, scores]), sample_weight=weights)
    assert weighted_average_precision(scores, shares) == pytest.approx(expected)


def test_coverage_keeps_the_area_and_the_place_of_lesions() -> None:
    eye = paint_lesions(plain_retina(700), haemorrhages=12, seed=2)
    eye = squash(cut(eye, top=0.1, bottom=0.05), width_px=500, height_px=600)
    prepared = preprocess_photograph(eye.photograph, PreprocessRecipe(size_px=224))
    coverage = lesion_coverage(eye.masks.haemorrhages, prepared.placement, 224)
    scale = prepared.placement.scale_x * prepared.placement.scale_y
    placed = prepared.placement.to_photograph(coverage)
    inside = np.zeros_like(eye.masks.haemorrhages)
    inside[60:-60, 80:-80] = True
    assert coverage.sum() == pytest.approx(eye.masks.haemorrhages.sum() * scale, rel=0.05)
    both = (placed > 0.5) & eye.masks.haemorrhages & inside
    assert both.sum() > 0.9 * (eye.masks.haemorrhages & inside).sum()


def test_a_small_lesion_survives_a_strong_reduction() -> None:
    eye = plain_retina(900)
    prepared = preprocess_photograph(eye.photograph, PreprocessRecipe(size_px=112))
    mask = np.zeros((900, 900), np.bool_)
    cv2.circle(view := mask.astype(np.uint8), (450, 450), 6, 1, -1)
    assert lesion_coverage(view > 0, prepared.placement, 112).max() > 0.3
