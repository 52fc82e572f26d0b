"""Perceptual fingerprints: 1,024 signs of random projections of a descriptor, from which correlations are estimated.

Two descriptors of correlation r differ in a fraction arccos(r) / pi of such signs (Charikar, STOC 2002). So the
fingerprint finds the few pairs of photographs that can be copies without looking at the others.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusgrade.data.descriptors import DESCRIPTOR_SIDE, Descriptor, centered, warped

FINGERPRINT_BITS = 1024
FINGERPRINT_BYTES = FINGERPRINT_BITS // 8
MIN_CANDIDATE_CORRELATION = 0.40
"""Estimated correlation, before registration, from which a pair is examined."""
MAX_CANDIDATES = 16
"""Candidates that are examined for one photograph, the most similar first."""
# Odd steps through the bits, each an order of its own, which is divided into bands.
_STEPS = (1, 37, 101, 171, 233, 297, 365, 431)
_MIN_BAND_BITS = 8
# In an order of bands, a photograph is compared with so many of those that follow: blurred ones can be alike in crowds.
_MAX_NEIGHBORS = 64
_SEARCH_SHIFTS_CELLS = (2.0, 1.0, 0.5)
_SEARCH_ROUNDS = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """Pairs of rows of a table of fingerprints that can be copies, each once, the most similar first."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    correlations: NDArray[np.float64]
    """Estimates of the correlations before registration."""

    def __iter__(self) -> Iterator[tuple[int, int, float]]:
        return zip(self.first.tolist(), self.second.tolist(), self.correlations.tolist(), strict=True)


def fingerprint(descriptor: Descriptor) -> str:
    """Fingerprint of a descriptor: 1,024 bits in hexadecimal."""
    packed: bytes = _bits(centered(descriptor)[None])[0].tobytes()
    return packed.hex()


def fingerprint_table(fingerprints: Sequence[str]) -> NDArray[np.uint8]:
    """Fingerprints in hexadecimal as rows (N, 128)."""
    return np.frombuffer(bytes.fromhex("".join(fingerprints)), np.uint8).reshape(-1, FINGERPRINT_BYTES)


def is_fingerprint(text: str) -> bool:
    """Whether a text has the length of a fingerprint: those of version 0.1.0 had 256 bits and say nothing now."""
    return len(text) == 2 * FINGERPRINT_BYTES


def estimate_correlation(num_different: NDArray[np.integer]) -> NDArray[np.float64]:
    """Estimated correlation of descriptors whose fingerprints differ in these numbers of bits.

    Its standard error is 0.03 for correlations up to 0.7 and smaller above.
    """
    return np.asarray(np.cos(math.pi * num_different / FINGERPRINT_BITS), np.float64)


def find_candidates(table: NDArray[np.uint8]) -> Candidates:
    """Pairs of fingerprints (N, 128) whose correlation before registration is estimated as high enough.

    The bits are divided into bands of about log2(N) bits, and photographs that agree in a whole band are compared
    (locality-sensitive hashing, Indyk and Motwani, STOC 1998). About 500 bands in eight orders find more than 99 % of
    the pairs of correlation 0.75 among 35,000 photographs. Time and memory grow nearly as N.
    """
    if len(table) < 2:
        nothing = np.zeros(0, np.int64)
        return Candidates(first=nothing, second=nothing, correlations=np.zeros(0))
    words = np.ascontiguousarray(table).view(np.uint64)
    found = np.unique(np.concatenate([_near_in_bands(table, words, step) for step in _STEPS]))
    first, second = np.divmod(found, len(table))
    correlations = estimate_correlation(_num_different(words, first, second))
    order = np.argsort(-correlations, kind="stable")
    first, second, correlations = first[order], second[order], correlations[order]
    is_kept = _is_among_nearest(first, second, len(table))
    return Candidates(first=first[is_kept], second=second[is_kept], correlations=correlations[is_kept])


