"""Several fields in one picture are refused; single eyes on pages, in telephones' pictures and on screens are found."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from fundusgrade.errors import NoRetinaError, SeveralFieldsError
from fundusgrade.grades import Prediction, Ungraded
from fundusgrade.grading.grader import Grader
from fundusgrade.options import DeviceName, Precision
from fundusgrade.photographs.field_of_view import find_field_of_view
from fundusgrade.photographs.images import write_image
from fundusgrade.photographs.loading import load_photograph, load_pixels
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.recipe import PreprocessRecipe
from tests.drawn_eyes import cut, healthy_eye, plain_retina
from tests.models_for_tests import install_model

EYE = healthy_eye(400).photograph
LIT = EYE.max(axis=2) > 25


def scaled(image: Image, side: int) -> Image:
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def padded(image: Image, pixels: int) -> Image:
    return np.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)))


def compressed(image: Image, quality: int) -> Image:
    coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)


def placed(*places: tuple[int, int], size: tuple[int, int], ground: Image | int = 0, eye: Image = EYE) -> Image:
    """Eyes with their top left corners at these places (x, y) of a picture (height, width)."""
    picture = np.full((*size, 3), ground, np.uint8)
    for x, y in places:
        part = picture[y : y + eye.shape[0], x : x + eye.shape[1]]
        lit = eye.max(axis=2) > 25
        part[lit] = eye[lit]
    return picture


BAND = cut(healthy_eye(400), top=0.13, bottom=0.13).photograph
CORNERS = cut(healthy_eye(400), top=0.1, bottom=0.1, left=0.08, right=0.08).photograph
PAIR = np.hstack([EYE, EYE[:, ::-1]])
DIM = (EYE * 0.45).astype(np.uint8)

SEVERAL: dict[str, Callable[[], Image]] = {
    "two that touch": lambda: PAIR,
    "two apart": lambda: np.hstack([padded(EYE, 15), padded(EYE, 15)]),
    "two drawn eyes": lambda: np.hstack([plain_retina(300, 1).photograph, plain_retina(300, 2).photograph]),
    "one above the other": lambda: np.vstack([EYE, EYE]),
    "diagonally": lambda: placed((10, 10), (260, 280), size=(700, 700)),
    "two bands": lambda: np.hstack([BAND, BAND]),
    "two bands above each other": lambda: np.vstack([BAND, BAND]),
    "two cut on four sides": lambda: np.hstack([CORNERS, CORNERS]),
    "one darker": lambda: np.hstack([EYE, DIM]),
    "one smaller": lambda: np.hstack([EYE, np.pad(scaled(EYE, 270), ((65, 65), (0, 0), (0, 0)))]),
    "three": lambda: np.hstack([EYE] * 3),
    "a contact sheet": lambda: np.vstack([np.hstack([scaled(EYE, 160)] * 5)] * 4),
    "a montage of two": lambda: placed((10, 10), (210, 10), size=(420, 620)),
    "a montage of four": lambda: placed((150, 10), (10, 150), (290, 150), (150, 290), size=(700, 700)),
    "half discs of a stereo pair": lambda: np.hstack([padded(EYE[:, 80:320], 4)] * 2),
    "squashed to a square": lambda: cv2.resize(PAIR, (400, 400), interpolation=cv2.INTER_AREA),
    "on a white page": lambda: placed((40, 60), (500, 60), size=(600, 940), ground=250),
    "small on black": lambda: placed((600, 500), (1100, 500), size=(1400, 2000), ground=6),
    "strongly compressed": lambda: compressed(PAIR, 30),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_several_fields_are_refused(name: str) -> None:
    with pytest.raises(SeveralFieldsError, match=r"^\d+ round fields in one picture.*; cut the picture into one file"):
        find_field_of_view(np.ascontiguousarray(SEVERAL[name]()))


@pytest.mark.parametrize("quality", [95, 92, 90, 85, 80, 70, 50])
def test_the_verdict_on_two_eyes_does_not_hang_on_compression(quality: int) -> None:
    with pytest.raises(SeveralFieldsError):
        find_field_of_view(compressed(PAIR, quality))


def shadowed(side: str) -> Image:
    """A crescent of the retina in the dark, as behind a small pupil: its edge is a circle too."""
    y, x = np.ogrid[:400, :400]
    center = {"left": (330, 200), "bottom": (200, 80)}[side]
    return np.where((np.hypot(x - center[0], y - center[1]) < 260)[..., None], EYE, EYE // 12).astype(np.uint8)


def split_by_a_dark_bar() -> Image:
    image = EYE.copy()
    image[185:215] = 0
    return image


SINGLE: dict[str, Callable[[], Image]] = {
    "whole": lambda: EYE,
    "band": lambda: BAND,
    "cut on four sides": lambda: CORNERS,
    "shadow from the left": lambda: shadowed("left"),
    "shadow from below": lambda: shadowed("bottom"),
    "thumbnail in the corner": lambda: (
        placed((0, 0), size=(400, 560), eye=np.pad(EYE, ((0, 0), (150, 0), (0, 0))))
        | placed((0, 0), size=(400, 560), eye=scaled(EYE, 110))
    ),
    "a white box beside it": lambda: np.hstack([EYE, np.full((400, 330, 3), 255, np.uint8)]),
    "text beside it": lambda: cv2.putText(
        np.pad(EYE, ((0, 0), (0, 300), (0, 0))), "OD 45", (420, 90), 0, 2.0, (255, 255, 255), 4
    ),
}


@pytest.mark.parametrize("name", SINGLE)
def test_a_single_eye_is_not_taken_for_several(name: str) -> None:
    find_field_of_view(np.ascontiguousarray(SINGLE[name]()))


def test_parts_of_one_disc_are_one_field() -> None:
    with contextlib.suppress(NoRetinaError):  # but it is not two eyes
        find_field_of_view(split_by_a_dark_bar())


# --- pages and small discs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "color",
    [(255, 255, 255), (128, 128, 128), (60, 60, 60), (180, 205, 240), (255, 250, 225), (210, 230, 205)],
    ids=str,
)
@pytest.mark.parametrize("quality", [None, 60])
def test_a_disc_on_a_light_page_is_found(color: tuple[int, ...], quality: int | None) -> None:
    picture = placed((250, 90), size=(600, 900), ground=np.array(color, np.uint8))
    found = find_field_of_view(picture if quality is None else compressed(picture, quality))
    truth = find_field_of_view(EYE)
    assert (found.center_x, found.center_y) == pytest.approx((truth.center_x + 250, truth.center_y + 90), abs=2)
    assert found.radius_x == pytest.approx(truth.radius_x, rel=0.025)
    assert found.visible_fraction == pytest.approx(1, abs=0.01)


def test_the_page_does_not_enter_the_preprocessed_image() -> None:
    recipe = PreprocessRecipe(size_px=128)
    on_black = load_pixels(placed((100, 100), size=(600, 600)), recipe).preprocessed
    on_white = load_pixels(placed((100, 100), size=(600, 600), ground=255), recipe).preprocessed
    difference = np.abs(on_black.image.astype(int) - on_white.image)[on_black.mask & on_white.mask]
    assert difference.mean() < 4


def test_a_page_without_a_disc_or_with_another_shape_is_refused() -> None:
    page = np.full((400, 600, 3), 255, np.uint8)
    box = page.copy()
    box[100:300, 150:450] = (190, 90, 50)
    oval = cv2.ellipse(page.copy(), (300, 200), (170, 110), 0, 0, 360, (190, 90, 50), -1)
    for picture in (page, box, oval):
        with pytest.raises(NoRetinaError, match="no retina found"):
            find_field_of_view(picture)


def noisy(ground: int, sigma: float) -> Image:
    noise = np.abs(np.random.default_rng(0).normal(0, sigma, (1500, 900, 3)))
    return placed(
        (300, 600), size=(1500, 900), ground=np.clip(ground + noise, 0, 255).astype(np.uint8), eye=scaled(EYE, 260)
    )


def screenshot() -> Image:
    picture = placed((250, 500), size=(1500, 900), ground=4)
    picture[:70], picture[-150:] = 255, 225
    return picture


SMALL: dict[str, tuple[Callable[[], Image], tuple[int, int, int]]] = {
    "in the dark": (lambda: placed((700, 300), size=(1200, 1800)), (700, 300, 400)),
    "not quite in the dark": (lambda: placed((700, 300), size=(1200, 1800), ground=20), (700, 300, 400)),
    "very small": (lambda: placed((900, 300), size=(1200, 1800), eye=scaled(EYE, 120)), (900, 300, 120)),
    "in noise": (lambda: noisy(8, 8), (300, 600, 260)),
    "on a screen": (screenshot, (250, 500, 400)),
    "at the edge": (lambda: placed((0, 700), size=(1500, 1100)), (0, 700, 400)),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_small_disc_is_found(name: str) -> None:
    draw, (x, y, side) = SMALL[name]
    found = find_field_of_view(draw())
    truth = find_field_of_view(EYE)
    scale = side / 400
    assert found.radius_x == pytest.approx(truth.radius_x * scale, rel=0.03)
    assert found.center_x == pytest.approx(x + truth.center_x * scale, abs=0.03 * side)
    assert found.center_y == pytest.approx(y + truth.center_y * scale, abs=0.03 * side)
    assert found.left <= x + 0.02 * side and found.right >= x + 0.98 * side - 1


def test_a_small_disc_keeps_the_detail_that_its_file_has(tmp_path: Path) -> None:
    eye = healthy_eye(600).photograph
    recipe = PreprocessRecipe(size_px=224)
    write_image(tmp_path / "small.jpg", placed((900, 500), size=(1600, 2400), eye=eye))
    write_image(tmp_path / "large.jpg", padded(eye, 10))
    small, large = (load_photograph(tmp_path / name, recipe) for name in ("small.jpg", "large.jpg"))
    assert small.quality.detail > 0.9 * large.quality.detail
    assert np.abs(small.preprocessed.image.astype(int) - large.preprocessed.image).mean() < 6
    in_memory = load_pixels(placed((900, 500), size=(1600, 2400), eye=eye), recipe)
    assert in_memory.quality.detail > 0.9 * large.quality.detail
    assert "the disc fills little of the picture" in small.quality_reasons


def test_a_picture_of_several_fields_is_a_row_with_the_reason(tmp_path: Path) -> None:
    install_model()
    grader = Grader.load("tiny", device=DeviceName.CPU, precision=Precision.FLOAT32)
    write_image(tmp_path / "pair.jpg", PAIR)
    write_image(tmp_path / "eye.jpg", EYE)
    pair, eye = grader.grade_all([tmp_path / "pair.jpg", tmp_path / "eye.jpg"])
    assert isinstance(pair, Ungraded) and "2 round fields in one picture" in pair.reason and not pair.warnings
    assert isinstance(eye, Prediction)
    in_memory = grader.grade_images([PAIR])[0]
    assert isinstance(in_memory, Ungraded) and in_memory.reason == pair.reason
