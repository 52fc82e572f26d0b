"""Preprocessed images as tensors, and a data set's labeled images in memory: the one path from pixels to tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.data.pixel_cache import Pixels, load_decoded_images
from fundusgrade.errors import DatasetError
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.preprocess import canonical_outline
from fundusgrade.photographs.recipe import Outline

# Largest rotation of augmentation, in radians either way: any, as lesions look alike in every orientation.
ANY_ROTATION = math.pi
# A band that is rotated further leaves the rows that the network uses.
MAX_BAND_ROTATION = math.radians(20)

_CHUNK = 256
_PART = 512


class StoredImages(Protocol):
    """Images (M, 3, S, S) uint8 as a data set stores them, in memory or in files; a tensor is one."""

    @property
    def shape(self) -> torch.Size:
        """(M, 3, S, S)."""
        ...

    @property
    def device(self) -> torch.device:
        """Where images that are read are."""
        ...

    def __getitem__(self, positions: Tensor, /) -> Tensor:
        """The images (n, 3, S, S) at these positions (n,), which are on the same device, in memory of their own."""
        ...


class ImagesInFiles:
    """Images of a data set that stay in its files until they are read; no more than those are in memory."""

    def __init__(self, pixels: Pixels) -> None:
        self._pixels = pixels
        self.shape = torch.Size(pixels.shape)
        self.device = torch.device("cpu")

    def __getitem__(self, positions: Tensor, /) -> Tensor:
        return torch.from_numpy(self._pixels[positions.numpy()])


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledImages:
    """The preprocessed images of a split with their grades, and the limits of their augmentation."""

    stored: StoredImages
    """Images (M, 3, S, S) uint8 as a data set stores them, which may include others than the split's."""
    grades: Tensor
    """Grades (N,) int64; -1 where there is none."""
    fill: int
    """Gray value outside of the retina, 0 to 255."""
    indices: Tensor | None = None
    """Positions (N,) of the split's images in `stored`; all in their order if None."""
    max_rotation: float = ANY_ROTATION
    """Largest rotation in augmentation, in radians either way."""
    outline: Tensor | None = None
    """Pixels (S, S) that show retina, in images with the same outline for all; None where each has its own."""
    rows: tuple[int, int] | None = None
    """First row of an image that the network uses and the one after the last; all if None."""
    weights: Tensor | None = None
    """Weights (N,) of the images in the loss; equal if None."""
    targets: Tensor | None = None
    """Probabilities (N, 5) of the grades that the loss takes instead of them; None without."""
    degraded: StoredImages | None = None
    """The split's images (N, 3, S, S) uint8 in worse quality, used for half of the images of an epoch; None without."""

    def __len__(self) -> int:
        return len(self.grades)

    @property
    def pixels(self) -> Tensor:
        """All images of the split (N, 3, S, S) uint8, as a network gets them, in memory."""
        return self.select(torch.arange(len(self)))

    def select(self, chosen: Tensor) -> Tensor:
        """The images at these positions of the split (n, 3, S, S) uint8, as a network gets them, on their device."""
        images = self.select_stored(chosen)
        return images if self.outline is None else images.masked_fill_(~self.outline.to(images.device), self.fill)

    def select_stored(self, chosen: Tensor) -> Tensor:
        """The images at these positions of the split (n, 3, S, S) uint8, as stored, to be augmented."""
        indices = chosen if self.indices is None else self.indices[chosen]
        return self.stored[copy_to_device(indices, self.stored.device)]

    def to_device(self, device: torch.device) -> LabeledImages:
        """The same images, on a GPU if they need at most half of its free memory; degraded ones stay where they are."""
        if device.type != "cuda":
            return self
        shape = (len(self), *self.stored.shape[1:])
        if math.prod(shape) > torch.cuda.mem_get_info(device)[0] / 2:
            return self
        stored = torch.empty(shape, dtype=torch.uint8, device=device)
        for part in torch.split(torch.arange(len(self)), _CHUNK):
            stored[part[0] : part[-1] + 1] = self.select_stored(part)
        return replace(self, stored=stored, indices=None)


def load_images(dataset: PreparedDataset, rows: Sequence[ManifestRow]) -> LabeledImages:
    """The preprocessed images of these rows. Raises DatasetError where there are none or one is of another size."""
    if not rows:
        raise DatasetError(f"the data set {dataset.name!r} has no graded photographs in this split; see its manifest")
    decoded = load_decoded_images(dataset, rows)
    grades = torch.tensor([-1 if row.grade is None else int(row.grade) for row in rows])
    return LabeledImages(
        stored=ImagesInFiles(decoded.pixels),
        indices=torch.from_numpy(decoded.indices),
        grades=grades,
        fill=dataset.recipe.fill,
        max_rotation=MAX_BAND_ROTATION if dataset.recipe.outline is Outline.BAND else ANY_ROTATION,
        outline=torch.from_numpy(canonical_outline(dataset.recipe)) if dataset.recipe.has_fixed_outline else None,
    )


def pixels_in_parts(dataset: PreparedDataset, rows: Sequence[ManifestRow]) -> Iterator[Tensor]:
    """The images of these rows (n, 3, S, S) uint8 as a network gets them, as many at a time as fit into any memory.

    Parts are a multiple of the usual batch sizes, so that batches are those of all images at once. Raises DatasetError
    as `load_images`; of no rows there are no parts.
    """
    if rows:
        images = load_images(dataset, rows)
        for part in torch.split(torch.arange(len(rows)), _PART):
            yield images.select(part)


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor in page-locked memory, from which a GPU copies without waiting; the tensor itself for other devices."""
    return tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor


def copy_to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device, to a GPU asynchronously."""
    return pinned(tensor, device).to(device, non_blocking=device.type == "cuda")


def to_tensor(image: Image) -> Tensor:
    """A preprocessed image (S, S, 3) uint8 -> (3, S, S) float32 in [0, 1]."""
    return scale_pixels(to_pixels(image))


def to_pixels(image: Image) -> Tensor:
    """A preprocessed image (S, S, 3) uint8 -> (3, S, S) uint8, for batches that are scaled on the device."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def scale_pixels(pixels: Tensor) -> Tensor:
    """uint8 -> float32 in [0, 1], for one image or a batch, on any device."""
    return pixels.to(torch.float32).div_(255)
