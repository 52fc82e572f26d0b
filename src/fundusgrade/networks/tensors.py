"""Preprocessed images as tensors, and a data set's labeled images in memory: the one path from pixels to tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.data.pixel_cache import load_decoded_images
from fundusgrade.errors import DatasetError
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.recipe import Outline

# How far augmentation goes. Retinas have no up or down for a lesion, and cameras differ in light, color and distance.
ANY_TURN = math.pi
# A band that is turned far is no longer where the network looks.
BAND_TURN = math.radians(20)

_AT_ONCE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledImages:
    """A split: where its pictures are, its `grades` (N,) int64, and the gray value around the retina.

    `stored` (M, 3, S, S) uint8 may hold others too and lie in a file; `index` (N,) says which of them are the split's,
    all where there is none. `max_turn` is how far a picture may be turned without losing what it shows, in radians.
    `rows` are those that batches hold, all where there are none. `weights` (N,) say how much each picture counts in the
    loss; all count alike where there are none. `degraded` (N, 3, S, S) are the same pictures as a worse camera would
    show them; where there are any, half of the pictures of an epoch come from them.
    """

    stored: Tensor
    grades: Tensor
    fill: int
    index: Tensor | None = None
    max_turn: float = ANY_TURN
    rows: tuple[int, int] | None = None
    weights: Tensor | None = None
    degraded: Tensor | None = None

    def __len__(self) -> int:
        return len(self.grades)

    @property
    def pixels(self) -> Tensor:
        """All pictures of the split (N, 3, S, S) uint8, in memory."""
        return self.at(torch.arange(len(self)))

    def at(self, chosen: Tensor) -> Tensor:
        """The pictures at these positions of the split (n, 3, S, S) uint8, where they are stored."""
        index = chosen if self.index is None else self.index[chosen]
        return self.stored[send(index, self.stored.device)]

    def on(self, device: torch.device) -> LabeledImages:
        """The same, on a GPU if its pictures take at most half of the memory that is free there."""
        if device.type != "cuda":
            return self
        shape = (len(self), *self.stored.shape[1:])
        copies = 1 if self.degraded is None else 2
        if copies * math.prod(shape) > torch.cuda.mem_get_info(device)[0] / 2:
            return self
        stored = torch.empty(shape, dtype=torch.uint8, device=device)
        for part in torch.split(torch.arange(len(self)), _AT_ONCE):
            stored[part[0] : part[-1] + 1] = self.at(part)
        degraded = None if self.degraded is None else self.degraded.to(device)
        return replace(self, stored=stored, index=None, degraded=degraded)


def load_images(dataset: PreparedDataset, rows: Sequence[ManifestRow]) -> LabeledImages:
    """The pictures of these rows. Raises DatasetError where there are none or one is of another size."""
    if not rows:
        raise DatasetError(f"the data set {dataset.name!r} has no graded photographs in this split; see its manifest")
    decoded = load_decoded_images(dataset, rows)
    grades = torch.tensor([-1 if row.grade is None else int(row.grade) for row in rows])
    return LabeledImages(
        stored=torch.from_numpy(decoded.pixels),
        index=torch.from_numpy(decoded.indices),
        grades=grades,
        fill=dataset.recipe.fill,
        max_turn=BAND_TURN if dataset.recipe.outline is Outline.BAND else ANY_TURN,
    )


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Put a tensor on a device without waiting for what the device is doing."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_tensor(image: Image) -> Tensor:
    """A preprocessed picture (S, S, 3) uint8 -> (3, S, S) float32 in [0, 1]. The only way from pixels to a tensor."""
    return scale_pixels(to_pixels(image))


def to_pixels(image: Image) -> Tensor:
    """A preprocessed picture (S, S, 3) uint8 -> (3, S, S) uint8, for batches that are scaled on the device."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def scale_pixels(pixels: Tensor) -> Tensor:
    """uint8 -> float32 in [0, 1], for one picture or a batch, on any device."""
    return pixels.to(torch.float32).div_(255)
