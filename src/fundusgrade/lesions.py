"""Masks of lesions beside photographs, and how well a heat map agrees with them.

The layout is IDRiD's: images/NAME.jpg, and masks/NAME_MA.png, _HE, _EX, _SE of the photograph's size, white on lesions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.errors import DatasetError
from fundusgrade.images import FoundImage, find_files, read_image
from fundusgrade.preprocess import Placement

LESION_NAMES = {"MA": "microaneurysms", "HE": "haemorrhages", "EX": "hard exudates", "SE": "soft exudates"}
"""What the ends of the masks' names stand for."""

_SAMPLES_PER_PX = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LesionMask:
    """Where a photograph shows lesions of one kind, one of `LESION_NAMES`: (H, W)."""

    kind: str
    mask: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How well heat lies on lesions; all of it is None where there is no heat or no lesion.

    `heat_share` is the share of the heat that lies on lesions, `area_share` that of the retina, and `lift` how many
    times the first is the second: 1 for a map that knows nothing. `average_precision` is that of pixels ranked by heat,
    which is `area_share` by chance; `peak_on_lesion` tells whether the hottest pixel touches a lesion.
    """

    heat_share: float | None
    area_share: float | None
    lift: float | None
    average_precision: float | None
    peak_on_lesion: bool | None


NO_AGREEMENT = Agreement(heat_share=None, area_share=None, lift=None, average_precision=None, peak_on_lesion=None)


def find_lesion_photographs(folder: Path) -> list[FoundImage]:
    """Photographs of a folder in IDRiD's layout that have masks. Raises DatasetError where there are none."""
    found = find_files([folder / "images"]) if (folder / "images").is_dir() else []
    with_masks = [each for each in found if _mask_paths(each.path.stem, folder / "masks")]
    if not with_masks:
        raise DatasetError(f"no photographs with lesion masks in {folder}; expected images/NAME.jpg, masks/NAME_MA.png")
    return with_masks


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
                "give masks of the photograph's pixels"
            )
        masks.append(LesionMask(kind=kind, mask=mask))
    return tuple(masks)


def any_lesion(lesions: Sequence[LesionMask]) -> NDArray[np.bool_]:
    """Where a photograph shows lesions of any kind, (H, W)."""
    union: NDArray[np.bool_] = np.any([each.mask for each in lesions], axis=0)
    return union


def lesion_coverage(mask: NDArray[np.bool_], placement: Placement, size_px: int) -> NDArray[np.float32]:
    """The share of each pixel of the canonical picture (S, S) that the mask (H, W) of the photograph covers."""
    placed, count = placement.resized_to(*mask.shape), _SAMPLES_PER_PX
    middle = (count - 1) / 2
    matrix = np.array(
        [
            [placed.scale_x * count, 0, placed.offset_x * count + middle],
            [0, placed.scale_y * count, placed.offset_y * count + middle],
        ],
        np.float64,
    )
    fine = cv2.warpAffine(mask.astype(np.float32), matrix, (size_px * count, size_px * count), flags=cv2.INTER_LINEAR)
    return np.asarray(fine.reshape(size_px, count, size_px, count).mean(axis=(1, 3)), np.float32)


def measure_agreement(values: NDArray[np.float32], mask: NDArray[np.bool_], coverage: NDArray[np.float32]) -> Agreement:
    """Compare heat (S, S) >= 0 with the share (S, S) of each pixel that lesions cover, within the mask (S, S)."""
    heat, covered = values[mask].astype(np.float64), coverage[mask].astype(np.float64)
    if heat.sum() <= 0 or covered.sum() <= 0:
        return NO_AGREEMENT
    heat_share, area_share = float(heat @ covered / heat.sum()), float(covered.mean())
    return Agreement(
        heat_share=heat_share,
        area_share=area_share,
        lift=heat_share / area_share,
        average_precision=weighted_average_precision(heat, covered),
        peak_on_lesion=bool(covered[heat.argmax()] > 0),
    )


def weighted_average_precision(scores: NDArray[np.float64], positive: NDArray[np.float64]) -> float:
    """Average precision of N pixels, of which a share (N,) each is positive, ranked by scores (N,).

    Pixels of the same score are passed at once, as in scikit-learn.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    hits, passed = np.cumsum(positive[order]), np.arange(1, len(scores) + 1)
    ends = np.append(ranked[1:] != ranked[:-1], True)
    recall, precision = hits[ends] / hits[-1], hits[ends] / passed[ends]
    return float(np.diff(recall, prepend=0.0) @ precision)


def _mask_paths(name: str, folder: Path) -> dict[str, Path]:
    paths = {kind: folder / f"{name}_{kind}.png" for kind in LESION_NAMES}
    return {kind: path for kind, path in paths.items() if path.is_file()}
