"""The pixel cache: a prepared data set's images, decoded once into one file that is mapped into memory.

The file ends with a hash of the manifest and of the image files (name, size, times of change), so that an outdated one
is never used. It is rewritten when outdated, and may be deleted.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fundusgrade import store
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.errors import DatasetError, StoreError, UnreadableImageError
from fundusgrade.files import TEMPORARY_SUFFIX, file_lock, open_atomically
from fundusgrade.photographs.images import read_image
from fundusgrade.text import error_text

_FORMAT = 1
_MAX_DISK_FRACTION = 0.5  # a training run also needs space for its own files
_NUM_THREADS = 4
_BLOCK_IMAGES = 256
_MAX_BYTES_IN_MEMORY = 500_000_000


class Pixels(Protocol):
    """Images (M, 3, S, S) uint8 RGB that are read by their positions (n,); an array of NumPy is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(M, 3, S, S)."""
        ...

    def __getitem__(self, positions: NDArray[np.int64], /) -> NDArray[np.uint8]:
        """The images (n, 3, S, S) at these positions, in memory."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedImages:
    """The images of some rows of a data set, which stay in their files where those are mapped into memory."""

    pixels: Pixels
    """(M, 3, S, S), RGB; it may hold other images of the data set too."""
    indices: NDArray[np.int64]
    """(N,): where in `pixels` the image of each row is."""


def write_pixel_cache(dataset: PreparedDataset) -> str | None:
    """Write the pixel cache where there is no valid one; where that is not possible, return the reason.

    Several processes may call this at once.
    """
    try:
        for part in _parts(dataset):
            if _open_cache(part) is None:
                with file_lock(part.directory / store.PIXELS_FILE):
                    _write(part)
    except (StoreError, DatasetError) as error:
        return f"no pixel cache is written, so the next run decodes all images again ({error})"
    return None


def load_decoded_images(dataset: PreparedDataset, rows: Sequence[ManifestRow]) -> DecodedImages:
    """The images of these rows: from the pixel caches where those are valid, of each data set of a concatenation.

    Without a cache they are decoded into memory where they are few, and else whenever they are read. Raises
    DatasetError where an image cannot be read or has another size than the recipe's, with the last also in reading.
    """
    by_part: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        by_part.setdefault((row.origin or "") if dataset.parts else dataset.name, []).append(number)
    opened: list[Pixels] = []
    indices, num_before = np.empty(len(rows), np.int64), 0
    for part in _parts(dataset):
        if own := by_part.get(part.name):
            images = _open_images(part, dataset, [rows[number] for number in own])
            indices[own] = num_before + images.indices
            num_before += images.pixels.shape[0]
            opened.append(images.pixels)
    return DecodedImages(pixels=opened[0] if len(opened) == 1 else _Concatenated(opened), indices=indices)


def _open_images(part: PreparedDataset, dataset: PreparedDataset, rows: Sequence[ManifestRow]) -> DecodedImages:
    """The images of rows of `dataset` that belong to one of its parts."""
    if (cache := _open_cache(part)) is not None:
        place = {_path(part, row): index for index, row in enumerate(_rows_with_image(part))}
        return DecodedImages(pixels=cache, indices=np.array([place[_path(dataset, row)] for row in rows], np.int64))
    encoded = _Encoded(dataset, rows)
    positions = np.arange(len(rows))
    fits = math.prod(encoded.shape) <= _MAX_BYTES_IN_MEMORY
    return DecodedImages(pixels=encoded[positions] if fits else encoded, indices=positions)


class _Concatenated:
    """The images of several data sets, one after the other."""

    def __init__(self, parts: Sequence[Pixels]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(part.shape[0] for part in parts)])
        self.shape = (int(self._starts[-1]), *parts[0].shape[1:])

    def __getitem__(self, positions: NDArray[np.int64], /) -> NDArray[np.uint8]:
        images = np.empty((len(positions), *self.shape[1:]), np.uint8)
        part_of = np.searchsorted(self._starts, positions, side="right") - 1
        for number in np.unique(part_of):
            is_own = part_of == number
            images[is_own] = self._parts[number][positions[is_own] - self._starts[number]]
        return images


