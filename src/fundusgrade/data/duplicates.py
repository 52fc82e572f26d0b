"""Which photographs are copies of one another: file hashes, candidates by fingerprints, which registration confirms.

Groups are the transitive closure (union-find) of copies and equal patients.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fundusgrade.data.descriptors import read_descriptor, registered_correlation
from fundusgrade.data.fingerprints import find_candidates, fingerprint_table

# On APTOS 2019 and 5,563 photographs of EyePACS, altered copies correlate with 0.84 to 1.00, one eye photographed twice
# with 0.78 to 0.95, photographs of different patients with up to 0.72, where a dirty lens is most of what they show.
MIN_CORRELATION = 0.75
"""Registered correlation from which two photographs are copies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Properties of a photograph by which it is grouped with others: file, appearance and patient."""

    sha256: str
    """Hash of the file, in hexadecimal."""
    fingerprint: str | None
    """Perceptual fingerprint, in hexadecimal; None where there is none."""
    descriptor: Path | None
    """File of the descriptor, read where the photograph is a candidate; None where there is none."""
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


def group_photographs(identities: Sequence[Identity]) -> Grouping:
    """Group identical files, copies (registered photographs that correlate) and photographs of the same patient."""
    exact = UnionFind(len(identities))
    exact.union_equal([identity.sha256 for identity in identities])
    copies = UnionFind(len(identities))
    copies.union_equal(exact.groups())
    _union_copies(copies, identities)
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


def _union_copies(copies: UnionFind, identities: Sequence[Identity]) -> None:
    """Merge the sets of photographs that are copies; of identical files the first one stands for all."""
    first_of = {copy: index for index, copy in reversed(list(enumerate(copies.groups())))}
    indices = [index for index in sorted(first_of.values()) if identities[index].fingerprint is not None]
    table = fingerprint_table([identities[index].fingerprint or "" for index in indices])
    for first, second, estimate in find_candidates(table):
        one, other = indices[first], indices[second]
        if not copies.are_together(one, other) and _correlation(identities[one], identities[other], estimate) >= (
            MIN_CORRELATION
        ):
            copies.union(one, other)


def _correlation(first: Identity, second: Identity, estimate: float) -> float:
    """The registered correlation; where a descriptor is missing, the estimate of the fingerprints."""
    paths = (first.descriptor, second.descriptor)
    one, other = (None if path is None else read_descriptor(path) for path in paths)
    return estimate if one is None or other is None else registered_correlation(one, other)


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

    def are_together(self, first: int, second: int) -> bool:
        """Whether two items are in the same set."""
        return self._root(first) == self._root(second)

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
