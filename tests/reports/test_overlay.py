"""Heat on a photograph: what is untouched stays untouched, and weak evidence looks weak."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fundusgrade.reports.overlay import MAX_OPACITY, MarkedRegion, blend, outline_regions, outline_strongest


@pytest.fixture
def photograph() -> NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, (300, 400, 3), dtype=np.uint8)


def lightness(color: NDArray[np.float64]) -> float:
    linear = np.where(color <= 10.31, color / 255 / 12.92, ((color / 255 + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ [0.2126, 0.7152, 0.0722])
    return 116 * luminance ** (1 / 3) - 16


def test_pixels_without_heat_stay_bit_identical(photograph: NDArray[np.uint8]) -> None:
    before = photograph.copy()
    heat = np.zeros((300, 400), np.float32)
    heat[250:290, 10:60] = 5.0
    tinted = blend(photograph, heat, scale_max=5.0)
    assert np.array_equal(tinted[heat == 0], photograph[heat == 0])
    assert (tinted != photograph)[heat > 0].any(axis=1).mean() > 0.99
    assert np.array_equal(photograph, before)


def test_opacity_grows_with_heat_up_to_its_limit_and_not_beyond(photograph: NDArray[np.uint8]) -> None:
    black, white = np.zeros_like(photograph), np.full_like(photograph, 255)
    heat = np.broadcast_to(np.linspace(0, 6, 400, dtype=np.float32), (300, 400))
    visible = (blend(white, heat, scale_max=4.0).astype(float) - blend(black, heat, scale_max=4.0)).max(axis=(0, 2))
    opacity = 1 - visible / 255
    assert (np.diff(opacity) >= -0.005).all()
    assert opacity[0] == 0
    assert opacity[400 // 3] == pytest.approx(MAX_OPACITY / 2, abs=0.01)
    assert opacity[-1] == pytest.approx(MAX_OPACITY, abs=0.005)


def test_colors_rise_in_equal_steps_of_lightness() -> None:
    black = np.zeros((1, 41, 3), np.uint8)
    strength = np.linspace(0.2, 1, 41, dtype=np.float32)
    tinted = blend(black, strength[None], scale_max=1.0)[0].astype(float)
    colors = tinted / (MAX_OPACITY * strength[:, None])
    steps = np.diff([lightness(color) for color in colors[::4]])
    assert steps.min() > 0.5 * steps.mean()
    assert steps.max() < 1.5 * steps.mean()


def test_blend_refuses_a_map_of_another_size(photograph: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"\(224, 224\).*\(300, 400\)"):
        blend(photograph, np.zeros((224, 224), np.float32), scale_max=4.0)


def test_a_line_surrounds_what_is_strong_and_leaves_it_visible() -> None:
    image = np.full((80, 80, 3), 120, np.uint8)
    heat = np.zeros((80, 80), np.float32)
    heat[40, 40], heat[10, 10] = 2.0, 1.9
    drawn = outline_strongest(image, heat, scale_max=4.0)
    assert np.array_equal(drawn[38:43, 38:43], image[38:43, 38:43])
    assert (drawn[30:51, 30:51].max(axis=2) > 240).sum() > 10
    assert np.array_equal(drawn[:25, :25], image[:25, :25])
    assert np.array_equal(image, np.full((80, 80, 3), 120, np.uint8))


def test_regions_are_outlined_in_their_colors() -> None:
    image = np.full((60, 60, 3), 120, np.uint8)
    mask = np.zeros((60, 60), np.bool_)
    mask[20:40, 20:40] = True
    drawn = outline_regions(image, [MarkedRegion(name="haemorrhages", mask=mask, color=(0, 0, 255))])
    assert (drawn[20, 20:40] == (0, 0, 255)).all()
    assert np.array_equal(drawn[25:35, 25:35], image[25:35, 25:35])
    assert np.array_equal(drawn[:15], image[:15])
