"""Masks of lesions beside photographs.

The layout is IDRiD's: images/NAME.jpg, and masks/NAME_MA.png, _HE, _EX, _SE of the photograph's size, white on lesions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fundusgrade.errors import DatasetError
from fundusgrade.photographs.images import read_image
from fundusgrade.photographs.sources import PhotographSource, find_files

LESION_NAMES = {"MA": "microaneurysms", "HE": "hemorrhages", "EX": "hard exudates", "SE": "soft exudates"}
"""The kinds of lesions, by the suffix of their masks' names."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LesionMask:
    """Lesions of one kind in a photograph."""

    kind: str
    """One of `LESION_NAMES`."""
    mask: NDArray[np.bool_]
    """(H, W), true on lesions."""


def find_lesion_photographs(folder: Path) -> list[PhotographSource]:
    """Photographs of a folder in IDRiD's layout that have masks. Raises DatasetError where there are none."""
    photographs = find_files([folder / "images"]) if (folder / "images").is_dir() else []
    with_masks = [photograph for photograph in photographs if _mask_paths(photograph.path.stem, folder / "masks")]
    if not with_masks:
        raise DatasetError(f"no photographs with lesion masks in {folder}; expected images/NAME.jpg, masks/NAME_MA.png")
    return with_masks


def check_masks(names: Sequence[str], folder: Path) -> int:
    """How many of these photographs have a mask in a folder of masks. Raises DatasetError where none has."""
    num_found = sum(bool(_mask_paths(Path(name).stem, folder)) for name in names)
    if not num_found:
        there = f"{folder} is no folder" if not folder.is_dir() else f"{folder} has none for {Path(names[0]).name}"
        raise DatasetError(
            f"no lesion masks for any of {len(names)} photographs: {there}; expected names such as "
            f"{Path(names[0]).stem}_MA.png, with {', '.join(f'_{kind}' for kind in LESION_NAMES)} at the end"
        )
    return num_found


def read_lesions(name: str, folder: Path, shape: tuple[int, ...]) -> tuple[LesionMask, ...]:
    """Masks of the photograph NAME in a folder of masks; none where it has none.

    Raises DatasetError where a mask is not of the photograph's size (H, W), given by `shape`.
    """
    masks = []
    for kind, path in _mask_paths(name, folder).items():
        mask = read_image(path).max(axis=2) > 127
        if mask.shape != shape[:2]:
            raise DatasetError(
                f"{path} has {mask.shape[1]} x {mask.shape[0]} pixels, its photograph {shape[1]} x {shape[0]}; "
                "give masks of the same size as the photograph"
            )
        masks.append(LesionMask(kind=kind, mask=mask))
    return tuple(masks)


def any_lesion(lesions: Sequence[LesionMask]) -> NDArray[np.bool_]:
    """The union of masks of all kinds, (H, W)."""
    union: NDArray[np.bool_] = np.any([lesion.mask for lesion in lesions], axis=0)
    return union


def _mask_paths(name: str, folder: Path) -> dict[str, Path]:
    paths = {kind: folder / f"{name}_{kind}.png" for kind in LESION_NAMES}
    return {kind: path for kind, path in paths.items() if path.is_file()}
