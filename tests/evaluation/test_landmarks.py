"""Landmarks and baselines on eyes whose truth is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from fundusgrade.evaluation.baselines import BASELINES, CENTER, CONTRAST, OPTIC_DISC, RANDOM, VESSELS, baseline_map
from fundusgrade.evaluation.landmarks import Landmarks, Spot, find_landmarks, vessel_map
from fundusgrade.photographs.recipe import Method, Outline, PreprocessRecipe
from tests.drawn_eyes import DrawnEye, healthy_eye, off_center, plain_retina, preprocess_photograph, squash

RECIPE = PreprocessRecipe(method=Method.NATURAL, outline=Outline.DISC, size_px=224)


def place(eye: DrawnEye, x: float, y: float) -> tuple[float, float]:
    placement = preprocess_photograph(eye.photograph, RECIPE).placement
    return placement.scale_x * x + placement.offset_x, placement.scale_y * y + placement.offset_y


@pytest.mark.parametrize(
    "eye",
    [
        healthy_eye(500),
        squash(healthy_eye(500), width_px=400, height_px=500),
        off_center(healthy_eye(400), width_px=700, height_px=500, dx_px=60, dy_px=-20),
        *(plain_retina(400, seed) for seed in range(3)),
    ],
)
def test_optic_disc_and_fovea_are_found(eye: DrawnEye) -> None:
    found = find_landmarks(preprocess_photograph(eye.photograph, RECIPE), RECIPE.radius_px)
    assert found.optic_disc is not None and found.fovea is not None
    for spot, truth in ((found.optic_disc, eye.optic_disc), (found.fovea, eye.fovea)):
        x, y = place(eye, truth.center_x, truth.center_y)
        assert np.hypot(spot.x - x, spot.y - y) < 0.12 * RECIPE.radius_px


def test_a_retina_without_a_disc_has_no_landmarks() -> None:
    flat = np.zeros((300, 300, 3), np.uint8)
    y, x = np.mgrid[:300, :300]
    flat[np.hypot(x - 150, y - 150) < 140] = (180, 80, 40)
    assert find_landmarks(preprocess_photograph(flat, RECIPE), RECIPE.radius_px) == Landmarks()


def test_vessels_stand_out() -> None:
    image = np.full((224, 224, 3), 150, np.uint8)
    image[:, 100:103] = 100
    image[60:63] = 200
    ridges = vessel_map(image, np.ones((224, 224), np.bool_))
    assert ridges[120:200, 101].min() > 10 * max(ridges[120:200, 40].max(), ridges[61, 20:80].max())


def test_landmarks_move_with_the_image() -> None:
    moved = Landmarks(optic_disc=Spot(x=12.0, y=20.0)).magnified(1.5, 10.0)
    assert moved == Landmarks(optic_disc=Spot(x=13.0, y=25.0))


def test_baselines_do_not_depend_on_a_network_and_fill_the_image() -> None:
    eye = healthy_eye(500)
    natural = preprocess_photograph(eye.photograph, RECIPE)
    preprocessed = preprocess_photograph(eye.photograph, PreprocessRecipe(size_px=224))
    landmarks = find_landmarks(natural, RECIPE.radius_px)
    maps = {name: baseline_map(name, preprocessed, natural, landmarks, RECIPE.radius_px, seed=1) for name in BASELINES}
    assert list(maps) == [RANDOM, CENTER, CONTRAST, VESSELS, OPTIC_DISC]
    for values in maps.values():
        assert values is not None and values.shape == (224, 224)
        assert values.dtype == np.float32 and values.min() >= 0 and np.ptp(values) > 0
    center, disc = maps[CENTER], maps[OPTIC_DISC]
    assert center is not None and disc is not None and landmarks.optic_disc is not None
    assert center.argmax() in (111 * 224 + 111, 111 * 224 + 112, 112 * 224 + 111, 112 * 224 + 112)
    y, x = np.unravel_index(disc.argmax(), disc.shape)
    assert (x, y) == (round(landmarks.optic_disc.x), round(landmarks.optic_disc.y))
    again = baseline_map(RANDOM, preprocessed, natural, landmarks, RECIPE.radius_px, seed=1)
    other = baseline_map(RANDOM, preprocessed, natural, landmarks, RECIPE.radius_px, seed=2)
    assert np.array_equal(maps[RANDOM], again) and not np.array_equal(again, other)
    assert baseline_map(OPTIC_DISC, preprocessed, natural, Landmarks(), RECIPE.radius_px, seed=1) is None
