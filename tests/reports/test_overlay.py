"""Heat on a photograph: colors of heat only, more heat is lighter everywhere, and weak evidence looks weak."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fundusgrade.explanation.heat_scale import HeatScale, ShownHeat
from fundusgrade.options import ColorScale
from fundusgrade.reports.overlay import (
    BRIGHTEST,
    GROUND,
    MAX_OPACITY,
    OPAQUE_FROM,
    MarkedRegion,
    blend,
    heat_colors,
    outline_regions,
    outline_strongest,
    red_free,
)

SCALE = HeatScale(unit="logits", ceiling=4.0)
# Machado, Oliveira and Fernandes (IEEE TVCG 2009): complete protanopia, deuteranopia and tritanopia, on linear RGB.
DICHROMATS = {
    "protanopia": [(0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)],
    "deuteranopia": [(0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)],
    "tritanopia": [(1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)],
}


@pytest.fixture
def photograph() -> NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, (300, 400, 3), dtype=np.uint8)


def relative(peak: float) -> ShownHeat:
    return SCALE.shown(np.full((2, 2), peak, np.float32), ColorScale.RELATIVE)


def linear(color: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4))


def lightness(color: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB's L* of colors (..., 3) in 0-1."""
    luminance = linear(color) @ [0.2126, 0.7152, 0.0722]
    return np.asarray(np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance))


