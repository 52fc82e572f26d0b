"""Photographs as a worse camera shows them: the same every time, of the same shape, and really worse."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fundusgrade.photographs.pixels import Image
from fundusgrade.training import degrade as degrade_module
from fundusgrade.training.degrade import SMALLEST_SCALE, SMALLEST_SIDE_PX, degrade
from tests.drawn_eyes import healthy_eye
from tests.models_for_tests import drawn_photograph

SIZE_PX = 320
NUM_DRAWS = 12


def sharpness(image: Image) -> float:
    """Mean square of the Laplacian of the gray image, at one size."""
    gray = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (SIZE_PX, SIZE_PX)).astype(np.float32)
    return float(np.square(cv2.Laplacian(gray, cv2.CV_32F)).mean())


def local_contrast(image: Image, inside: NDArray[np.bool_]) -> float:
    """Standard deviation of the green channel from its surroundings of 20 px."""
    green = cv2.GaussianBlur(image[..., 1].astype(np.float32), (0, 0), 3)
    return float((green - cv2.GaussianBlur(green, (0, 0), 20))[inside].std())


def degraded(photograph: Image, seed: int) -> Image:
    return degrade(photograph, np.random.default_rng(seed))


def test_the_same_seed_degrades_alike_and_another_seed_otherwise() -> None:
    photograph = healthy_eye(SIZE_PX).photograph
    before = photograph.copy()
    first, again = degraded(photograph, 3), degraded(photograph, 3)
    assert np.array_equal(first, again)
    assert np.array_equal(photograph, before), "the photograph itself stays as it is"
    sizes = {degraded(photograph, seed).shape for seed in range(NUM_DRAWS)}
    assert len(sizes) > NUM_DRAWS / 2


@pytest.mark.parametrize(("height", "width"), [(400, 600), (600, 400), (512, 512), (300, 900)])
def test_a_degraded_photograph_keeps_its_aspect_and_is_at_most_half_as_small(height: int, width: int) -> None:
    photograph = cv2.resize(healthy_eye(SIZE_PX).photograph, (width, height))
    for seed in range(NUM_DRAWS):
        image = degraded(np.asarray(photograph, np.uint8), seed)
        new_height, new_width = image.shape[:2]
        assert image.dtype == np.uint8 and image.shape[2] == 3
        assert SMALLEST_SCALE * height - 1 <= new_height <= height
        assert new_width / width == pytest.approx(new_height / height, abs=1 / min(height, width))


@pytest.mark.parametrize("size_px", [40, 100, SMALLEST_SIDE_PX, 150])
def test_what_is_small_already_is_not_made_smaller_than_it_may_be(size_px: int) -> None:
    photograph = drawn_photograph(1, size_px)
    sizes = [degraded(photograph, seed).shape[0] for seed in range(NUM_DRAWS)]
    assert min(sizes) >= min(size_px, SMALLEST_SIDE_PX)
    assert max(sizes) <= size_px


def test_a_degraded_photograph_is_softer_and_still_the_same_eye() -> None:
    photograph = healthy_eye(SIZE_PX).photograph
    for seed in range(NUM_DRAWS):
        image = degraded(photograph, seed)
        assert sharpness(image) < sharpness(photograph) + 4 * degrade_module.MAX_NOISE_LEVELS**2
        restored = cv2.resize(image, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_LINEAR)
        assert not np.array_equal(restored, photograph)
        retina = photograph.mean(axis=2) > 40
        same = np.corrcoef(restored[retina].ravel(), photograph[retina].ravel())[0, 1]
        assert same > 0.9


def test_black_surroundings_stay_dark_and_haze_lowers_contrast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MAX_GAMMA", 1.0), ("MAX_GRADIENT", 0.0), ("MAX_NOISE_LEVELS", 0.0), ("MAX_BLUR_PX", 0.05)):
        monkeypatch.setattr(degrade_module, name, value)
    photograph = healthy_eye(SIZE_PX).photograph
    inside = cv2.erode((photograph.mean(axis=2) > 40).astype(np.uint8), np.ones((81, 81))) > 0
    contrasts = []
    for seed in range(NUM_DRAWS):
        image = cv2.resize(degraded(photograph, seed), (SIZE_PX, SIZE_PX))
        assert image[:4, :4].mean() < 8
        contrasts.append(local_contrast(image, inside) / local_contrast(photograph, inside))
    assert max(contrasts) < 1.05 and min(contrasts) < 0.7
    assert min(contrasts) > 1 - degrade_module.MAX_HAZE - 0.2


def test_light_falls_to_one_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(degrade_module, "MAX_HAZE", 0.0)
    monkeypatch.setattr(degrade_module, "MAX_GAMMA", 1.0)
    gray = np.full((SIZE_PX, SIZE_PX, 3), 100, np.uint8)
    slopes = []
    for seed in range(30):
        image = cv2.resize(degraded(gray, seed), (SIZE_PX, SIZE_PX)).astype(float)
        assert abs(image.mean() - 100) < 4
        slopes.append(abs(image[:, :20].mean() - image[:, -20:].mean()) / 200)
    assert max(slopes) <= degrade_module.MAX_GRADIENT + 0.02 and max(slopes) > 0.5 * degrade_module.MAX_GRADIENT
