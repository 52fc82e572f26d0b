"""The generator is the truth that other tests measure against, so its own truth is tested first."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.drawn_eyes import (
    LESION_CODES,
    SAMPLES,
    SOFT_EDGE_FRACTION,
    DrawnEye,
    cut,
    darken,
    healthy_eye,
    make_samples,
    off_center,
    paint_lesions,
    plain_retina,
    squash,
)


@pytest.fixture(scope="module", params=["photograph", "drawing"])
def bare(request: pytest.FixtureRequest) -> DrawnEye:
    return healthy_eye(480) if request.param == "photograph" else plain_retina(480, seed=5)


@pytest.fixture(scope="module")
def diseased(bare: DrawnEye) -> DrawnEye:
    return paint_lesions(bare, microaneurysms=20, haemorrhages=24, exudates=60, seed=7)


def num_components(mask: np.ndarray) -> int:
    return int(cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0]) - 1


def lit(eye: DrawnEye) -> np.ndarray:
    return eye.photograph.max(axis=2) > 22


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


def test_masks_lie_in_the_disc_and_off_the_optic_disc(diseased: DrawnEye) -> None:
    height, width = diseased.photograph.shape[:2]
    union = diseased.masks.union
    assert union.shape == (height, width)
    assert union.dtype == np.bool_
    assert not (union & ~diseased.disc_mask).any()
    assert not (union & diseased.optic_disc.mask(height=height, width=width)).any()


def test_lesions_change_pixels_only_where_the_masks_say(bare: DrawnEye, diseased: DrawnEye) -> None:
    change = np.abs(diseased.photograph.astype(int) - bare.photograph).max(axis=2)
    reach = int(np.ceil(SOFT_EDGE_FRACTION * diseased.disc.radius_x))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    near = cv2.dilate(diseased.masks.union.astype(np.uint8), kernel) > 0
    assert not change[~near].any()
    assert (change[diseased.masks.union] >= 5).mean() > 0.97
    assert change[diseased.masks.union].sum() > 0.75 * change.sum()


def test_blood_is_darker_and_lipid_yellower_than_the_retina_was(bare: DrawnEye, diseased: DrawnEye) -> None:
    change = diseased.photograph.astype(int) - bare.photograph
    masks = diseased.masks
    for blood in (masks.microaneurysms, masks.haemorrhages):
        assert (change[blood].mean(axis=0) < 0).all()
    assert change[masks.exudates][:, 1].mean() > 40
    assert not (masks.exudates & (masks.haemorrhages | masks.microaneurysms)).any()


def test_the_number_of_lesions_is_the_number_requested(diseased: DrawnEye) -> None:
    assert num_components(diseased.masks.microaneurysms) == 20
    assert num_components(diseased.masks.haemorrhages) == 24
    assert 15 <= num_components(diseased.masks.exudates) <= 60  # spots of a cluster may run together


def test_more_lesions_contain_the_fewer_of_the_same_seed(bare: DrawnEye) -> None:
    areas = []
    previous = np.zeros(bare.photograph.shape[:2], np.bool_)
    for count in (0, 4, 12, 32):
        masks = paint_lesions(bare, haemorrhages=count, seed=1).masks
        assert not (previous & ~masks.haemorrhages).any()
        previous = masks.haemorrhages
        areas.append(int(previous.sum()))
    assert areas == sorted(set(areas))


def test_haemorrhages_reach_every_quadrant(diseased: DrawnEye) -> None:
    y, x = np.nonzero(diseased.masks.haemorrhages)
    quadrants = (x > diseased.disc.center_x) * 2 + (y > diseased.disc.center_y)
    assert set(quadrants.tolist()) == {0, 1, 2, 3}


def test_the_same_seed_draws_the_same_eye_and_another_seed_another() -> None:
    assert np.array_equal(plain_retina(200, seed=3).photograph, plain_retina(200, seed=3).photograph)
    assert not np.array_equal(plain_retina(200, seed=3).photograph, plain_retina(200, seed=4).photograph)
    eye = plain_retina(300, seed=3)
    first, again, other = (paint_lesions(eye, microaneurysms=5, exudates=9, seed=seed) for seed in (8, 8, 9))
    assert np.array_equal(first.photograph, again.photograph)
    assert np.array_equal(first.masks.union, again.masks.union)
    assert not np.array_equal(first.masks.union, other.masks.union)


def test_painting_leaves_the_eye_it_was_given_alone(bare: DrawnEye) -> None:
    before = bare.photograph.copy()
    paint_lesions(bare, microaneurysms=3, haemorrhages=3, exudates=3)
    assert np.array_equal(bare.photograph, before)
    assert not bare.masks.union.any()


@pytest.mark.parametrize("size_px", [64, 128, 224, 481])
def test_the_plain_disc_is_the_circle_it_claims(size_px: int) -> None:
    eye = plain_retina(size_px)
    assert eye.photograph.shape == (size_px, size_px, 3)
    assert eye.photograph.dtype == np.uint8
    assert eye.disc.radius_x == eye.disc.radius_y == pytest.approx(0.47 * size_px)
    assert overlap(lit(eye), eye.disc_mask) > 0.98


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda eye: eye, id="as it is"),
        pytest.param(lambda eye: cut(eye, top=0.13, bottom=0.1), id="cut above and below"),
        pytest.param(lambda eye: cut(eye, left=0.2, right=0.07), id="cut at the sides"),
        pytest.param(lambda eye: squash(eye, width_px=400, height_px=300), id="squashed"),
        pytest.param(lambda eye: squash(eye, width_px=620, height_px=500), id="enlarged"),
        pytest.param(
            lambda eye: squash(cut(eye, top=0.12, bottom=0.12), width_px=360, height_px=360), id="cut, squashed"
        ),
        pytest.param(lambda eye: off_center(eye, width_px=700, height_px=560, dx_px=-40, dy_px=17), id="off center"),
        pytest.param(lambda eye: off_center(eye, width_px=300, height_px=500, dx_px=35), id="beyond the canvas"),
    ],
)
def test_geometry_and_masks_stay_true_in_every_view(bare: DrawnEye, diseased: DrawnEye, view) -> None:
    seen, seen_bare = view(diseased), view(bare)
    assert seen.masks.union.shape == seen.photograph.shape[:2]
    assert overlap(lit(seen), seen.disc_mask) > 0.985
    change = np.abs(seen.photograph.astype(int) - seen_bare.photograph).max(axis=2)
    assert overlap(change > 25, seen.masks.union) > 0.72
    assert not (seen.masks.union & ~seen.disc_mask).any()


def test_views_move_the_disc_by_the_numbers(diseased: DrawnEye) -> None:
    disc = diseased.disc
    assert cut(diseased, top=0.25, left=0.5).disc.center_y == pytest.approx(disc.center_y - 120)
    assert cut(diseased, top=0.25, left=0.5).disc.center_x == pytest.approx(disc.center_x - 240)
    half = squash(diseased, width_px=240, height_px=960)
    assert (half.disc.radius_x, half.disc.radius_y) == pytest.approx((disc.radius_x / 2, disc.radius_y * 2))
    assert half.disc.center_x == pytest.approx((disc.center_x + 0.5) / 2 - 0.5)
    moved = off_center(diseased, width_px=801, height_px=701, dx_px=30, dy_px=-20)
    assert (moved.disc.center_x, moved.disc.center_y) == pytest.approx((430, 330), abs=0.5)
    assert moved.masks.union.sum() == diseased.masks.union.sum()


def test_darken_keeps_the_geometry(diseased: DrawnEye) -> None:
    dark = darken(diseased, 0.5)
    assert dark.disc == diseased.disc
    assert dark.photograph.mean() == pytest.approx(diseased.photograph.mean() / 2, abs=0.5)


def test_a_full_retina_is_an_error_and_not_fewer_lesions() -> None:
    with pytest.raises(ValueError, match="no room left"):
        paint_lesions(plain_retina(120), haemorrhages=2000)


def test_the_samples_in_docs_are_what_the_generator_makes(tmp_path: Path) -> None:
    make_samples(tmp_path)
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    kept = {path.relative_to(SAMPLES) for path in SAMPLES.rglob("*") if path.is_file()}
    assert made == kept - {Path("README.md")}
    for name in made:
        with Image.open(tmp_path / name) as now, Image.open(SAMPLES / name) as then:
            assert now.mode == ("1" if name.suffix == ".png" else "RGB")
            difference = np.abs(np.asarray(now.convert("RGB"), int) - np.asarray(then.convert("RGB"), int))
        assert difference.mean() < 0.5, name  # other versions of the codecs may round otherwise
        assert (tmp_path / name).stat().st_size <= 200_000
    assert {name.stem[-2:] for name in made if name.suffix == ".png"} == set(LESION_CODES.values())
