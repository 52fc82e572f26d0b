"""Which photographs are copies of one another: hashes, perceptual fingerprints, and their groups (union-find)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
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
    """What can tie one photograph to another: the file's hash, the picture's fingerprint (hex), the patient."""

    sha256: str
    fingerprint: str | None
    patient: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouping:
    """For each photograph the number of its group, and of its group of copies; counts of the latter."""

    groups: tuple[int, ...]
    copies: tuple[int, ...]
    num_exact_groups: int
    num_exact_photographs: int
    num_copy_groups: int
    num_copy_photographs: int


def fingerprint(image: Image, mask: NDArray[np.bool_]) -> str:
    """256 bits of a preprocessed image (S, S, 3) as hex: is this cell brighter than the mean of the visible disc?

    The local mean is removed first, so that neither the camera's vignetting nor the disc's outline decides the bits. A
    cell outside the disc is always 0: the mean is close to 0 there, and its sign would turn all those bits at once.
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
    seen = cv2.resize(weight, (FINGERPRINT_SIDE, FINGERPRINT_SIDE), interpolation=cv2.INTER_AREA) >= 0.5
    return np.packbits((cells > np.mean(cells)) & seen).tobytes().hex()


def group_photographs(identities: Sequence[Identity]) -> Grouping:
    """Tie exact copies (same file), near copies (same fingerprint but for a few bits) and a patient's photographs."""
    exact = UnionFind(len(identities))
    exact.tie_equal([identity.sha256 for identity in identities])
    copies = UnionFind(len(identities))
    copies.tie_equal([identity.sha256 for identity in identities])
    for first, second in _near_pairs([identity.fingerprint for identity in identities]):
        copies.tie(first, second)
    groups = UnionFind(len(identities))
    groups.tie_equal(copies.numbers())
    groups.tie_equal([identity.patient for identity in identities])
    exact_sizes = _sizes_above_one(exact.numbers())
    copy_sizes = _sizes_above_one(copies.numbers())
    return Grouping(
        groups=tuple(groups.numbers()),
        copies=tuple(copies.numbers()),
        num_exact_groups=len(exact_sizes),
        num_exact_photographs=sum(exact_sizes),
        num_copy_groups=len(copy_sizes),
        num_copy_photographs=sum(copy_sizes),
    )


def _near_pairs(fingerprints: Sequence[str | None]) -> list[tuple[int, int]]:
    """Pairs whose fingerprints differ in few bits; compared block by block, as all pairs at once would not fit."""
    known = [index for index, value in enumerate(fingerprints) if value is not None]
    if not known:
        return []
    packed = np.array([list(bytes.fromhex(fingerprints[i] or "")) for i in known], np.uint8)
    signs = np.unpackbits(packed, axis=1).astype(np.float32) * 2 - 1
    threshold = FINGERPRINT_BITS - 2 * MAX_DIFFERENT_BITS
    pairs = []
    for start in range(0, len(known), 1024):
        near = signs[start : start + 1024] @ signs.T >= threshold
        pairs += [(known[start + int(i)], known[int(j)]) for i, j in np.argwhere(near) if start + i < j]
    return pairs


def _sizes_above_one(numbers: Sequence[int]) -> list[int]:
    return [int(size) for size in np.bincount(numbers) if size > 1] if numbers else []


class UnionFind:
    """Disjoint sets of 0..n-1 (union-find with path halving)."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def _root(self, item: int) -> int:
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def tie(self, first: int, second: int) -> None:
        low, high = sorted((self._root(first), self._root(second)))
        self._parent[high] = low

    def tie_equal(self, keys: Sequence[Hashable]) -> None:
        """Tie all items with the same key; None ties nothing."""
        first_with: dict[Hashable, int] = {}
        for item, key in enumerate(keys):
            if key is not None:
                self.tie(first_with.setdefault(key, item), item)

    def numbers(self) -> list[int]:
        """The number of each item's set, counted in order of first appearance."""
        numbered: dict[int, int] = {}
        return [numbered.setdefault(self._root(item), len(numbered)) for item in range(len(self._parent))]
