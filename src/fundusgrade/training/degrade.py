"""Degraded copies of photographs: downscaled, defocused, lit unevenly, veiled by haze, noisy and JPEG-compressed.

Networks trained on one archive adapt to its sharpness and compression, and lose accuracy where those differ
(docs/guides/audit.md). Photographs are degraded before preprocessing, which amplifies the blocks of JPEG.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.errors import DatasetError, UngradableError, UnreadableImageError
from fundusgrade.photographs.decoding import decode_image
from fundusgrade.photographs.images import encode_jpeg, read_image
from fundusgrade.photographs.loading import load_pixels
from fundusgrade.photographs.pixels import FloatImage, Image, rounded
from fundusgrade.photographs.preprocess import image_to_store
from fundusgrade.photographs.recipe import PreprocessRecipe

QUALITIES = (40, 95)
_DARKEST_RETINA = 15
SMALLEST_SCALE = 0.5
SMALLEST_SIDE_PX = 128
MAX_BLUR_PX = 1.0
MAX_HAZE = 0.3
MAX_GAMMA = 1.3
MAX_GRADIENT = 0.3
MAX_NOISE_LEVELS = 2.0


def find_photographs(dataset: PreparedDataset, rows: Sequence[ManifestRow]) -> list[Path]:
    """The original photographs of these rows. Raises DatasetError where one was moved or deleted."""
    paths = [dataset.photograph_path(row) for row in rows]
    for path in paths:
        if not path.exists():
            _read(path)  # says what is missing
    return paths


def degraded_image(photograph: Path, recipe: PreprocessRecipe, *, seed: tuple[int, int]) -> Image | None:
    """The preprocessed image (S, S, 3) of a degraded photograph, as a data set stores it; the seed decides how it is
    degraded.

    None where no retina is found after degrading. Raises DatasetError where the photograph cannot be read.
    """
    try:
        loaded = load_pixels(degrade(_read(photograph), np.random.default_rng(seed)), recipe)
    except UngradableError:
        return None
    return image_to_store(loaded.photograph, loaded.preprocessed, recipe)


def degrade(photograph: Image, rng: np.random.Generator) -> Image:
    """A photograph (H, W, 3) in worse quality by random amounts; its aspect ratio stays.

    The order is that of a camera: light, haze of the eye's media, defocus, noise of the sensor, compression.
    """
    height, width = photograph.shape[:2]
    smallest = min(1.0, max(SMALLEST_SCALE, SMALLEST_SIDE_PX / min(height, width)))
    scale = rng.uniform(smallest, 1.0)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    smaller = cv2.resize(photograph, size, interpolation=cv2.INTER_AREA)
    hazy = _with_haze(_lit_unevenly(smaller.astype(np.float32), rng), rng)
    # Relative to the size: in pixels of an image of 224 px.
    sigma_px = rng.uniform(0.05, MAX_BLUR_PX) * min(size) / 224
    softer = cv2.GaussianBlur(hazy, (0, 0), sigma_px)
    noisy = softer + rng.standard_normal(softer.shape, np.float32) * np.float32(rng.uniform(0, MAX_NOISE_LEVELS))
    return decode_image(encode_jpeg(rounded(noisy), quality=int(rng.integers(*QUALITIES))))


def _lit_unevenly(pixels: FloatImage, rng: np.random.Generator) -> FloatImage:
    """A photograph after a random gamma, its light falling linearly towards one side."""
    gamma = MAX_GAMMA ** rng.uniform(-1, 1)
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, MAX_GRADIENT)
    height, width = pixels.shape[:2]
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None]
    slope = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
    light = 1 + np.float32(strength) * slope
    curved = 255 * (pixels / 255) ** np.float32(gamma)
    return np.asarray(np.minimum(curved * light[..., None], 255), np.float32)


def _with_haze(pixels: FloatImage, rng: np.random.Generator) -> FloatImage:
    """Colors moved towards the mean color of the retina by a random part; black stays black."""
    brightness = pixels.mean(axis=2)
    is_retina = brightness > _DARKEST_RETINA
    if not is_retina.any():
        return pixels
    veil = pixels[is_retina].mean(axis=0)
    part = np.float32(rng.uniform(0, MAX_HAZE)) * np.minimum(3 * brightness / veil.mean(), 1)[..., None]
    return np.asarray(pixels + (veil - pixels) * part, np.float32)


def _read(path: Path) -> Image:
    try:
        return read_image(path)
    except UnreadableImageError as error:
        raise DatasetError(
            f"{path}: {error}; --degrade needs the photographs where they were prepared: put them back there, or run "
            "`fundusgrade preprocess` again"
        ) from error