def lab(color: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB of colors (..., 3) in 0-1, for daylight D65."""
    to_xyz = np.array([(0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505)])
    x, y, z = np.moveaxis(np.cbrt(linear(color) @ to_xyz.T / [0.9505, 1.0, 1.089]), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def ramp(ground: float) -> NDArray[np.float64]:
    """What is seen of heat from none to the end of the scale over a gray of this value."""
    colors = heat_colors(np.linspace(0, 1, 101, dtype=np.float32)).astype(np.float64)
    return np.asarray(ground + colors[:, 3:] * (colors[:, :3] - ground))


@pytest.mark.parametrize("ground", [0.0, GROUND, BRIGHTEST])
def test_more_heat_is_lighter_on_every_part_of_a_photograph(ground: float) -> None:
    assert np.diff(lightness(ramp(ground))).min() > -0.01
    assert lightness(ramp(ground))[-1] - lightness(ramp(ground))[0] > 40


def test_no_part_of_a_photograph_is_lighter_than_the_darkest_color(photograph: NDArray[np.uint8]) -> None:
    assert red_free(photograph).max() <= round(255 * BRIGHTEST)
    first = heat_colors(np.zeros(1, np.float32))[0, :3].astype(np.float64)
    assert lightness(first) > lightness(np.full(3, BRIGHTEST))


def test_the_colors_begin_transparent_and_get_opaque_in_proportion_to_the_heat() -> None:
    opacity = heat_colors(np.linspace(0, 1, 256, dtype=np.float32))[:, 3]
    assert opacity[0] == 0
    assert (np.diff(opacity) >= 0).all()
    assert opacity[round(255 * OPAQUE_FROM / 2)] == pytest.approx(MAX_OPACITY / 2, abs=0.01)
    assert (opacity[round(255 * OPAQUE_FROM) :] > MAX_OPACITY - 0.005).all()


def test_the_colors_are_perceptually_uniform() -> None:
    """Equal steps of heat are about equal steps of lightness, and of color where opacity is full."""
    colors = heat_colors(np.linspace(0, 1, 21, dtype=np.float32))[:, :3].astype(np.float64)
    steps = np.diff(lightness(colors))
    assert steps.min() > 0.5 * steps.mean() and steps.max() < 1.5 * steps.mean()
    distances = np.linalg.norm(np.diff(lab(colors), axis=0), axis=1)
    assert distances.min() > 0.5 * distances.mean() and distances.max() < 1.6 * distances.mean()


@pytest.mark.parametrize("kind", DICHROMATS)
def test_color_blind_readers_see_heat_rise_and_tell_it_from_the_photograph(kind: str) -> None:
    seen = np.clip(linear(ramp(GROUND)) @ np.array(DICHROMATS[kind]).T, 0, 1)
    seen = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    assert np.diff(lightness(seen)).min() > -0.1
    distances = np.linalg.norm(lab(seen) - lab(seen[:1]), axis=1)
    assert distances[50] > 25, "a contour's heat differs clearly from none"


def test_the_same_heat_has_the_same_color_on_photographs_of_any_color() -> None:
    """Eyes of the same brightness and contrast, one orange, one gray: what is shown depends on the heat only."""
    green = np.random.default_rng(3).integers(60, 120, (64, 64), dtype=np.uint8)
    heat = np.linspace(0, 4, 64 * 64, dtype=np.float32).reshape(64, 64)
    orange = np.stack([2 * green, green, green // 4], axis=2)
    gray = np.repeat(green[..., None], 3, axis=2)
    assert np.array_equal(blend(orange, heat, shown=relative(4)), blend(gray, heat, shown=relative(4)))


@pytest.mark.parametrize("exposure", [0.3, 0.6, 1.0])
def test_the_retina_is_equally_bright_on_light_and_dark_photographs(exposure: float) -> None:
    retina = np.random.default_rng(5).normal(140, 15, (200, 200)).clip(0, 255)
    photograph = np.repeat((exposure * retina).astype(np.uint8)[..., None], 3, axis=2)
    assert np.median(red_free(photograph)) / 255 == pytest.approx(GROUND, abs=0.04)


def test_a_black_photograph_is_drawn_black() -> None:
    assert red_free(np.zeros((40, 40, 3), np.uint8)).max() == 0


def test_pixels_without_heat_are_the_photograph_in_gray(photograph: NDArray[np.uint8]) -> None:
    before = photograph.copy()
    heat = np.zeros((300, 400), np.float32)
    heat[250:290, 10:60] = 5.0
    tinted = blend(photograph, heat, shown=relative(5))
    ground = red_free(photograph)
    assert np.array_equal(tinted[heat == 0], ground[heat == 0])
    assert (tinted != ground)[heat > 0].any(axis=1).all()
    assert np.array_equal(photograph, before)


def test_a_map_that_is_not_drawn_leaves_no_color(photograph: NDArray[np.uint8]) -> None:
    heat = np.full((300, 400), 1.9, np.float32)
    shown = SCALE.shown(heat, ColorScale.ABSOLUTE)
    assert np.array_equal(blend(photograph, heat, shown=shown), red_free(photograph))


def test_blend_refuses_a_map_of_another_size(photograph: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"\(224, 224\).*\(300, 400\)"):
        blend(photograph, np.zeros((224, 224), np.float32), shown=relative(4))


def test_a_line_surrounds_what_is_strong_and_leaves_it_visible() -> None:
    image = np.full((80, 80, 3), 120, np.uint8)
    heat = np.zeros((80, 80), np.float32)
    heat[40, 40], heat[10, 10] = 2.0, 1.9
    drawn = outline_strongest(image, heat, level=2.0)
    assert np.array_equal(drawn[38:43, 38:43], image[38:43, 38:43])
    assert (drawn[30:51, 30:51].max(axis=2) > 240).sum() > 10
    assert np.array_equal(drawn[:25, :25], image[:25, :25])
    assert np.array_equal(image, np.full((80, 80, 3), 120, np.uint8))


def test_regions_are_outlined_in_their_colors() -> None:
    image = np.full((60, 60, 3), 120, np.uint8)
    mask = np.zeros((60, 60), np.bool_)
    mask[20:40, 20:40] = True
    drawn = outline_regions(image, [MarkedRegion(name="hemorrhages", mask=mask, color=(0, 0, 255))])
    assert (drawn[20, 20:40] == (0, 0, 255)).all()
    assert np.array_equal(drawn[25:35, 25:35], image[25:35, 25:35])
    assert np.array_equal(drawn[:15], image[:15])