def _near_in_bands(table: NDArray[np.uint8], words: NDArray[np.uint64], step: int) -> NDArray[np.int64]:
    """Pairs that agree in a band of one order of the bits and are near in all bits, as first * N + second."""
    num_bits = max(_MIN_BAND_BITS, math.ceil(math.log2(len(table))))
    num_bands = FINGERPRINT_BITS // num_bits
    order = np.arange(FINGERPRINT_BITS) * step % FINGERPRINT_BITS
    bits = np.unpackbits(table, axis=1)[:, order[: num_bands * num_bits]]
    bands = bits.reshape(len(table), num_bands, num_bits) @ (1 << np.arange(num_bits, dtype=np.int32))
    found = [np.zeros(0, np.int64)]
    for band in range(num_bands):
        # The next band sorts within equal ones, so that neighbors are similar where many agree.
        by_band = np.lexsort((bands[:, (band + 1) % num_bands], bands[:, band]))
        values = bands[by_band, band]
        for distance in range(1, min(_MAX_NEIGHBORS, len(table) - 1) + 1):
            at = np.flatnonzero(values[:-distance] == values[distance:])
            if not len(at):
                break
            one, other = by_band[at], by_band[at + distance]
            is_near = estimate_correlation(_num_different(words, one, other)) >= MIN_CANDIDATE_CORRELATION
            low, high = np.minimum(one, other)[is_near], np.maximum(one, other)[is_near]
            found.append(low * len(table) + high)
    return np.unique(np.concatenate(found))


def _num_different(words: NDArray[np.uint64], first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.asarray(np.bitwise_count(words[first] ^ words[second]).sum(axis=1, dtype=np.int64))


def _is_among_nearest(first: NDArray[np.int64], second: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
    """Whether each pair, the most similar first, is among the `MAX_CANDIDATES` nearest of either of the two."""
    nodes = np.stack([first, second], axis=1).ravel()
    by_node = np.argsort(nodes, kind="stable")
    starts = np.searchsorted(nodes[by_node], np.arange(size))
    ranks = np.empty(len(nodes), np.int64)
    ranks[by_node] = np.arange(len(nodes)) - starts[nodes[by_node]]
    return np.asarray(ranks.reshape(-1, 2).min(axis=1) < MAX_CANDIDATES)


def registered_estimate(descriptor: Descriptor, other: NDArray[np.uint8]) -> float:
    """Estimated correlation of a descriptor with that of a fingerprint (128,), after registration.

    The other descriptor is not known, so small shifts and scales of this one are tried: a pattern search that moves
    while the fingerprints come nearer to one another, in steps of 2, 1 and 0.5 cells.
    """
    values, word = centered(descriptor), other.view(np.uint64)

    def estimates(maps: NDArray[np.float64]) -> NDArray[np.float64]:
        bits = _bits(np.stack([_placed(values, each) for each in maps])).view(np.uint64)
        return estimate_correlation(np.bitwise_count(bits ^ word).sum(axis=1, dtype=np.int64))

    best = np.zeros(4)
    highest = float(estimates(best[None])[0])
    for shift in _SEARCH_SHIFTS_CELLS:
        for _ in range(_SEARCH_ROUNDS):
            tried = best + shift * np.concatenate([np.eye(4), -np.eye(4)])
            found = estimates(tried)
            if found.max() <= highest:
                break
            best, highest = tried[found.argmax()], float(found.max())
    return highest


def _placed(values: NDArray[np.float32], moves: NDArray[np.float64]) -> NDArray[np.float32]:
    """Values (48, 48) shifted by `moves[:2]` cells, and scaled so that the edges move by `moves[2:]` cells."""
    half = (DESCRIPTOR_SIDE - 1) / 2
    scale_x, scale_y = 1 + moves[2] / half, 1 + moves[3] / half
    matrix = [[scale_x, 0, half * (1 - scale_x) + moves[0]], [0, scale_y, half * (1 - scale_y) + moves[1]]]
    return warped(values, np.array(matrix, np.float32))


def _bits(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The fingerprints (N, 128) of centered values (N, 48, 48)."""
    return np.packbits(values.reshape(len(values), -1) @ _projections() > 0, axis=1)


@functools.cache
def _projections() -> NDArray[np.float32]:
    """1,024 random directions (48 * 48, 1024) of -1 and 1, from a hash: fingerprints must be the same everywhere."""
    shape = (DESCRIPTOR_SIDE**2, FINGERPRINT_BITS)
    random_bytes = hashlib.shake_256(b"fundusgrade fingerprint").digest(shape[0] * shape[1] // 8)
    return np.unpackbits(np.frombuffer(random_bytes, np.uint8)).reshape(shape).astype(np.float32) * 2 - 1
