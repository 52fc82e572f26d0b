"""`train_batch.jpg` shows what the network is trained on: the first augmented images, once for each run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fundusgrade.networks.device import choose_device
from fundusgrade.networks.tensors import LabeledImages
from fundusgrade.options import DeviceName, Precision
from fundusgrade.photographs.images import read_image
from fundusgrade.training.batches import training_batches
from fundusgrade.training.loop import train
from fundusgrade.training.mosaic import MAX_CELL_PX, NUM_IMAGES, TRAIN_BATCH_FILE, train_batch_mosaic
from fundusgrade.training.options import TrainOptions
from tests.prepared import prepared_dataset
from tests.training.short_runs import CtrlC, Quiet

CPU = torch.device("cpu")
OPTIONS = TrainOptions(arch="cnn", epochs=2, batch_size=8, mixup=0.3)
BORDER_PX = 2


def noise(count: int, size_px: int) -> LabeledImages:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, size_px, size_px), dtype=torch.uint8, generator=generator)
    return LabeledImages(stored=pixels, grades=torch.arange(count) % 5, fill=0)


def test_the_mosaic_shows_the_augmented_images_of_the_first_batches_in_rows_of_eight() -> None:
    training = noise(20, 32)
    mosaic = train_batch_mosaic(training, OPTIONS, CPU)
    assert mosaic.dtype == np.uint8
    assert mosaic.shape == (2 * 34 + BORDER_PX, 8 * 34 + BORDER_PX, 3), "two whole batches of eight"
    batches = training_batches(training, 8, seed=0, epoch=1, device=CPU, mixup=0.3)
    images = torch.cat([batch.images for batch in batches])
    for number, image in enumerate(images):
        top, left = (BORDER_PX + 34 * part for part in divmod(number, 8))
        cell = mosaic[top : top + 32, left : left + 32]
        assert np.array_equal(cell, (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
        assert not any(np.array_equal(cell, stored.permute(1, 2, 0).numpy()) for stored in training.pixels)


@pytest.mark.parametrize("batch_size", [30, 100])
def test_large_images_are_reduced_and_many_left_out(batch_size: int) -> None:
    mosaic = train_batch_mosaic(noise(100, 200), replace(OPTIONS, batch_size=batch_size), CPU)
    side = 8 * (MAX_CELL_PX + BORDER_PX) + BORDER_PX
    assert NUM_IMAGES == 64
    assert mosaic.shape == (side, side, 3)


def test_a_run_writes_its_mosaic_once(tmp_path: Path) -> None:
    dataset, choice = prepared_dataset(tmp_path / "toy"), choose_device(DeviceName.CPU, Precision.FLOAT32)
    train(dataset, OPTIONS, choice, tmp_path / "run", observer=CtrlC(2, 1))
    path = tmp_path / "run" / TRAIN_BATCH_FILE
    assert read_image(path).shape == (5 * 34 + BORDER_PX, 8 * 34 + BORDER_PX, 3)
    path.write_bytes(b"of the first start")
    train(dataset, OPTIONS, choice, tmp_path / "run", observer=Quiet(), resume=True)
    assert path.read_bytes() == b"of the first start"
