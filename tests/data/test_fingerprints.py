"""Fingerprints estimate the correlation of descriptors, and find the pairs that can be copies without comparing all."""

from __future__ import annotations

import itertools
import math

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fundusgrade.data.descriptors import DESCRIPTOR_SIDE, HIDDEN, Descriptor
from fundusgrade.data.duplicates import MIN_CORRELATION, UnionFind
from fundusgrade.data.fingerprints import (
    FINGERPRINT_BITS,
    FINGERPRINT_BYTES,
    MAX_CANDIDATES,
    MIN_CANDIDATE_CORRELATION,
    estimate_correlation,
    find_candidates,
    fingerprint,
    fingerprint_table,
    is_fingerprint,
    registered_estimate,
)

SHAPE = (DESCRIPTOR_SIDE, DESCRIPTOR_SIDE)


def noise(seed: int, sigma_cells: float = 1.2) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).normal(0, 1, SHAPE).astype(np.float32)
    smooth = cv2.GaussianBlur(values, (0, 0), sigma_cells)
    return np.asarray(smooth / smooth.std(), np.float32)


def quantized(values: NDArray[np.float32]) -> Descriptor:
    return np.clip(np.rint(32 * values), -127, 127).astype(np.int8)


def num_different(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> int:
    return int(np.unpackbits(first ^ second).sum())


def table_of(descriptors: list[Descriptor]) -> NDArray[np.uint8]:
    return fingerprint_table([fingerprint(each) for each in descriptors])


def random_table(num: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (num, FINGERPRINT_BYTES), np.uint8)


def with_flips(row: NDArray[np.uint8], count: int, seed: int) -> NDArray[np.uint8]:
    """The fingerprint with this many bits turned, at random places."""
    bits = np.unpackbits(row)
    bits[np.random.default_rng(seed).permutation(FINGERPRINT_BITS)[:count]] ^= 1
    return np.packbits(bits)


def pairs_of(table: NDArray[np.uint8]) -> set[tuple[int, int]]:
    return {(first, second) for first, second, _ in find_candidates(table)}


# Estimates


def test_a_fingerprint_is_1024_bits_that_are_the_same_on_every_machine() -> None:
    """The sums are of whole numbers whose mean is 0, so that no rounding can turn a bit."""
    pattern = np.zeros(SHAPE, np.int8)
    pattern[10:20, 10:20], pattern[30:40, 25:35] = 50, -50
    text = fingerprint(pattern)
    assert is_fingerprint(text) and len(text) * 4 == FINGERPRINT_BITS
    assert text.startswith("b39fb6427fd41c343a3bd661b169ea9a63005004ca8483f0690e543a2134b66e")
    assert not is_fingerprint("00" * 32) and not is_fingerprint("")


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.6, 0.75, 0.95])
def test_the_correlation_is_estimated_within_a_few_hundredths(correlation: float) -> None:
    errors = []
    for seed in range(25):
        first, other = noise(2 * seed), noise(2 * seed + 1)
        second = correlation * first + math.sqrt(1 - correlation**2) * other
        one, two = quantized(first), quantized(second)
        true = np.corrcoef(one.ravel(), two.ravel())[0, 1]
        table = table_of([one, two])
        errors.append(float(estimate_correlation(np.array(num_different(*table)))) - true)
    assert abs(np.mean(errors)) < 0.04
    assert np.std(errors) < 0.06


def test_the_standard_error_that_is_documented_is_that_of_independent_bits() -> None:
    """d cos(pi h) / dh times the standard error of a fraction h of 1,024 bits."""
    for correlation in (0.0, 0.4, 0.7, 0.9):
        fraction = math.acos(correlation) / math.pi
        error = math.pi * math.sqrt(1 - correlation**2) * math.sqrt(fraction * (1 - fraction) / FINGERPRINT_BITS)
        drawn = np.random.default_rng(0).binomial(FINGERPRINT_BITS, fraction, 20_000)
        assert np.std(estimate_correlation(drawn)) == pytest.approx(error, rel=0.05)
        assert error < 0.05


def test_hidden_cells_and_the_mean_do_not_matter() -> None:
    descriptor = quantized(0.5 * noise(0))
    brighter = (descriptor + 8).astype(np.int8)
    assert num_different(*table_of([descriptor, brighter])) <= 2, "of rounding"
    hidden = descriptor.copy()
    hidden[:, :4] = HIDDEN
    assert 0 < num_different(*table_of([descriptor, hidden])) < 0.15 * FINGERPRINT_BITS


# Candidates


def test_the_candidates_are_those_of_comparing_all_pairs() -> None:
    table = random_table(300)
    for i, count in enumerate([0, 1, 100, 200, 235, 300, 340, 370, 377]):
        table[200 + i] = with_flips(table[i], count, seed=i)
    expected = {
        (i, j)
        for i, j in itertools.combinations(range(len(table)), 2)
        if estimate_correlation(np.array(num_different(table[i], table[j]))) >= MIN_CANDIDATE_CORRELATION
    }
    assert pairs_of(table) == expected
    assert {(i, 200 + i) for i in range(9)} <= expected


def test_copies_are_found_among_thousands() -> None:
    """Bands of 12 bits instead of 9: a copy whose correlation is just enough is still found."""
    num_copies, table = 60, random_table(3000)
    limit = math.floor(FINGERPRINT_BITS * math.acos(MIN_CORRELATION) / math.pi)
    for i in range(num_copies):
        table[-1 - i] = with_flips(table[i], limit, seed=i)
    assert {(i, 2999 - i) for i in range(num_copies)} <= pairs_of(table)


def test_candidates_come_most_similar_first_with_their_estimates() -> None:
    table = random_table(40)
    for i, count in enumerate([250, 10, 120]):
        table[30 + i] = with_flips(table[i], count, seed=i)
    found = list(find_candidates(table))
    assert [(first, second) for first, second, _ in found] == [(1, 31), (2, 32), (0, 30)]
    expected = [math.cos(math.pi * count / FINGERPRINT_BITS) for count in (10, 120, 250)]
    assert [correlation for _, _, correlation in found] == pytest.approx(expected)


def test_a_crowd_of_similar_photographs_costs_no_square_and_stays_connected() -> None:
    center = random_table(1)[0]
    crowd = np.stack([with_flips(center, 60, seed) for seed in range(400)])
    found = find_candidates(crowd)
    assert len(found.first) <= MAX_CANDIDATES * len(crowd)
    union = UnionFind(len(crowd))
    for first, second, _ in found:
        union.union(first, second)
    assert set(union.groups()) == {0}


@pytest.mark.parametrize("num", [0, 1])
def test_fewer_than_two_photographs_have_no_candidates(num: int) -> None:
    assert pairs_of(random_table(num)) == set()


# Registration with a fingerprint


def test_a_shifted_and_scaled_descriptor_is_registered_with_a_fingerprint() -> None:
    values = noise(0, 1.5)
    matrix = np.array([[1.06, 0, -0.2], [0, 0.97, 1.5]])
    moved = quantized(cv2.warpAffine(values, matrix, SHAPE, flags=cv2.INTER_CUBIC))
    table = table_of([quantized(values), moved])
    assert float(estimate_correlation(np.array(num_different(*table)))) < MIN_CORRELATION
    assert registered_estimate(moved, table[0]) > 0.85


def test_an_unrelated_descriptor_cannot_be_registered_with_a_fingerprint() -> None:
    for seed in range(5):
        other = table_of([quantized(noise(100 + seed, 1.5))])[0]
        assert registered_estimate(quantized(noise(seed, 1.5)), other) < MIN_CORRELATION - 0.2
