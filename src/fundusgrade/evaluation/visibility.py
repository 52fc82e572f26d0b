"""What of a retina a network sees: how far up and down its preprocessed images reach, and which lesions lie beyond."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.data.lesion_masks import LESION_NAMES, find_lesion_photographs, read_lesions
from fundusgrade.photographs.loading import open_photograph
from fundusgrade.photographs.preprocess import Placement, canonical_outline
from fundusgrade.photographs.recipe import PreprocessRecipe


@dataclass(frozen=True, slots=True, kw_only=True)
class UnseenLesions:
    """Lesions of one kind outside of what the networks of a recipe see, over all photographs together.

    `unseen_area` is the fraction of their area that lies outside, `unseen_lesions` the fraction of the `num_lesions`
    connected lesions that lie outside with more than half of their area. Both are in [0, 1], None without lesions.
    """

    kind: str
    num_photographs: int
    num_lesions: int
    unseen_area: float | None
    unseen_lesions: float | None


def visible_reach(recipe: PreprocessRecipe) -> float:
    """How far above and below its center, in radii of the field of view, a preprocessed image shows retina."""
    rows = np.flatnonzero(canonical_outline(recipe).any(axis=1))
    return float((rows[-1] + 1 - rows[0]) / 2 / recipe.radius_px)


def measure_unseen_lesions(folder: Path, recipe: PreprocessRecipe) -> tuple[UnseenLesions, ...]:
    """The lesions outside of what a recipe keeps, by kind, of the photographs of a folder in IDRiD's layout.

    Raises DatasetError where there are no masks or one is not of its photograph's size, UngradableError where a
    photograph cannot be read.
    """
    counts: dict[str, list[_Counts]] = {kind: [] for kind in LESION_NAMES}
    for photograph in find_lesion_photographs(folder):
        opened = open_photograph(photograph, recipe)
        shape = opened.photograph.shape
        seen = seen_region(canonical_outline(recipe), opened.loaded.preprocessed.placement, shape)
        for lesion in read_lesions(photograph.path.stem, folder / "masks", shape):
            counts[lesion.kind].append(_count(lesion.mask, seen))
    return tuple(_unseen(kind, counted) for kind, counted in counts.items() if counted)


def seen_region(outline: NDArray[np.bool_], placement: Placement, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which pixels of the photograph (H, W), of this shape, lie inside the outline (S, S) of its preprocessed image."""
    matrix = placement.resized_to(shape[0], shape[1]).matrix
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(outline.astype(np.uint8), matrix, (shape[1], shape[0]), flags=flags) > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counts:
    """Pixels and connected lesions of one mask, all of them and those outside."""

    num_pixels: int
    num_pixels_unseen: int
    num_lesions: int
    num_lesions_unseen: int


def _count(mask: NDArray[np.bool_], seen: NDArray[np.bool_]) -> _Counts:
    number, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    sizes = np.bincount(labels.ravel(), minlength=number)[1:]
    unseen = np.bincount(labels[~seen], minlength=number)[1:]
    return _Counts(
        num_pixels=int(sizes.sum()),
        num_pixels_unseen=int(unseen.sum()),
        num_lesions=len(sizes),
        num_lesions_unseen=int((unseen > sizes / 2).sum()),
    )


def _unseen(kind: str, counts: Sequence[_Counts]) -> UnseenLesions:
    num_pixels, num_lesions = sum(each.num_pixels for each in counts), sum(each.num_lesions for each in counts)
    return UnseenLesions(
        kind=LESION_NAMES[kind],
        num_photographs=len(counts),
        num_lesions=num_lesions,
        unseen_area=sum(each.num_pixels_unseen for each in counts) / num_pixels if num_pixels else None,
        unseen_lesions=sum(each.num_lesions_unseen for each in counts) / num_lesions if num_lesions else None,
    )
