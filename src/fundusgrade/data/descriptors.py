"""A small image of a photograph's fine detail, by which copies are recognized once two of them are registered.

Copies agree in vessels and lesions, which are details of a fiftieth of the radius. Coarser brightness is much alike in
all eyes, and finer detail does not survive compression; both are filtered out.
"""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.files import write_atomically
from fundusgrade.photographs.local_mean import local_mean
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.recipe import Method, Outline, PreprocessRecipe

# One for all data sets, so that duplicates and splits do not depend on the recipe of the images.
DESCRIPTOR_RECIPE = PreprocessRecipe(method=Method.NATURAL, outline=Outline.DISC, size_px=128)
DESCRIPTOR_SIDE = 48
HIDDEN = -128
"""Value of a cell in which the photograph shows no retina."""
Descriptor = NDArray[np.int8]
"""Detail in units of 1/32 of its local standard deviation, (48, 48) of -127 to 127, or `HIDDEN`."""
_UNITS = 32
# Fractions of the radius: detail is what lies between these two Gaussian windows; contrast is measured in a third.
_FINE_SIGMA_FRACTION = 0.02
_COARSE_SIGMA_FRACTION = 0.05
_CONTRAST_SIGMA_FRACTION = 0.10
_MAX_RADIUS_FRACTION = 0.88
_MIN_CONTRAST_FRACTION = 0.25
_MIN_CONTRAST = 1e-3
# A registration that leaves less in common than this fraction of either descriptor has gone astray.
_MIN_COMMON_FRACTION = 0.5
_NUM_ECC_ITERATIONS = 50
_ECC_TOLERANCE = 1e-4


def describe_detail(image: Image, mask: NDArray[np.bool_]) -> Descriptor | None:
    """The detail of an image (S, S, 3) that was preprocessed by `DESCRIPTOR_RECIPE`; None where there is none.

    Each pixel's difference from its surroundings is divided by the local contrast, so that neither exposure nor a
    gradient of the light matters. The rim of the disc is left out, because it is the same in all eyes.
    """
    radius_px = image.shape[0] / 2
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    fine, coarse = (local_mean(gray, mask, f * radius_px) for f in (_FINE_SIGMA_FRACTION, _COARSE_SIGMA_FRACTION))
    detail = np.where(mask, fine - coarse, 0).astype(np.float32)
    overall = float(np.sqrt(np.mean(detail[mask] ** 2))) if mask.any() else 0.0
    contrast = np.sqrt(np.maximum(local_mean(detail**2, mask, _CONTRAST_SIGMA_FRACTION * radius_px), 0))
    detail /= contrast + _MIN_CONTRAST_FRACTION * overall + _MIN_CONTRAST
    cells, is_visible = _to_cells(detail, mask & _inner_disc(image.shape[0]))
    if not is_visible.any() or overall < _MIN_CONTRAST:
        return None
    return np.where(is_visible, np.clip(np.rint(_UNITS * cells), -127, 127), HIDDEN).astype(np.int8)


def _inner_disc(size_px: int) -> NDArray[np.bool_]:
    axis = np.arange(size_px) - (size_px - 1) / 2
    return np.asarray(np.hypot(axis[:, None], axis[None]) < _MAX_RADIUS_FRACTION * size_px / 2)


def _to_cells(detail: NDArray[np.float32], mask: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Mean of the visible pixels of each cell, and in which cells at least half are visible."""
    weight = mask.astype(np.float32)
    size = (DESCRIPTOR_SIDE, DESCRIPTOR_SIDE)
    total = cv2.resize(detail * weight, size, interpolation=cv2.INTER_AREA)
    visible = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
    return np.asarray(total / np.maximum(visible, 1e-6), np.float32), np.asarray(visible >= 0.5)


def centered(descriptor: Descriptor) -> NDArray[np.float32]:
    """Values (48, 48) with a mean of 0 over the visible cells, and 0 in hidden ones."""
    is_visible = descriptor != HIDDEN
    values = descriptor.astype(np.float32)
    return np.where(is_visible, values - values[is_visible].mean(), 0).astype(np.float32)


def registered_correlation(first: Descriptor, second: Descriptor) -> float:
    """Pearson correlation of two descriptors after registration, -1 to 1.

    The affine map that maximizes the correlation is found by the ECC algorithm (Evangelidis and Psarakis, IEEE PAMI
    2008), from no map at all: the field of view has placed both photographs nearly alike. The correlation is over cells
    visible in both. Without a map, or with one that leaves little in common, it is that of the descriptors as they are.
    """
    values, moving = centered(first), centered(second)
    visible, moving_visible = (np.asarray(each != HIDDEN, np.float32) for each in (first, second))
    unregistered = _correlation(values, moving, (visible > 0) & (moving_visible > 0))
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _NUM_ECC_ITERATIONS, _ECC_TOLERANCE)
    try:
        _, matrix = cv2.findTransformECC(
            values, moving, np.eye(2, 3, dtype=np.float32), cv2.MOTION_AFFINE, criteria, None, 1
        )
    except cv2.error:  # it does not converge: these are different eyes
        return unregistered
    moved, moved_visible = (warped(each, np.asarray(matrix, np.float32)) for each in (moving, moving_visible))
    common = (visible > 0) & (moved_visible > 0.5)
    if common.sum() < _MIN_COMMON_FRACTION * max(visible.sum(), moving_visible.sum()):
        return unregistered
    return max(unregistered, _correlation(values, moved, common))


def warped(values: NDArray[np.float32], matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values (48, 48) looked up where a matrix (2, 3) maps each cell; 0 beyond the edge."""
    size = (DESCRIPTOR_SIDE, DESCRIPTOR_SIDE)
    return np.asarray(cv2.warpAffine(values, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP), np.float32)


def _correlation(first: NDArray[np.float32], second: NDArray[np.float32], where: NDArray[np.bool_]) -> float:
    if where.sum() < 2:
        return 0.0
    x, y = first[where], second[where]
    x, y = x - x.mean(), y - y.mean()
    length = float(np.sqrt(np.sum(x * x) * np.sum(y * y)))
    return float(np.sum(x * y)) / length if length > 0 else 0.0


def descriptor_path(image: Path) -> Path:
    """Where the descriptor of a photograph is stored: beside its preprocessed image."""
    return image.with_suffix(".npy")


def write_descriptor(path: Path, descriptor: Descriptor) -> None:
    """Write a descriptor atomically. Raises StoreError."""
    out = io.BytesIO()
    np.save(out, descriptor, allow_pickle=False)
    write_atomically(path, out.getvalue())


def read_descriptor(path: Path) -> Descriptor | None:
    """Read a descriptor; None where there is none that can be used."""
    try:
        descriptor = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    is_one = descriptor.dtype == np.int8 and descriptor.shape == (DESCRIPTOR_SIDE, DESCRIPTOR_SIDE)
    return descriptor if is_one and (descriptor != HIDDEN).any() else None
