"""Interventions: each does what its name says to drawn eyes, and a model that reads only light is caught."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fundusgrade.errors import DatasetError
from fundusgrade.evaluation.interventions import (
    CONTROL,
    CUT_FRACTION,
    INTERVENTIONS,
    LESIONS,
    SQUASHED_ASPECT,
    measure_interventions,
    measure_lesions,
)
from fundusgrade.grading.grader import Grader
from fundusgrade.options import DeviceName, Precision
from fundusgrade.photographs.field_of_view import find_field_of_view
from tests.drawn_eyes import cut, healthy_eye, paint_lesions, plain_retina
from tests.models_for_tests import install_dataset, install_model, photographs_of


@pytest.fixture
def grader() -> Grader:
    torch.set_num_threads(1)
    install_model()
    return Grader.load("tiny", device=DeviceName.CPU, precision=Precision.FLOAT32)


def changed(name: str, size_px: int = 256) -> tuple[np.ndarray, np.ndarray | None]:
    photograph = plain_retina(size_px).photograph
    return photograph, INTERVENTIONS[name](photograph, find_field_of_view(photograph))


def test_a_crop_keeps_the_center_and_bars_keep_the_size() -> None:
    photograph, narrow = changed("cut above and below")
    _, barred = changed("bars above and below")
    assert narrow is not None and barred is not None
    radius = find_field_of_view(photograph).radius_y
    assert narrow.shape[0] == pytest.approx(2 * CUT_FRACTION * radius, abs=2)
    assert barred.shape == photograph.shape
    first = int(np.flatnonzero(barred.max(axis=(1, 2)))[0])
    assert np.array_equal(barred[first : first + narrow.shape[0]], narrow)


def test_a_photograph_that_is_cut_already_is_not_cut_again() -> None:
    photograph = cut(plain_retina(256), top=0.14, bottom=0.14).photograph
    fov = find_field_of_view(photograph)
    assert INTERVENTIONS["cut above and below"](photograph, fov) is None
    assert INTERVENTIONS["bars above and below"](photograph, fov) is None


def test_squashing_and_stretching_change_the_aspect_that_is_found() -> None:
    photograph, squashed = changed("squashed to another aspect")
    _, stretched = changed("stretched to another aspect")
    assert squashed is not None and stretched is not None
    assert find_field_of_view(photograph).aspect == pytest.approx(1, rel=0.01)
    assert squashed.shape[0] == photograph.shape[0] < stretched.shape[0]
    for image in (squashed, stretched):
        fov = find_field_of_view(image)
        assert fov.aspect == pytest.approx(SQUASHED_ASPECT, rel=0.01)
        undone = INTERVENTIONS["squashed to another aspect"](image, fov)
        assert undone is not None
        assert find_field_of_view(undone).aspect == pytest.approx(1, rel=0.01)


def test_light_color_and_compression_change_what_they_should() -> None:
    photograph, dark = changed("darkened (x 0.7)")
    _, tinted = changed("tinted (red x 0.9, blue x 1.2)")
    _, compressed = changed("compressed again (JPEG 50)")
    _, margin = changed("margin on two sides")
    assert dark is not None and tinted is not None and compressed is not None and margin is not None
    assert dark.mean() == pytest.approx(0.7 * photograph.mean(), rel=0.02)
    assert tinted[..., 0].mean() < photograph[..., 0].mean() and tinted[..., 2].mean() > photograph[..., 2].mean()
    assert np.array_equal(tinted[..., 1], photograph[..., 1])
    assert 0 < np.abs(compressed.astype(int) - photograph).mean() < 4
    assert np.array_equal(margin[: photograph.shape[0], -photograph.shape[1] :], photograph)


def test_effects_are_measured_for_every_change(grader: Grader) -> None:
    dataset = install_dataset("drawn")
    with pytest.raises(DatasetError, match="cannot be read"):  # the photographs it was made of are gone
        measure_interventions(grader, dataset, "all")
    progress: list[tuple[int, int]] = []
    with photographs_of(dataset):
        effects = measure_interventions(
            grader, dataset, "all", limit=6, on_progress=lambda done, total: progress.append((done, total))
        )
    assert [effect.name for effect in effects] == list(INTERVENTIONS)
    assert progress == [(6, 6)]
    for effect in effects:
        assert effect.num_photographs == 6 and effect.num_lost == 0
        assert effect.mean_change is not None and effect.mean_low is not None and effect.mean_high is not None
        assert 0 <= effect.mean_low <= effect.mean_change <= effect.mean_high <= 4
        assert effect.flip_fraction is not None and 0 <= effect.flip_fraction <= 1
    with pytest.raises(DatasetError, match="no graded photographs in the split 'nowhere'"):
        measure_interventions(grader, dataset, "nowhere")


def test_lesions_are_covered_and_as_much_elsewhere(grader: Grader, tmp_path: Path) -> None:
    eye = paint_lesions(healthy_eye(400), seed=1, microaneurysms=20, haemorrhages=12, exudates=12)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    Image.fromarray(eye.photograph).save(tmp_path / "images" / "eye.png")
    for kind, mask in (("HE", eye.masks.haemorrhages), ("EX", eye.masks.exudates)):
        Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "masks" / f"eye_{kind}.png")
    lesions, control = measure_lesions(grader, tmp_path)
    assert (lesions.name, control.name) == (LESIONS, CONTROL)
    assert lesions.num_photographs == control.num_photographs == 1
    assert lesions.mean_change is not None and lesions.mean_change > 0


def test_lesions_without_masks_are_an_error(grader: Grader, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no photographs with lesion masks"):
        measure_lesions(grader, tmp_path)
