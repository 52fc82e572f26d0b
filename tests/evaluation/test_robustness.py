"""Effects of interventions: a model that reads geometry is caught, one that reads a lesion is not blamed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.labels import find_samples
from fundusgrade.data.prepare import prepare_dataset
from fundusgrade.errors import DatasetError
from fundusgrade.evaluation.audit import audit_dataset
from fundusgrade.evaluation.interventions import INTERVENTIONS, Role
from fundusgrade.evaluation.robustness import (
    LESIONS,
    LESIONS_CONTROL,
    InterventionEffect,
    measure_interventions,
    measure_lesions,
)
from fundusgrade.grading.grader import Grader
from fundusgrade.networks.checkpoint import Checkpoint, load_checkpoint
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.torch_runtime import on_pytorch
from fundusgrade.options import DeviceName, Precision
from fundusgrade.photographs.recipe import BAND_FRACTION, Method, Outline, PreprocessRecipe
from tests.drawn_eyes import healthy_eye, paint_lesions, plain_retina
from tests.models_for_tests import install_dataset, install_model, photographs_of
from tests.white_spots import CPU, eye_with_white_spot


@pytest.fixture
def grader() -> Grader:
    torch.set_num_threads(1)
    install_model()
    return Grader.load("tiny", device=DeviceName.CPU, precision=Precision.FLOAT32)


def test_effects_are_measured_for_every_change(grader: Grader) -> None:
    dataset = install_dataset("drawn")
    with pytest.raises(DatasetError, match="cannot be read"):  # the photographs it was made of are gone
        measure_interventions(grader, dataset, "all")
    progress: list[tuple[int, int]] = []
    with photographs_of(dataset):
        effects = measure_interventions(
            grader, dataset, "all", limit=6, on_progress=lambda done, total: progress.append((done, total))
        )
    assert [effect.name for effect in effects] == [intervention.name for intervention in INTERVENTIONS]
    assert progress == [(6, 6)]
    for effect in effects:
        assert effect.num_photographs == 6 and effect.num_lost == 0
        assert effect.change.value is not None and effect.change.low is not None and effect.change.high is not None
        assert 0 <= effect.change.low <= effect.change.value <= effect.change.high <= 4
        assert effect.shift.value is not None and abs(effect.shift.value) <= effect.change.value + 1e-12
        assert effect.flip_fraction is not None and 0 <= effect.flip_fraction <= 1
        assert effect.outline_change.value is None, "no such classifier was given"
    with pytest.raises(DatasetError, match="no graded photographs in the split 'nowhere'"):
        measure_interventions(grader, dataset, "nowhere")


# A model that is known to use geometry, and one that is known to read a lesion


class DarkAboveAndBelow(nn.Module):
    """Sees disease where the image is dark far above and below its center: in photographs that were cut there."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        height, radius = images.shape[2], images.shape[2] / 2
        up = (torch.arange(height) - (height - 1) / 2).abs() / radius
        middle = slice(height // 2 - 5, height // 2 + 5)
        far = images[:, :, (up > 0.55) & (up < 0.9)][..., middle]
        brightness = far.mean(dim=(1, 2, 3)) - images[:, :, middle, middle].mean(dim=(1, 2, 3))
        disease = 40 * (-0.15 - brightness)
        zero = torch.zeros_like(disease)
        return torch.stack([zero, zero - 99, zero - 99, zero - 99, disease], dim=1)


class WhiteSpot(nn.Module):
    """Sees disease where blue is anywhere brighter than in a retina: in a white spot."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        disease = 40 * (images[:, 2].amax(dim=(1, 2)) - 0.7)
        zero = torch.zeros_like(disease)
        return torch.stack([zero, zero - 99, zero - 99, zero - 99, disease], dim=1)


def grader_of(backbone: nn.Module, outline: Outline) -> Grader:
    """A model of which it is known what it reads, with a recipe of this outline."""
    checkpoint = load_checkpoint(install_model("known"))
    recipe = PreprocessRecipe(method=Method.NATURAL, outline=outline, size_px=128)
    spec = replace(checkpoint.network.spec, size_px=128, mean=(0.0,) * 3, std=(1.0,) * 3, rows=None)
    known = Checkpoint(
        description=replace(checkpoint.description, network=spec, recipe=recipe),
        network=GradingNetwork(spec, backbone).eval(),
        fingerprints=checkpoint.fingerprints,
    )
    return Grader(on_pytorch(known, CPU))


def eyes(folder: Path, num_eyes: int, *, with_spots: bool) -> PreparedDataset:
    """A data set of whole drawn eyes."""
    for seed in range(num_eyes):
        photograph = plain_retina(256, seed).photograph
        if with_spots:
            photograph = eye_with_white_spot(0.3 * np.cos(seed), 0.3 * np.sin(seed)).photograph
        path = folder / str(seed % 5) / f"{seed}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph).save(path)
    recipe = PreprocessRecipe(method=Method.NATURAL, size_px=64)
    return prepare_dataset(find_samples([folder]), name="eyes", recipe=recipe, num_workers=1)


def by_name(effects: tuple[InterventionEffect, ...]) -> dict[str, InterventionEffect]:
    return {effect.name: effect for effect in effects}


def test_a_model_that_reads_geometry_is_caught_where_it_can_see_it(tmp_path: Path) -> None:
    dataset = eyes(tmp_path, 8, with_spots=False)
    disc = measure_interventions(grader_of(DarkAboveAndBelow(), Outline.DISC), dataset, "all")
    for effect in disc:
        assert effect.change.value is not None and effect.shift.value is not None
        if effect.cut_fraction is not None:
            assert effect.role is Role.ACQUISITION
            assert effect.change.value > 0.5 and effect.shift.value > 0.5, f"{effect.name}: cuts look like disease"
            assert effect.flip_fraction is not None and effect.flip_fraction > 0.5
        elif effect.name == "margin on two sides":
            assert effect.role is Role.NEGATIVE_CONTROL and effect.change.value < 0.05
    band = measure_interventions(grader_of(DarkAboveAndBelow(), Outline.BAND), dataset, "all")
    for effect in band:
        if effect.role is Role.NEGATIVE_CONTROL:
            assert effect.change.value is not None and effect.change.value < 0.1
        if effect.cut_fraction is not None:
            assert (effect.role is Role.NEGATIVE_CONTROL) == (effect.cut_fraction > BAND_FRACTION)


def test_a_model_that_reads_a_lesion_reacts_to_the_positive_control_only(tmp_path: Path) -> None:
    grader = grader_of(WhiteSpot(), Outline.BAND)
    effects = by_name(measure_interventions(grader, eyes(tmp_path, 6, with_spots=True), "all"))
    positive = effects["blurred until no lesion is left"]
    assert positive.role is Role.POSITIVE_CONTROL
    assert positive.change.value is not None and positive.shift.value is not None
    assert positive.change.value > 1 and positive.shift.value < -1
    for name in ("margin on two sides", "cut at 0.75 of the radius", "cut at 0.50 of the radius"):
        found = effects[name].change.value
        assert found is not None and found < 0.2 * positive.change.value


def test_an_audit_shows_the_same_changes_to_a_classifier_that_reads_only_the_outline(tmp_path: Path) -> None:
    """Of 60 eyes those of the higher grades are cut; cutting the others turns them into such for that classifier."""
    for seed in range(60):
        photograph = plain_retina(128, seed).photograph
        path = tmp_path / str(seed % 5) / f"{seed}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph[22:106] if seed % 5 > 2 else photograph).save(path)
    recipe = PreprocessRecipe(method=Method.NATURAL, size_px=64)
    dataset = prepare_dataset(find_samples([tmp_path]), name="eyes", recipe=recipe, num_workers=1)
    (audit,) = audit_dataset(dataset, [grader_of(WhiteSpot(), Outline.BAND)], "all", limit=20)
    assert audit.reach == pytest.approx(BAND_FRACTION, abs=0.01), "that of the model's recipe"
    effects = by_name(audit.effects)
    cut, margin = effects["cut at 0.65 of the radius"], effects["darkened (x 0.7)"]
    assert cut.outline_change.value is not None and margin.outline_change.value is not None
    assert cut.outline_change.value > 1 > 0.5 > margin.outline_change.value
    assert cut.change.value is not None and cut.change.value < 0.3, "the model reads something else"


def test_lesions_are_covered_and_as_much_elsewhere(grader: Grader, tmp_path: Path) -> None:
    eye = paint_lesions(healthy_eye(400), seed=1, microaneurysms=20, haemorrhages=12, exudates=12)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    Image.fromarray(eye.photograph).save(tmp_path / "images" / "eye.png")
    for kind, mask in (("HE", eye.masks.haemorrhages), ("EX", eye.masks.exudates)):
        Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "masks" / f"eye_{kind}.png")
    lesions, control = measure_lesions(grader, tmp_path)
    assert (lesions.name, lesions.role) == (LESIONS, Role.POSITIVE_CONTROL)
    assert (control.name, control.role) == (LESIONS_CONTROL, Role.NEGATIVE_CONTROL)
    assert lesions.num_photographs == control.num_photographs == 1
    assert lesions.change.value is not None and lesions.change.value > 0


def test_lesions_without_masks_are_an_error(grader: Grader, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no photographs with lesion masks"):
        measure_lesions(grader, tmp_path)