class _Encoded:
    """Images that are decoded from their files whenever they are read: no memory holds all of them."""

    def __init__(self, dataset: PreparedDataset, rows: Sequence[ManifestRow]) -> None:
        self._dataset, self._rows = dataset, rows
        self.shape = (len(rows), 3, dataset.recipe.size_px, dataset.recipe.size_px)

    def __getitem__(self, positions: NDArray[np.int64], /) -> NDArray[np.uint8]:
        images = np.empty((len(positions), *self.shape[1:]), np.uint8)
        rows = [self._rows[position] for position in positions]
        _load_in_order(
            lambda row: _read(self._dataset, row), rows, lambda number, image: images.__setitem__(number, image)
        )
        return images


def _parts(dataset: PreparedDataset) -> tuple[PreparedDataset, ...]:
    return dataset.parts or (dataset,)


def _rows_with_image(dataset: PreparedDataset) -> list[ManifestRow]:
    """The rows whose images are in the cache, in its order."""
    return [row for row in dataset.rows if row.image]


def _path(dataset: PreparedDataset, row: ManifestRow) -> Path:
    return (dataset.directory / row.image).absolute()


def _load_in_order(
    load: Callable[[ManifestRow], NDArray[np.uint8]],
    rows: Sequence[ManifestRow],
    store_image: Callable[[int, NDArray[np.uint8]], object],
) -> None:
    """Load images in threads and store them in order; only a block of them is in memory at a time."""
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for start in range(0, len(rows), _BLOCK_IMAGES):
            for number, image in enumerate(pool.map(load, rows[start : start + _BLOCK_IMAGES]), start):
                store_image(number, image)


def _read(dataset: PreparedDataset, row: ManifestRow) -> NDArray[np.uint8]:
    """Decode an image, (3, S, S)."""
    side_px = dataset.recipe.size_px
    try:
        image = read_image(dataset.directory / row.image)
    except UnreadableImageError as error:
        raise DatasetError(
            f"{row.image} of the data set {dataset.name!r}: {error}; run `fundusgrade preprocess` again"
        ) from error
    if image.shape != (side_px, side_px, 3):
        raise DatasetError(
            f"{row.image} is {image.shape[1]} x {image.shape[0]} px, expected {side_px} x {side_px}; "
            "run `fundusgrade preprocess` again"
        )
    return np.ascontiguousarray(image.transpose(2, 0, 1))


def _open_cache(dataset: PreparedDataset) -> NDArray[np.uint8] | None:
    """The pixel cache (M, 3, S, S), mapped into memory; None where there is no file or it is outdated."""
    path, side_px = dataset.directory / store.PIXELS_FILE, dataset.recipe.size_px
    shape = (len(_rows_with_image(dataset)), 3, side_px, side_px)
    try:
        with path.open("rb") as file:
            file.seek(int(np.prod(shape)))
            if file.read() != _key(dataset):
                return None
            return np.memmap(file, np.uint8, mode="r", shape=shape)
    except (OSError, ValueError):
        return None


def _write(dataset: PreparedDataset) -> None:
    """Write the file, unless another process has done so meanwhile. Raises StoreError or DatasetError."""
    if _open_cache(dataset) is not None:
        return
    for unfinished in dataset.directory.glob(f".{store.PIXELS_FILE}.*{TEMPORARY_SUFFIX}"):  # of a killed process
        unfinished.unlink(missing_ok=True)
    num_bytes = len(_rows_with_image(dataset)) * 3 * dataset.recipe.size_px**2
    if num_bytes > shutil.disk_usage(dataset.directory).free * _MAX_DISK_FRACTION:
        raise StoreError(f"it needs {num_bytes / 1e9:.1f} GB, more than half of the free disk space")
    try:
        key = _key(dataset)
    except OSError as error:
        raise DatasetError(f"{error.filename}: {error_text(error)}; run `fundusgrade preprocess` again") from error
    with open_atomically(dataset.directory / store.PIXELS_FILE) as file:
        _load_in_order(
            lambda row: _read(dataset, row), _rows_with_image(dataset), lambda _, image: file.write(image.data)
        )
        file.write(key)


def _key(dataset: PreparedDataset) -> bytes:
    """A hash of everything that the pixels depend on, 32 bytes."""
    digest = hashlib.sha256(f"{_FORMAT} {dataset.hash} {dataset.recipe.size_px}".encode())
    for row in _rows_with_image(dataset):
        status = _path(dataset, row).stat()
        digest.update(f"{row.image} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n".encode())
    return digest.digest()
