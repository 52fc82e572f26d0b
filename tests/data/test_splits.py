"""Photographs that belong together stay together, and every split looks like the whole."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from fundusgrade.data.duplicates import (
    FINGERPRINT_BITS,
    MAX_DIFFERENT_BITS,
    Grouping,
    Identity,
    fingerprint,
    group_photographs,
)
from fundusgrade.data.prepare_images import FINGERPRINT_RECIPE
from fundusgrade.data.splits import SPLIT_FRACTIONS, assign_folds, split_groups
from fundusgrade.grades import NUM_GRADES, Grade
from fundusgrade.options import NUM_FOLDS
from fundusgrade.photographs.pixels import Image
from tests import drawn_eyes
from tests.drawn_eyes import preprocess_photograph

FRACTIONS = tuple(SPLIT_FRACTIONS.values())
FOLDS = (1 / NUM_FOLDS,) * NUM_FOLDS
APTOS_COUNTS = (1805, 370, 999, 193, 295)


def identity(sha256: str, bits: int | None = None, patient: str | None = None) -> Identity:
    """`bits` is the fingerprint as a number; None where the photograph could not be prepared."""
    return Identity(
        sha256=sha256, fingerprint=None if bits is None else f"{bits:0{FINGERPRINT_BITS // 4}x}", patient=patient
    )


def random_bits(seed: int) -> int:
    return int.from_bytes(np.random.default_rng(seed).bytes(FINGERPRINT_BITS // 8))


def flipped(bits: int, count: int) -> int:
    """The number with this many bits turned."""
    return bits ^ ((1 << count) - 1)


def fingerprint_of(photograph: Image) -> str:
    prepared = preprocess_photograph(photograph, FINGERPRINT_RECIPE)
    return fingerprint(prepared.image, prepared.mask)


def different_bits(first: str, second: str) -> int:
    return (int(first, 16) ^ int(second, 16)).bit_count()


def recompressed(photograph: Image, scale: float, quality: int) -> Image:
    small = cv2.resize(photograph, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), np.uint8)


# Fingerprints


@pytest.mark.parametrize(("scale", "quality"), [(1.0, 75), (0.8, 90)])
def test_a_recompressed_and_reduced_copy_is_recognized(scale: float, quality: int) -> None:
    for eye in (drawn_eyes.plain_retina(160, seed=1), drawn_eyes.healthy_eye(160)):
        copy = recompressed(eye.photograph, scale, quality)
        assert different_bits(fingerprint_of(eye.photograph), fingerprint_of(copy)) <= MAX_DIFFERENT_BITS


def test_different_eyes_are_far_apart() -> None:
    eyes = [drawn_eyes.plain_retina(128, seed) for seed in range(5)] + [drawn_eyes.healthy_eye(128)]
    prints = [fingerprint_of(eye.photograph) for eye in eyes]
    assert min(itertools.starmap(different_bits, itertools.combinations(prints, 2))) > 1.2 * MAX_DIFFERENT_BITS


def test_cells_outside_the_field_of_view_have_no_influence() -> None:
    """Light or dark on the whole, the corners' bits are the same: else one sign would turn all of them at once."""
    y, x = np.mgrid[:96, :96] - 47.5
    mask = np.hypot(x, y) <= 48
    spot = np.hypot(x - 10, y) < 12
    for inside, outside in ((60, 128), (200, 128), (60, 0), (200, 255)):
        image = np.where(spot, inside, 128).astype(np.uint8)
        image = np.where(mask, image, outside).astype(np.uint8)
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(fingerprint(np.dstack([image] * 3), mask)), np.uint8))
        corners = bits.reshape(16, 16)[[0, 0, 1, 15, 15], [0, 1, 0, 0, 15]]
        assert not corners.any()


def test_a_fingerprint_is_256_bits() -> None:
    assert len(fingerprint_of(drawn_eyes.plain_retina(96).photograph)) * 4 == FINGERPRINT_BITS


# Groups


def test_equal_files_near_copies_and_patients_are_grouped() -> None:
    first, second, third = (random_bits(seed) for seed in range(3))
    grouping = group_photographs(
        [
            identity("a", first),
            identity("b", second, patient="P"),
            identity("a", first),
            identity("c", flipped(second, MAX_DIFFERENT_BITS)),
            identity("d", third, patient="P"),
            identity("e", flipped(first, MAX_DIFFERENT_BITS + 1)),
        ]
    )
    assert grouping.groups == (0, 1, 0, 1, 1, 2)
    assert grouping.copies == (0, 1, 0, 1, 2, 3)
    assert (grouping.num_exact_groups, grouping.num_exact_photographs) == (1, 2)
    assert (grouping.num_copy_groups, grouping.num_copy_photographs) == (2, 4)


def test_groups_are_transitive() -> None:
    """A copy of a near copy of a patient's photograph belongs to that patient's other photographs."""
    bits = random_bits(0)
    chain = [
        identity("a", bits),
        identity("b", flipped(bits, MAX_DIFFERENT_BITS)),
        identity("c", flipped(bits, 2 * MAX_DIFFERENT_BITS), patient="P"),
        identity("d", random_bits(1), patient="P"),
        identity("d", None, patient="Q"),
        identity("e", random_bits(2), patient="Q"),
        identity("f", random_bits(3)),
    ]
    for order in (range(7), reversed(range(7)), (3, 0, 5, 6, 2, 4, 1)):
        indices = list(order)
        groups = group_photographs([chain[i] for i in indices]).groups
        assert groups[indices.index(6)] not in [group for i, group in zip(indices, groups, strict=True) if i != 6]
        assert len(set(groups)) == 2


