"""The field of view against drawn truth; where there is none, an error says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest

from benchmarks.field_of_view import draw_disc, worst_error
from fundusgrade.errors import NoRetinaError
from fundusgrade.photographs import field_of_view
from fundusgrade.photographs.edges import BrightRegions
from fundusgrade.photographs.field_of_view import WORKING_SIZE_PX, FieldOfView, find_field_of_view
from fundusgrade.photographs.pixels import Image
from tests.drawn_eyes import DrawnEye, cut, darken, healthy_eye, off_center, plain_retina, squash

View = Callable[[DrawnEye], DrawnEye]

EYES = {"drawn": partial(plain_retina, 128), "photographed": partial(healthy_eye, 256)}
VIEWS: dict[str, View] = {
    "full": lambda eye: eye,
    "cut above and below": lambda eye: cut(eye, top=0.12, bottom=0.12),
    "cut on all sides": lambda eye: cut(eye, top=0.12, bottom=0.12, left=0.1, right=0.1),
    "cut left": lambda eye: cut(eye, left=0.25),
    "wide": lambda eye: squash(eye, width_px=round(1.3 * width(eye)), height_px=width(eye)),
    "narrow": lambda eye: squash(eye, width_px=round(0.75 * width(eye)), height_px=width(eye)),
    "cut, then squashed": lambda eye: squash(
        cut(eye, top=0.12, bottom=0.12), width_px=width(eye), height_px=width(eye)
    ),
    "off center": lambda eye: off_center(eye, width_px=2 * width(eye), height_px=round(1.3 * width(eye)), dx_px=30),
    "half outside of the photograph": lambda eye: off_center(
        eye, width_px=width(eye), height_px=width(eye), dx_px=width(eye) // 4
    ),
    "between dark bars": lambda eye: off_center(
        cut(eye, top=0.12, bottom=0.12), width_px=round(1.3 * width(eye)), height_px=width(eye)
    ),
    "dark": lambda eye: darken(eye, 0.25),
}


def width(eye: DrawnEye) -> int:
    return eye.photograph.shape[1]


def ellipse_of(fov: FieldOfView) -> list[float]:
    return [fov.center_x, fov.center_y, fov.radius_x, fov.radius_y]


def assert_fits(fov: FieldOfView, eye: DrawnEye, tolerance: float = 0.02) -> None:
    """Center and radii within this share of the radius."""
    disc = eye.disc
    truth = [disc.center_x, disc.center_y, disc.radius_x, disc.radius_y]
    assert ellipse_of(fov) == pytest.approx(truth, abs=tolerance * min(disc.radius_x, disc.radius_y))


def text_page() -> Image:
    page = np.full((300, 220, 3), 255, np.uint8)
    for line in range(12):
        place = (8, 25 + 23 * line)
        cv2.putText(page, "Left eye: no findings", place, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    return page


def no_retinas() -> dict[str, Image]:
    rng = np.random.default_rng(0)
    y, x = np.indices((128, 128))
    triangle = np.zeros((128, 128, 3), np.uint8)
    cv2.fillPoly(triangle, [np.array([[10, 120], [120, 120], [64, 10]])], (200, 90, 50))
    clouds = cv2.GaussianBlur(rng.uniform(0, 255, (128, 128)), (0, 0), 8)

    def gray(values: np.ndarray) -> Image:
        return np.repeat(values[..., None], 3, axis=2).astype(np.uint8)

    return {
        "black": gray(0 * x),
        "uniform gray": gray(0 * x + 120),
        "white": gray(0 * x + 255),
        "noise": rng.integers(0, 256, (128, 128, 3)).astype(np.uint8),
        "dark noise": rng.integers(0, 20, (128, 128, 3)).astype(np.uint8),
        "page of text": text_page(),
        "page of white text": 255 - text_page(),
        "gradient": gray(2 * x),
        "half light": gray(180 * (x > 64)),
        "square": gray(180 * (np.maximum(abs(x - 64), abs(y - 64)) < 40)),
        "triangle": triangle,
        "clouds": gray(np.clip((clouds - clouds.mean()) / clouds.std() * 60 + 120, 0, 255)),
        "one line of light": gray(200 * (y == 64)),
        "speck": gray(200 * (np.hypot(x - 64, y - 64) < 10)),
    }


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", EYES)
def test_center_and_radii_are_those_drawn(name: str, view: str) -> None:
    eye = VIEWS[view](EYES[name]())
    assert_fits(find_field_of_view(eye.photograph), eye)


@pytest.mark.parametrize("view", VIEWS)
def test_the_visible_part_is_known(view: str) -> None:
    eye = VIEWS[view](EYES["photographed"]())
    fov = find_field_of_view(eye.photograph)
    lit = eye.photograph.max(axis=2) > 12
    rows, columns = np.flatnonzero(lit.mean(axis=1) > 0.02), np.flatnonzero(lit.mean(axis=0) > 0.02)
    visible = eye.disc_mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].sum()
    assert fov.visible_fraction == pytest.approx(visible / (np.pi * eye.disc.radius_x * eye.disc.radius_y), abs=0.02)
    assert 0 < fov.confidence <= 1
    if view == "between dark bars":
        assert (fov.top, fov.bottom) == pytest.approx((rows[0], rows[-1]), abs=1.5)


def test_the_visible_bounds_are_those_of_the_photograph_where_no_bar_covers_the_disc() -> None:
    eye = cut(plain_retina(128), top=0.12, bottom=0.12)
    fov = find_field_of_view(eye.photograph)
    height, width_px = eye.photograph.shape[:2]
    assert [fov.left, fov.top, fov.right, fov.bottom] == [0, 0, width_px - 1, height - 1]


def test_the_aspect_is_that_of_the_squashing() -> None:
    eye = squash(plain_retina(128), width_px=96, height_px=144)
    assert find_field_of_view(eye.photograph).aspect == pytest.approx(96 / 144, rel=0.02)


@pytest.mark.parametrize("name", list(no_retinas()))
def test_images_of_no_retina_are_refused_with_a_reason(name: str) -> None:
    with pytest.raises(NoRetinaError, match="no retina found: "):
        find_field_of_view(no_retinas()[name])


def test_a_sliver_of_a_disc_is_refused() -> None:
    with pytest.raises(NoRetinaError):
        find_field_of_view(cut(plain_retina(256), left=0.8).photograph)


def test_large_photographs_are_measured_on_a_small_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    foreground = field_of_view.bright_regions

    def note(small: Image) -> BrightRegions:
        shapes.append(small.shape)
        return foreground(small)

    monkeypatch.setattr(field_of_view, "bright_regions", note)
    eye = squash(plain_retina(256), width_px=1600, height_px=1200)
    assert_fits(find_field_of_view(eye.photograph), eye, tolerance=0.01)
    assert shapes == [(WORKING_SIZE_PX * 3 // 4, WORKING_SIZE_PX, 3)]


def test_rotated_and_reflected_photographs_have_rotated_and_reflected_fields_of_view() -> None:
    eye = off_center(plain_retina(96), width_px=160, height_px=120, dx_px=20, dy_px=-5)
    straight = find_field_of_view(eye.photograph)
    mirrored = find_field_of_view(np.ascontiguousarray(eye.photograph[:, ::-1]))
    turned = find_field_of_view(np.ascontiguousarray(eye.photograph.transpose(1, 0, 2)))
    assert mirrored.center_x == pytest.approx(159 - straight.center_x, abs=0.5)
    assert mirrored.radius_x == pytest.approx(straight.radius_x, abs=0.5)
    assert (turned.center_x, turned.center_y) == pytest.approx((straight.center_y, straight.center_x), abs=0.5)


def test_the_same_photograph_gives_the_same_field_of_view_and_is_not_changed() -> None:
    photograph = cut(plain_retina(128), top=0.1).photograph
    before = photograph.copy()
    assert find_field_of_view(photograph) == find_field_of_view(photograph)
    assert np.array_equal(photograph, before)


def test_soft_dark_noisy_and_notched_discs_are_found_to_a_hundredth_of_their_radius() -> None:
    """Like the benchmark's 2,000 drawn discs, but smaller."""
    rng = np.random.default_rng(7)
    for _ in range(25):
        photograph, truth, arc = draw_disc(rng, max_radius_px=250)
        assert arc >= 120
        assert worst_error(find_field_of_view(photograph), truth) < 0.01


def test_the_four_corners_of_a_cut_disc_are_enough_of_an_outline() -> None:
    eye = cut(healthy_eye(400), top=0.13, bottom=0.13, left=0.1, right=0.1)
    assert_fits(find_field_of_view(eye.photograph), eye, tolerance=0.02)


def test_a_margin_of_pure_black_does_not_make_a_dark_ground_bright() -> None:
    photograph = np.maximum(darken(healthy_eye(256), 0.35).photograph, 12)
    eye = cut(replace(healthy_eye(256), photograph=photograph), top=0.12, bottom=0.12)
    framed = off_center(eye, width_px=330, height_px=256, dx_px=37)
    assert_fits(find_field_of_view(framed.photograph), framed, tolerance=0.02)
