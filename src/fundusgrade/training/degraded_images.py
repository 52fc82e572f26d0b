"""The degraded images of a training split: made when a batch first needs them, then kept in a file without a name.

A degraded image follows from the seed and the photograph's number alone, so that it is the same whenever it is made.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.errors import StoreError
from fundusgrade.files import make_folder
from fundusgrade.networks.tensors import LabeledImages, to_pixels
from fundusgrade.text import error_text
from fundusgrade.training.degrade import degraded_image, find_photographs
from fundusgrade.training.distributed import process_group

_MAX_DISK_FRACTION = 0.5  # a training run also needs space for its own files


class DegradedImages:
    """Degraded versions (N, 3, S, S) uint8 of the images of a split, for several threads at once.

    Where no retina is found after degrading, it is the image itself. `plain` are the images of `rows`. With a `folder`
    that has the space, images are kept in a file there, which has no name and vanishes with the process; else they are
    made anew whenever they are needed. Raises DatasetError where a photograph was moved or deleted, StoreError where
    the folder cannot be written.
    """

    def __init__(
        self,
        plain: LabeledImages,
        dataset: PreparedDataset,
        rows: Sequence[ManifestRow],
        *,
        seed: int,
        folder: Path | None = None,
    ) -> None:
        self._paths = find_photographs(dataset, rows)
        self._plain, self._recipe, self._seed = plain, dataset.recipe, seed
        self.shape = torch.Size((len(rows), *plain.stored.shape[1:]))
        self.device = torch.device("cpu")
        self._kept: _KeptImages | None = None
        if folder is not None and _fits_on_disk(len(rows), dataset, folder):
            self._kept = _KeptImages(self.shape, folder)

    def __getitem__(self, positions: Tensor, /) -> Tensor:
        return torch.from_numpy(np.stack([self._image(int(position)) for position in positions]))

    def _image(self, position: int) -> NDArray[np.uint8]:
        """One image (3, S, S). Threads that need the same one at the same time make the same one."""
        if self._kept is not None and self._kept.has[position]:
            return self._kept.read(position)
        made = degraded_image(self._paths[position], self._recipe, seed=(self._seed, position))
        pixels = self._plain.select_stored(torch.tensor([position]))[0].cpu() if made is None else to_pixels(made)
        image: NDArray[np.uint8] = np.ascontiguousarray(pixels.numpy())
        if self._kept is not None:
            self._kept.write(position, image)
        return image


def describe_too_little_space(dataset: PreparedDataset, folder: Path) -> str | None:
    """A line for people where a training split's degraded images do not fit into the folder of its run, else None."""
    num_images = len(dataset.graded_rows("train"))
    if _fits_on_disk(num_images, dataset, folder):
        return None
    return (
        f"degraded images are made anew in every epoch, which takes longer: to keep them needs "
        f"{_num_bytes(num_images, dataset) / 1e9:.1f} GB, more than half of the free disk space in {folder}"
    )


def _fits_on_disk(num_images: int, dataset: PreparedDataset, folder: Path) -> bool:
    """Whether images need at most half of the free space of a folder, which is made. Raises StoreError."""
    make_folder(folder)
    return _num_bytes(num_images, dataset) <= shutil.disk_usage(folder).free * _MAX_DISK_FRACTION


def _num_bytes(num_images: int, dataset: PreparedDataset) -> int:
    """What images of a data set take, in a file for each process."""
    return num_images * 3 * dataset.recipe.size_px**2 * process_group().size


class _KeptImages:
    """Images of one shape in a file without a name, of which `has` (N,) says which have been written."""

    def __init__(self, shape: Sequence[int], folder: Path) -> None:
        self._folder, self._shape = folder, tuple(shape[1:])
        self._file = tempfile.TemporaryFile("w+b", dir=folder)  # noqa: SIM115  (closed with this object)
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        self.has = np.zeros(shape[0], bool)

    def read(self, position: int) -> NDArray[np.uint8]:
        size = math.prod(self._shape)
        with self._lock:
            self._file.seek(position * size)
            content = self._file.read(size)
        return np.frombuffer(content, np.uint8).reshape(self._shape)

    def write(self, position: int, image: NDArray[np.uint8]) -> None:
        try:
            with self._lock:
                self._file.seek(position * image.nbytes)
                self._file.write(image.data)
                self._file.flush()
        except OSError as error:
            raise StoreError(
                f"degraded images cannot be kept in {self._folder}: {error_text(error)}; free some space and continue "
                "with --resume"
            ) from error
        self.has[position] = True