def test_unknown_fingerprints_and_patients_group_nothing() -> None:
    grouping = group_photographs([identity("a"), identity("b"), identity("c", random_bits(0)), identity("d")])
    assert grouping.groups == (0, 1, 2, 3)
    assert grouping.num_copy_groups == grouping.num_exact_groups == 0


def test_no_photographs_have_no_groups() -> None:
    assert group_photographs([]) == Grouping(
        groups=(), copies=(), num_exact_groups=0, num_exact_photographs=0, num_copy_groups=0, num_copy_photographs=0
    )


def test_copies_are_found_across_the_blocks_that_are_compared_at_once() -> None:
    identities = [identity(str(i), random_bits(i)) for i in range(1500)]
    identities += [identity("copy of 3", flipped(random_bits(3), 5)), identity("copy of 1499", random_bits(1499))]
    grouping = group_photographs(identities)
    assert grouping.groups[1500:] == (3, 1499)
    assert grouping.num_copy_groups == 2


# Splits


def aptos_like() -> tuple[list[int], list[Grade]]:
    """3,662 photographs with APTOS's grades in random order, 132 groups of copies among the diseased, 40 patients."""
    rng = np.random.default_rng(2019)
    grades = [Grade(int(grade)) for grade in rng.permutation(np.repeat(range(NUM_GRADES), APTOS_COUNTS))]
    groups = list(range(len(grades)))
    diseased = rng.permutation([i for i, grade in enumerate(grades) if grade > 0])
    for pair in range(132):
        groups[diseased[2 * pair + 1]] = groups[diseased[2 * pair]]
    any_index = rng.permutation(len(grades))
    for patient in range(40):
        for i in any_index[12 * patient : 12 * patient + 12]:
            groups[i] = len(grades) + patient
    return groups, grades


def parts_of_groups(groups: list[int], parts: tuple[int, ...]) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for group, part in zip(groups, parts, strict=True):
        found.setdefault(group, set()).add(part)
    return found


@pytest.mark.parametrize("fractions", [FRACTIONS, FOLDS])
def test_a_set_like_aptos_is_stratified_and_keeps_groups_whole(fractions: tuple[float, ...]) -> None:
    groups, grades = aptos_like()
    parts = split_groups(groups, grades, fractions, seed=0)
    assert {len(found) for found in parts_of_groups(groups, parts).values()} == {1}
    counts = np.zeros((len(fractions), NUM_GRADES))
    np.add.at(counts, (parts, grades), 1)
    assert counts.sum(axis=1) == pytest.approx(np.multiply(fractions, len(grades)), abs=12)
    assert counts == pytest.approx(np.outer(fractions, APTOS_COUNTS), abs=6)


def test_one_seed_gives_one_split_and_another_seed_another() -> None:
    groups, grades = aptos_like()
    first, again, other = (split_groups(groups, grades, FRACTIONS, seed) for seed in (0, 0, 1))
    assert first == again
    assert np.mean(np.not_equal(first, other)) > 0.2


def test_the_numbers_of_groups_do_not_matter() -> None:
    groups, grades = aptos_like()
    renamed = [7 * group + 3 for group in groups]
    assert split_groups(groups, grades, FRACTIONS, 0) == split_groups(renamed, grades, FRACTIONS, 0)


@pytest.mark.parametrize("fractions", [FRACTIONS, FOLDS])
def test_tiny_sets_are_split_too(fractions: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    for size in range(1, 11):
        for _ in range(5):
            grades = [Grade(int(grade)) for grade in rng.integers(0, NUM_GRADES, size)]
            groups = [int(group) for group in rng.integers(0, size, size)]
            parts = split_groups(groups, grades, fractions, seed=0)
            assert len(parts) == size and set(parts) <= set(range(len(fractions)))
            assert {len(found) for found in parts_of_groups(groups, parts).values()} == {1}


def test_one_photograph_goes_to_training() -> None:
    assert split_groups([5], [Grade.SEVERE], FRACTIONS, seed=0) == (0,)


def test_a_set_that_is_one_group_is_not_split() -> None:
    assert len(set(split_groups([1] * 20, [Grade(i % 5) for i in range(20)], FRACTIONS, seed=0))) == 1


def test_three_of_a_rare_grade_reach_all_three_splits() -> None:
    grades = [Grade.NONE] * 100 + [Grade.PROLIFERATIVE] * 3
    parts = split_groups(list(range(103)), grades, FRACTIONS, seed=0)
    assert sorted(parts[-3:]) == [0, 1, 2]


# Folds


@pytest.mark.parametrize("num_folds", [2, 5, 10])
def test_folds_are_equal_parts_with_equal_grades_that_keep_groups_whole(num_folds: int) -> None:
    groups, grades = aptos_like()
    folds = assign_folds(groups, grades, num_folds, seed=0)
    assert {len(found) for found in parts_of_groups(groups, folds).values()} == {1}
    counts = np.zeros((num_folds, NUM_GRADES))
    np.add.at(counts, (folds, grades), 1)
    assert counts.sum(axis=1) == pytest.approx(len(grades) / num_folds, abs=12)
    assert counts == pytest.approx(np.tile(np.divide(APTOS_COUNTS, num_folds), (num_folds, 1)), abs=6)


def test_folds_follow_from_the_seed_and_are_not_the_splits() -> None:
    groups, grades = aptos_like()
    first, again, other = (assign_folds(groups, grades, 5, seed) for seed in (0, 0, 1))
    assert first == again
    assert np.mean(np.not_equal(first, other)) > 0.5
    assert np.mean(np.not_equal(first, split_groups(groups, grades, FOLDS, seed=0))) > 0.5
