"""Loading: reduced decoding changes next to nothing, and measurements stay with the preprocessed image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fundusgrade.errors import NoRetinaError, UnreadableImageError
from fundusgrade.photographs.field_of_view import find_field_of_view
from fundusgrade.photographs.images import read_image
from fundusgrade.photographs.loading import MIN_DECODED_PX, load_photograph, load_pixels
from fundusgrade.photographs.preprocess import preprocess
from fundusgrade.photographs.recipe import Method, PreprocessRecipe
from tests.drawn_eyes import cut, healthy_eye, squash

RECIPE = PreprocessRecipe(method=Method.NATURAL, size_px=224)


def save_large(path: Path) -> None:
    eye = squash(cut(healthy_eye(1411), top=0.1, bottom=0.1), width_px=2400, height_px=1920)
    Image.fromarray(eye.photograph).save(path, quality=92)


def test_a_large_jpeg_is_decoded_reduced_and_looks_the_same(tmp_path: Path) -> None:
    save_large(tmp_path / "eye.jpg")
    reduced, full = load_photograph(tmp_path / "eye.jpg", RECIPE), load_pixels(read_image(tmp_path / "eye.jpg"), RECIPE)
    assert min(reduced.photograph.shape[:2]) >= MIN_DECODED_PX
    assert reduced.photograph.shape == full.photograph.shape == (480, 600, 3)
    assert (reduced.preprocessed.mask == full.preprocessed.mask).mean() > 0.99
    both = reduced.preprocessed.mask & full.preprocessed.mask
    difference = reduced.preprocessed.image[both].astype(int) - full.preprocessed.image[both]
    assert np.abs(difference).mean() < 2
    assert reduced.quality.reasons == full.quality.reasons


def test_the_placement_of_a_reduced_photograph_fits_the_full_one(tmp_path: Path) -> None:
    save_large(tmp_path / "eye.jpg")
    full = read_image(tmp_path / "eye.jpg")
    reduced = load_photograph(tmp_path / "eye.jpg", RECIPE).preprocessed.placement.resized_to(*full.shape[:2])
    direct = preprocess(full, find_field_of_view(full), RECIPE).placement
    for x, y in ((300, 300), (1200, 900), (2000, 1500)):
        placed = reduced.scale_x * x + reduced.offset_x, reduced.scale_y * y + reduced.offset_y
        expected = direct.scale_x * x + direct.offset_x, direct.scale_y * y + direct.offset_y
        assert placed == pytest.approx(expected, abs=0.75)
    assert reduced.to_photograph(np.ones((224, 224), np.float32)).shape == full.shape[:2]


def test_other_formats_and_small_photographs_are_decoded_in_full(tmp_path: Path) -> None:
    photograph = healthy_eye(500).photograph
    Image.fromarray(photograph).save(tmp_path / "eye.png")
    Image.fromarray(photograph).save(tmp_path / "eye.jpg")
    assert load_photograph(tmp_path / "eye.png", RECIPE).photograph.shape == photograph.shape
    assert load_photograph(tmp_path / "eye.jpg", RECIPE).photograph.shape == photograph.shape


def test_a_photograph_that_cannot_be_loaded_has_a_reason(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((300, 300, 3), np.uint8)).save(tmp_path / "black.png")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(NoRetinaError, match="nearly uniform"):
        load_photograph(tmp_path / "black.png", RECIPE)
    with pytest.raises(UnreadableImageError, match="empty"):
        load_photograph(tmp_path / "empty.jpg", RECIPE)
