"""Progressive resizing: smaller images first, the full size in the end, and the same part of the retina in all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fundusgrade.errors import TrainingError
from fundusgrade.networks.device import choose_device
from fundusgrade.networks.tensors import LabeledImages
from fundusgrade.options import DeviceName, Precision
from fundusgrade.photographs.preprocess import canonical_outline
from fundusgrade.photographs.recipe import Outline, PreprocessRecipe
from fundusgrade.training.batches import training_batches
from fundusgrade.training.options import TrainOptions
from fundusgrade.training.resizing import epoch_size_px, scaled_frame
from fundusgrade.training.state import start_run
from tests.prepared import prepared_dataset


def test_sizes_rise_to_the_full_size_in_three_stages() -> None:
    assert [epoch_size_px(288, epoch, 10) for epoch in range(1, 11)] == [192] * 4 + [256] * 3 + [288] * 3
    assert [epoch_size_px(224, epoch, 10) for epoch in range(1, 11)] == [160] * 4 + [192] * 3 + [224] * 3
    for num_epochs in range(1, 30):
        sizes = [epoch_size_px(300, epoch, num_epochs) for epoch in range(1, num_epochs + 1)]
        assert sizes == sorted(sizes)
        assert num_epochs < 4 or sizes[-1] == 300
    assert epoch_size_px(32, 1, 10) == 32


@pytest.mark.parametrize("size_px", [192, 240, 256, None])
def test_smaller_images_show_the_same_part_of_the_retina(size_px: int | None) -> None:
    recipe = PreprocessRecipe(outline=Outline.BAND, size_px=288)
    outline = torch.from_numpy(canonical_outline(recipe))
    images = LabeledImages(
        stored=torch.zeros(1, 3, 288, 288, dtype=torch.uint8),
        grades=torch.zeros(1, dtype=torch.int64),
        fill=128,
        rows=(32, 256),
        outline=outline,
    )
    frame = scaled_frame(images, size_px, torch.device("cpu"))
    rows, scaled = frame.rows, frame.outline
    assert rows is not None and scaled is not None
    if size_px is None:
        assert rows == (32, 256) and scaled.equal(outline)
        return
    assert (rows[1] - rows[0]) % 16 == 0 and rows[0] + rows[1] == size_px
    assert abs((rows[1] - rows[0]) / size_px - 224 / 288) < 8.1 / size_px
    expected = canonical_outline(replace(recipe, size_px=size_px))
    assert (scaled.numpy() != expected).mean() < 0.02


def test_batches_have_the_size_of_their_epoch_and_the_colors_of_the_full_images() -> None:
    stored = torch.arange(40, 200, 20, dtype=torch.uint8)[:, None, None, None].expand(8, 3, 96, 96).contiguous()
    images = LabeledImages(stored=stored, grades=torch.arange(8), fill=128, rows=(16, 80))
    (full,) = training_batches(images, 8, seed=0, epoch=1, device=torch.device("cpu"))
    (small,) = training_batches(images, 8, seed=0, epoch=1, device=torch.device("cpu"), size_px=64)
    assert full.images.shape == (8, 3, 64, 96) and small.images.shape == (8, 3, 48, 64)
    middle = (small.images[:, :, 20:28, 28:36].mean(dim=(2, 3)), full.images[:, :, 28:36, 44:52].mean(dim=(2, 3)))
    assert torch.allclose(*middle, atol=1e-5), "the same augmentation"


def test_a_network_of_one_input_size_is_refused_before_training(tmp_path: Path) -> None:
    recipe = PreprocessRecipe(size_px=96)
    dataset = prepared_dataset(tmp_path / "toy", num_train=4, num_validation=4, recipe=recipe)
    options = TrainOptions(arch="vit_tiny_patch16_224", pretrained=False, progressive=True).filled()
    with pytest.raises(TrainingError, match="takes images of one size only; train it without --progressive"):
        start_run(dataset, options, choose_device(DeviceName.CPU, Precision.FLOAT32), resume=False)
