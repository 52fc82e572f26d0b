"""Masks of lesions are found by the photograph's name and have its size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fundusgrade.data.lesion_masks import any_lesion, find_lesion_photographs, read_lesions
from fundusgrade.errors import DatasetError


def save_masks(folder: Path, masks: dict[str, NDArray[np.bool_]]) -> None:
    folder.mkdir(exist_ok=True)
    for name, mask in masks.items():
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{name}.png")


def test_masks_are_found_by_name(tmp_path: Path) -> None:
    mask = np.zeros((40, 50), np.bool_)
    mask[3, 4] = True
    save_masks(tmp_path / "masks", {"eye_MA": mask, "eye_EX": ~mask, "eye_OD": mask, "other_HE": mask})
    (tmp_path / "images").mkdir()
    for name in ("eye", "bare"):
        Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "images" / f"{name}.png")
    lesions = read_lesions("eye", tmp_path / "masks", (40, 50, 3))
    assert [each.kind for each in lesions] == ["MA", "EX"]
    assert np.array_equal(lesions[0].mask, mask)
    assert any_lesion(lesions).all()
    assert read_lesions("bare", tmp_path / "masks", (40, 50)) == ()
    assert [found.path.stem for found in find_lesion_photographs(tmp_path)] == ["eye"]
    with pytest.raises(DatasetError, match=r"eye_MA\.png has 50 x 40 pixels, its photograph 60 x 40"):
        read_lesions("eye", tmp_path / "masks", (40, 60))
