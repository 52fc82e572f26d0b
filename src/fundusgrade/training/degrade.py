"""Degraded copies of photographs: downscaled, blurred and JPEG-compressed, as in other cameras and archives.

Networks trained on one archive adapt to its sharpness and compression, and lose accuracy where those differ
(docs/guides/audit.md). Photographs are degraded before preprocessing, which amplifies the blocks of JPEG.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.errors import DatasetError, UngradableError, UnreadableImageError
from fundusgrade.photographs.decoding import decode_image
from fundusgrade.photographs.images import encode_jpeg, read_image
from fundusgrade.photographs.loading import load_pixels
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.preprocess import image_to_store
from fundusgrade.photographs.recipe import PreprocessRecipe

QUALITIES = (25, 90)
SMALLEST_SCALE = 0.5
SMALLEST_SIDE_PX = 128
MAX_BLUR_PX = 1.0


def degraded_images(dataset: PreparedDataset, rows: Sequence[ManifestRow], *, seed: int) -> list[Image | None]:
    """Preprocessed images (S, S, 3) of degraded photographs, as a data set stores them; the seed decides how they are
    degraded.

    None where no retina is found after degrading. Raises DatasetError where a photograph was moved or deleted.
    """
    paths = [dataset.photograph_path(row) for row in rows]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda i: _prepare(_read(paths[i]), dataset.recipe, (seed, i)), range(len(rows))))


def degrade(photograph: Image, rng: np.random.Generator) -> Image:
    """A photograph (H, W, 3) downscaled, blurred and compressed by random amounts; its aspect ratio stays."""
    height, width = photograph.shape[:2]
    smallest = min(1.0, max(SMALLEST_SCALE, SMALLEST_SIDE_PX / min(height, width)))
    scale = rng.uniform(smallest, 1.0)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    smaller = cv2.resize(photograph, size, interpolation=cv2.INTER_AREA)
    # Relative to the size: in pixels of an image of 224 px.
    sigma_px = rng.uniform(0.05, MAX_BLUR_PX) * min(size) / 224
    softer = cv2.GaussianBlur(smaller, (0, 0), sigma_px)
    return decode_image(encode_jpeg(np.asarray(softer, np.uint8), quality=int(rng.integers(*QUALITIES))))


def _read(path: Path) -> Image:
    try:
        return read_image(path)
    except UnreadableImageError as error:
        raise DatasetError(
            f"{path}: {error}; --degrade needs the photographs where they were prepared: put them back there, or run "
            "`fundusgrade preprocess` again"
        ) from error


def _prepare(photograph: Image, recipe: PreprocessRecipe, seed: tuple[int, int]) -> Image | None:
    try:
        loaded = load_pixels(degrade(photograph, np.random.default_rng(seed)), recipe)
    except UngradableError:
        return None
    return image_to_store(loaded.photograph, loaded.preprocessed, recipe)
