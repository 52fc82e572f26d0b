"""Which photographs are copies of one another: file hashes, perceptual fingerprints, and groups by union-find."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.photographs.pixels import Image

FINGERPRINT_SIDE = 16
FINGERPRINT_BITS = FINGERPRINT_SIDE * FINGERPRINT_SIDE
# On APTOS 2019 true copies differ in at most 3 of the 256 bits, one eye photographed twice in 22 to 28, the nearest
# different eyes in 30. Of 247 photographs recompressed and reduced to 3/4, 241 stay within 20.
MAX_DIFFERENT_BITS = 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Properties of a photograph by which it is grouped with others: file, appearance and patient."""

    sha256: str
    """Hash of the file, in hexadecimal."""
    fingerprint: str | None
    """Perceptual fingerprint of the preprocessed image, in hexadecimal; None where there is no image."""
    patient: str | None
    """Identifier of the patient; None where it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouping:
    """Which photographs belong together; groups are numbered from 0 in order of their first photograph."""

    groups: tuple[int, ...]
    """For each photograph its group: copies, and other photographs of the same patient."""
    copies: tuple[int, ...]
    """For each photograph its group of copies only."""
    num_exact_groups: int
    """Groups of two or more identical files."""
    num_exact_photographs: int
    """Photographs in those groups."""
    num_copy_groups: int
    """Groups of two or more copies, identical or nearly so."""
    num_copy_photographs: int
    """Photographs in those groups."""


def fingerprint(image: Image, mask: NDArray[np.bool_]) -> str:
    """Perceptual hash of a preprocessed image (S, S, 3) with its mask (S, S): 256 bits in hexadecimal.

    Each bit says whether a cell of a 16 x 16 grid is brighter than the mean of all (average hash). The local mean is
    removed first, so that neither vignetting nor the outline of the field of view decides the bits. A cell outside the
    field of view is always 0: it is close to the mean, and noise would flip all those bits at once.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    weight = mask.astype(np.float32)
    sigma_px = image.shape[0] / 8
    local = cv2.GaussianBlur(gray * weight, (0, 0), sigma_px)
    local /= np.maximum(cv2.GaussianBlur(weight, (0, 0), sigma_px), 1e-6)
    detail = (gray - local) * weight
    cells = cv2.resize(
        cv2.GaussianBlur(detail, (0, 0), image.shape[0] / FINGERPRINT_SIDE / 2),
        (FINGERPRINT_SIDE, FINGERPRINT_SIDE),
        interpolation=cv2.INTER_AREA,
    )
    is_visible = cv2.resize(weight, (FINGERPRINT_SIDE, FINGERPRINT_SIDE), interpolation=cv2.INTER_AREA) >= 0.5
    return np.packbits((cells > np.mean(cells)) & is_visible).tobytes().hex()


def near_blocks(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Pairs of fingerprints, of one table (N, 32) and another (M, 32), that differ in at most `MAX_DIFFERENT_BITS`.

    Yields the first row of each block of rows, and the block's (n, M) booleans: all pairs at once would not fit in
    memory.
    """
    # With bits as signs, a dot product counts equal bits minus different ones.
    first_signs, second_signs = (np.unpackbits(table, axis=1).astype(np.float32) * 2 - 1 for table in (first, second))
    for start in range(0, len(first), 1024):
        yield start, first_signs[start : start + 1024] @ second_signs.T >= FINGERPRINT_BITS - 2 * MAX_DIFFERENT_BITS


def group_photographs(identities: Sequence[Identity]) -> Grouping:
    """Group identical files, near copies (fingerprints that differ in few bits) and photographs of the same patient."""
    exact = UnionFind(len(identities))
    exact.union_equal([identity.sha256 for identity in identities])
    copies = UnionFind(len(identities))
    copies.union_equal(exact.groups())
    for first, second in _near_pairs([identity.fingerprint for identity in identities]):
        copies.union(first, second)
    groups = UnionFind(len(identities))
    groups.union_equal(copies.groups())
    groups.union_equal([identity.patient for identity in identities])
    exact_sizes = _sizes_above_one(exact.groups())
    copy_sizes = _sizes_above_one(copies.groups())
    return Grouping(
        groups=tuple(groups.groups()),
        copies=tuple(copies.groups()),
        num_exact_groups=len(exact_sizes),
        num_exact_photographs=sum(exact_sizes),
        num_copy_groups=len(copy_sizes),
        num_copy_photographs=sum(copy_sizes),
    )


def _near_pairs(fingerprints: Sequence[str | None]) -> list[tuple[int, int]]:
    """Pairs of photographs whose fingerprints differ in few bits, each once, the first one first."""
    indices = [index for index, value in enumerate(fingerprints) if value is not None]
    if not indices:
        return []
    table = np.array([list(bytes.fromhex(fingerprints[i] or "")) for i in indices], np.uint8)
    return [
        (indices[start + int(i)], indices[int(j)])
        for start, near in near_blocks(table, table)
        for i, j in np.argwhere(near)
        if start + i < j
    ]


def _sizes_above_one(groups: Sequence[int]) -> list[int]:
    return [int(size) for size in np.bincount(groups) if size > 1] if groups else []


class UnionFind:
    """Disjoint sets of the items 0..n-1 (union-find with path halving)."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def _root(self, item: int) -> int:
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def union(self, first: int, second: int) -> None:
        """Merge the sets of two items."""
        low, high = sorted((self._root(first), self._root(second)))
        self._parent[high] = low

    def union_equal(self, keys: Sequence[Hashable]) -> None:
        """Merge the sets of all items with the same key; items whose key is None are left as they are."""
        first_with: dict[Hashable, int] = {}
        for item, key in enumerate(keys):
            if key is not None:
                self.union(first_with.setdefault(key, item), item)

    def groups(self) -> list[int]:
        """The number of each item's set, counted in order of first appearance."""
        numbered: dict[int, int] = {}
        return [numbered.setdefault(self._root(item), len(numbered)) for item in range(len(self._parent))]
