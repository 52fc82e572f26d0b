"""Gradability: measurements of drawn eyes, and the reasons why an eye is not gradable or refused."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from benchmarks.gradability import not_fundus_photographs
from fundusgrade.errors import NoRetinaError
from fundusgrade.photographs.field_of_view import find_field_of_view
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.quality import OVEREXPOSED_FROM, Quality, measure_quality
from tests.drawn_eyes import cut, darken, healthy_eye, plain_retina, squash

GOOD = Quality(
    visible_fraction=1.0,
    brightness=100.0,
    dark_fraction=0.0,
    overexposed_fraction=0.0,
    vessel_contrast=0.1,
    detail=4.0,
    redness=0.5,
    color=100.0,
)


def quality_of(photograph: Image) -> Quality:
    return measure_quality(photograph, find_field_of_view(photograph))


def blurred(photograph: Image, sigma_px: float) -> Image:
    return np.asarray(cv2.GaussianBlur(photograph, (0, 0), sigma_px), np.uint8)


def test_a_healthy_eye_is_gradable_however_it_was_taken() -> None:
    eye = healthy_eye(400)
    for view in (eye, cut(eye, top=0.12, bottom=0.12), squash(eye, width_px=300, height_px=360), darken(eye, 0.7)):
        quality = quality_of(view.photograph)
        assert quality.gradable and quality.reasons == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"brightness": 20.0}, "too dark"),
        ({"dark_fraction": 0.4}, "too dark"),
        ({"overexposed_fraction": 0.2}, "overexposed"),
        ({"vessel_contrast": 0.02}, "out of focus or veiled"),
        ({"detail": 1.0}, "out of focus or veiled"),
        ({"visible_fraction": 0.5}, "too little of the disc visible"),
    ],
)
def test_each_measurement_has_its_reason(change: dict[str, float], reason: str) -> None:
    assert GOOD.reasons == ()
    assert replace(GOOD, **change).reasons == (reason,)


def test_reasons_add_up() -> None:
    poor = replace(GOOD, brightness=10.0, detail=0.5)
    assert poor.reasons == ("too dark", "out of focus or veiled")
    assert not poor.gradable


def test_each_degradation_of_a_photograph_has_its_reason() -> None:
    photograph = healthy_eye(400).photograph
    assert "out of focus or veiled" in quality_of(blurred(photograph, 8)).reasons
    assert "too dark" in quality_of((photograph * 0.15).astype(np.uint8)).reasons
    bright = np.clip(photograph.astype(int) * 3, 0, 255).astype(np.uint8)
    bright[photograph.max(axis=2) < 20] = 0
    assert "overexposed" in quality_of(bright).reasons


def test_brightness_and_overexposure_are_those_of_the_visible_retina() -> None:
    """Half the disc at one gray, half burnt out; the dark surround does not count."""
    eye = plain_retina(256)
    photograph = np.zeros_like(eye.photograph)
    photograph[eye.disc_mask] = (120, 100, 80)
    photograph[:, 128:][eye.disc_mask[:, 128:]] = (255, 250, 245)
    quality = quality_of(photograph)
    assert quality.overexposed_fraction == pytest.approx(0.5, abs=0.02)
    assert quality.dark_fraction == 0
    assert 100 <= quality.brightness <= 255 and OVEREXPOSED_FROM < 250


def test_the_camera_resolution_hardly_changes_what_is_measured() -> None:
    eye = healthy_eye(1000)
    large, small = (quality_of(squash(eye, width_px=side, height_px=side).photograph) for side in (1000, 400))
    assert large.brightness == pytest.approx(small.brightness, abs=2)
    assert large.vessel_contrast == pytest.approx(small.vessel_contrast, rel=0.15)
    assert large.detail == pytest.approx(small.detail, rel=0.15)


@pytest.mark.parametrize("name", list(not_fundus_photographs()))
def test_images_that_are_no_fundus_photographs_are_refused_or_not_gradable(name: str) -> None:
    image = not_fundus_photographs()[name]
    if name == "plain red disc":  # like the densest cataract, it only shows nothing
        assert quality_of(image).reasons == ("out of focus or veiled",)
    elif name == "disc of noise":  # a hole, kept here so that whoever closes it learns of it
        assert quality_of(image).gradable
    else:
        with pytest.raises(NoRetinaError, match=r"no retina found|not a fundus photograph"):
            quality_of(image)
