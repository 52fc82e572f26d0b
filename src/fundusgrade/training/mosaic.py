"""A mosaic of the first augmented training images: the input of the network, for visual inspection."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from torchvision.utils import make_grid  # type: ignore[import-untyped]

from fundusgrade.files import make_folder
from fundusgrade.networks.tensors import LabeledImages
from fundusgrade.photographs.images import write_image
from fundusgrade.photographs.pixels import Image
from fundusgrade.training.batches import training_batches
from fundusgrade.training.options import TrainOptions

TRAIN_BATCH_FILE = "train_batch.jpg"
NUM_IMAGES = 64
MAX_CELL_PX = 192
_IMAGES_PER_ROW = 8
_BORDER_PX = 2


def save_train_batch(training: LabeledImages, options: TrainOptions, device: torch.device, directory: Path) -> None:
    """Write the mosaic into a run's directory."""
    make_folder(directory)
    write_image(directory / TRAIN_BATCH_FILE, train_batch_mosaic(training, options, device))


def train_batch_mosaic(training: LabeledImages, options: TrainOptions, device: torch.device) -> Image:
    """The first images of the first epoch, row by row as the batches hold them, as one image (H, W, 3).

    There are up to `NUM_IMAGES` of them, each at most `MAX_CELL_PX` wide, with augmentation, degradation and mixup.
    """
    batches = training_batches(
        training, options.batch_size, seed=options.seed, epoch=1, device=device, mixup=options.mixup
    )
    first = islice(batches, -(-NUM_IMAGES // options.batch_size))
    images = torch.cat([batch.images.cpu() for batch in first])[:NUM_IMAGES]
    if (width := images.shape[3]) > MAX_CELL_PX:
        scale = MAX_CELL_PX / width
        images = functional.interpolate(images, scale_factor=scale, mode="bilinear", antialias=True)
    grid = make_grid(images.clamp(0, 1), nrow=_IMAGES_PER_ROW, padding=_BORDER_PX, pad_value=1.0)
    return np.ascontiguousarray((grid * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
