"""Artifacts of drawn eyes: shadows, glare and haze of known area, discs of known size, and pictures without blue."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from fundusgrade.photographs.artifacts import NO_BLUE, Artifacts
from fundusgrade.photographs.loading import load_pixels
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.recipe import PreprocessRecipe
from tests.drawn_eyes import cut, darken, healthy_eye, plain_retina, squash

RECIPE = PreprocessRecipe(size_px=64)
GOOD = Artifacts(shadow_fraction=0.0, glare_fraction=0.0, hazy_fraction=0.0, frame_fraction=0.7, second_region=0.0)


def artifacts_of(photograph: Image) -> Artifacts:
    return load_pixels(photograph, RECIPE).artifacts


def disc_at(shape: tuple[int, ...], x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(columns - x, rows - y) < radius


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"shadow_fraction": 0.2}, "shadow over part of the retina"),
        ({"glare_fraction": 0.1}, "glare over part of the retina"),
        ({"hazy_fraction": 0.3}, "part of the retina out of focus or veiled"),
        ({"frame_fraction": 0.07}, "the disc fills little of the picture"),
        ({"second_region": 0.9}, "another bright region beside the disc"),
    ],
)
def test_each_measurement_has_its_reason(change: dict[str, float], reason: str) -> None:
    assert GOOD.reasons == ()
    assert replace(GOOD, **change).reasons == (reason,)


def test_a_healthy_eye_has_no_artifacts_however_it_was_taken() -> None:
    eye = healthy_eye(400)
    for view in (eye, cut(eye, top=0.12, bottom=0.12), squash(eye, width_px=300, height_px=360), darken(eye, 0.7)):
        assert artifacts_of(view.photograph).reasons == ()


def test_a_shadow_is_measured_by_its_area() -> None:
    photograph = healthy_eye(400).photograph.astype(np.float32)
    shadow = disc_at(photograph.shape, 220, 200, 80)
    dark = cv2.GaussianBlur(np.where(shadow, 0.25, 1.0).astype(np.float32), (0, 0), 4)[..., None]
    found = artifacts_of((photograph * dark).astype(np.uint8))
    # Of a disc of radius 197.6 px the measured part has 85 % of the radius.
    assert found.shadow_fraction == pytest.approx((80 / (0.85 * 197.6)) ** 2, abs=0.05)
    assert "shadow over part of the retina" in found.reasons


def test_glare_is_measured_by_its_area() -> None:
    photograph = healthy_eye(400).photograph.copy()
    before = artifacts_of(photograph).glare_fraction
    photograph[disc_at(photograph.shape, 260, 240, 50)] = 250
    found = artifacts_of(photograph)
    assert found.glare_fraction - before == pytest.approx((50 / 197.6) ** 2, abs=0.02)
    assert "glare over part of the retina" in found.reasons


def test_haze_over_half_of_the_retina_is_seen_where_the_whole_still_has_detail() -> None:
    photograph = healthy_eye(400).photograph
    hazy = np.asarray(cv2.GaussianBlur(photograph, (0, 0), 12), np.uint8)
    fractions = []
    for first in (300, 200, 0):  # the left column of the haze
        seen = hazy.copy()
        seen[:, :first] = photograph[:, :first]
        fractions.append(artifacts_of(seen).hazy_fraction)
        if first == 200:
            loaded = load_pixels(seen, RECIPE)
            assert loaded.quality.gradable
            assert loaded.quality_reasons == ("part of the retina out of focus or veiled",)
    # A blurred edge of a vessel is some detail, so that less than the blurred area is found.
    assert fractions == sorted(fractions) and 0.2 < fractions[1] < fractions[2] - 0.15


@pytest.mark.parametrize("fraction", [0.12, 0.3, 0.6])
def test_the_fraction_of_the_picture_that_the_disc_fills_is_measured(fraction: float) -> None:
    disc = plain_retina(300)
    side = round(np.sqrt(np.pi * disc.disc.radius_x**2 / fraction))
    picture = np.zeros((side, side, 3), np.uint8)
    start = max((side - 300) // 2, 0)
    inside = picture[start : start + 300, start : start + 300]
    inside[:] = disc.photograph[: inside.shape[0], : inside.shape[1]]
    found = artifacts_of(picture)
    assert found.frame_fraction == pytest.approx(fraction, rel=0.03)
    assert ("the disc fills little of the picture" in found.reasons) == (fraction < 0.15)


def test_a_bright_box_beside_the_eye_is_named_and_a_label_is_not() -> None:
    eye = healthy_eye(300).photograph
    boxed = np.pad(eye, ((20, 20), (20, 200), (0, 0)))
    boxed[60:280, 350:500] = 120
    beside = artifacts_of(boxed)
    assert beside.second_region == pytest.approx(0.48, abs=0.05)
    assert "another bright region beside the disc" in beside.reasons
    labeled = np.pad(eye, ((20, 20), (20, 140), (0, 0)))
    cv2.putText(labeled, "OD 45", (335, 60), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (255, 255, 255), 3)
    assert artifacts_of(labeled).reasons == ()


def test_a_picture_of_two_lasers_is_told_from_a_photograph() -> None:
    eye = healthy_eye(300).photograph
    ultra_widefield = eye.copy()
    ultra_widefield[..., 1] = np.minimum(255, eye[..., 1] * 1.6)
    ultra_widefield[..., 2] = 0
    red_free = eye.copy()
    red_free[..., [0, 2]] = 0
    reddish = eye.copy()
    reddish[..., 2] = 0
    found = [load_pixels(image, RECIPE) for image in (ultra_widefield, eye, reddish)]
    assert [NO_BLUE in loaded.quality_reasons for loaded in found] == [True, False, False]
    lit = red_free.max(axis=2, keepdims=True) > 20
    with_little_red = np.where(lit, np.add(red_free, (12, 0, 0)), 0).astype(np.uint8)
    assert NO_BLUE in load_pixels(with_little_red, RECIPE).quality_reasons
