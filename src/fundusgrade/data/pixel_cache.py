"""The pictures of a prepared data set decoded once and kept as one file of pixels, mapped into memory.

The file ends with a key of the manifest and of the picture files (name, size, times of change), so that a stale one is
never used. It is made again whenever that is so, and may be deleted.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fundusgrade import store
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.errors import DatasetError, StoreError, UnreadableImageError
from fundusgrade.files import TEMPORARY_SUFFIX, file_lock, open_atomically
from fundusgrade.photographs.images import read_image

_FORMAT = 1
_LARGEST_SHARE = 0.5  # a run must still find room for its own state
_THREADS = 4
_AT_ONCE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelCache:
    """Pictures in memory, perhaps a file's: `pixels` (M, 3, S, S) uint8, `positions` (N,) of the N that were wanted."""

    pixels: NDArray[np.uint8]
    positions: NDArray[np.int64]


def keep_pixels(dataset: PreparedDataset) -> str | None:
    """Write the file of pixels where there is no valid one; where that cannot be done, the reason in words.

    Several processes may do so at once.
    """
    try:
        for part in _parts(dataset):
            if _kept(part) is None:
                with file_lock(part.directory / store.PIXELS_FILE):
                    _write(part)
    except (StoreError, DatasetError) as error:
        return f"decoded pictures are not kept for the next run ({error})"
    return None


def load_pixels(dataset: PreparedDataset, rows: Sequence[ManifestRow]) -> PixelCache:
    """Pictures of these rows: from the kept file where there is a valid one, else decoded into memory.

    Raises DatasetError where a picture cannot be read or is of another size.
    """
    kept = {part.name: pixels for part in _parts(dataset) if (pixels := _kept(part)) is not None}
    places = {
        _path(part, row): (part.name, position)
        for part in _parts(dataset)
        if part.name in kept
        for position, row in enumerate(_imaged(part))
    }
    if not dataset.parts and kept:
        positions = np.array([places[_path(dataset, row)][1] for row in rows], np.int64)
        return PixelCache(pixels=kept[dataset.name], positions=positions)

    def load(row: ManifestRow) -> NDArray[np.uint8]:
        name, position = places.get(_path(dataset, row), ("", 0))
        return kept[name][position] if name else _read(dataset, row)

    side_px = dataset.recipe.size_px
    pixels = np.empty((len(rows), 3, side_px, side_px), np.uint8)
    _each(load, rows, lambda number, image: pixels.__setitem__(number, image))
    return PixelCache(pixels=pixels, positions=np.arange(len(rows)))


def _parts(dataset: PreparedDataset) -> tuple[PreparedDataset, ...]:
    return dataset.parts or (dataset,)


def _imaged(dataset: PreparedDataset) -> list[ManifestRow]:
    """The rows whose pictures the file holds, in its order."""
    return [row for row in dataset.rows if row.image]


def _path(dataset: PreparedDataset, row: ManifestRow) -> Path:
    return (dataset.directory / row.image).absolute()


def _each(
    load: Callable[[ManifestRow], NDArray[np.uint8]],
    rows: Sequence[ManifestRow],
    take: Callable[[int, NDArray[np.uint8]], object],
) -> None:
    """Load pictures in threads, and take them in order, so that only some wait at a time."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(rows), _AT_ONCE):
            for number, image in enumerate(pool.map(load, rows[start : start + _AT_ONCE]), start):
                take(number, image)


def _read(dataset: PreparedDataset, row: ManifestRow) -> NDArray[np.uint8]:
    """A picture (3, S, S)."""
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


def _kept(dataset: PreparedDataset) -> NDArray[np.uint8] | None:
    """The file's pixels (M, 3, S, S), mapped into memory; None where there is no file or it is stale."""
    path, side_px = dataset.directory / store.PIXELS_FILE, dataset.recipe.size_px
    shape = (len(_imaged(dataset)), 3, side_px, side_px)
    try:
        with path.open("rb") as file:
            file.seek(int(np.prod(shape)))
            if file.read() != _key(dataset):
                return None
            # Pages of its own where it is written to, which nobody does: PyTorch wants no read-only memory.
            return np.memmap(file, np.uint8, mode="c", shape=shape)
    except (OSError, ValueError):
        return None


def _write(dataset: PreparedDataset) -> None:
    """Write the file, unless another process did so meanwhile. Raises StoreError, DatasetError where it cannot be."""
    if _kept(dataset) is not None:
        return
    for left in dataset.directory.glob(f".{store.PIXELS_FILE}.*{TEMPORARY_SUFFIX}"):  # by a process that was killed
        left.unlink(missing_ok=True)
    num_bytes = len(_imaged(dataset)) * 3 * dataset.recipe.size_px**2
    if num_bytes > shutil.disk_usage(dataset.directory).free * _LARGEST_SHARE:
        raise StoreError(f"they take {num_bytes / 1e9:.1f} GB, more than half of what is free on the disk")
    try:
        key = _key(dataset)
    except OSError as error:
        raise DatasetError(f"{error.filename}: {error.strerror}") from error
    with open_atomically(dataset.directory / store.PIXELS_FILE) as file:
        _each(lambda row: _read(dataset, row), _imaged(dataset), lambda _, image: file.write(image.data))
        file.write(key)


def _key(dataset: PreparedDataset) -> bytes:
    digest = hashlib.sha256(f"{_FORMAT} {dataset.hash} {dataset.recipe.size_px}".encode())
    for row in _imaged(dataset):
        status = _path(dataset, row).stat()
        digest.update(f"{row.image} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n".encode())
    return digest.digest()
