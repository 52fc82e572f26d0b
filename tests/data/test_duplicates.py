"""Copies are candidates by their fingerprints that registration confirms; groups also hold a patient's photographs."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np

from fundusgrade.data.descriptors import DESCRIPTOR_SIDE, Descriptor, write_descriptor
from fundusgrade.data.duplicates import MIN_CORRELATION, Grouping, Identity, group_photographs
from fundusgrade.data.fingerprints import FINGERPRINT_BITS, FINGERPRINT_BYTES, fingerprint

# So many bits may differ where no descriptor is stored.
MAX_DIFFERENT_BITS = math.floor(FINGERPRINT_BITS * math.acos(MIN_CORRELATION) / math.pi)


def identity(sha256: str, bits: int | None = None, patient: str | None = None) -> Identity:
    """`bits` is the fingerprint as a number; None where the photograph could not be prepared."""
    text = None if bits is None else f"{bits:0{FINGERPRINT_BITS // 4}x}"
    return Identity(sha256=sha256, fingerprint=text, descriptor=None, patient=patient)


def random_bits(seed: int) -> int:
    return int.from_bytes(np.random.default_rng(seed).bytes(FINGERPRINT_BYTES))


def flipped(bits: int, count: int) -> int:
    """The number with this many bits turned."""
    return bits ^ ((1 << count) - 1)


def pattern(seed: int, *, dx: float = 0.0) -> Descriptor:
    """A random pattern (48, 48), seen from further to the left by this many cells."""
    noise = np.random.default_rng(seed).normal(0, 1, (DESCRIPTOR_SIDE, 2 * DESCRIPTOR_SIDE)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.2)
    moved = cv2.warpAffine(smooth / smooth.std(), np.array([[1, 0, dx - 20], [0, 1, 0]]), smooth.shape[::-1])
    return np.clip(np.rint(32 * moved[:, :DESCRIPTOR_SIDE]), -127, 127).astype(np.int8)


def stored(folder: Path, name: str, descriptor: Descriptor, *, like: Descriptor | None = None) -> Identity:
    """A photograph whose descriptor is stored; its fingerprint is that of another descriptor where one is given."""
    write_descriptor(folder / f"{name}.npy", descriptor)
    text = fingerprint(descriptor if like is None else like)
    return Identity(sha256=name, fingerprint=text, descriptor=folder / f"{name}.npy", patient=None)


def test_a_candidate_is_a_copy_only_if_the_registered_photographs_correlate(tmp_path: Path) -> None:
    first, other = pattern(0), pattern(1)
    identities = [
        stored(tmp_path, "a", first),
        stored(tmp_path, "false candidate", other, like=first),
        stored(tmp_path, "moved", pattern(0, dx=1.2)),
        stored(tmp_path, "false and moved", pattern(2, dx=1.2), like=pattern(0, dx=1.2)),
    ]
    assert group_photographs(identities).copies == (0, 1, 0, 2)
    (tmp_path / "false candidate.npy").unlink()
    assert group_photographs(identities).copies[1] == 0, "without a descriptor the fingerprint decides"


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


def test_copies_are_found_among_many_photographs() -> None:
    identities = [identity(str(i), random_bits(i)) for i in range(1500)]
    identities += [identity("copy of 3", flipped(random_bits(3), 5)), identity("copy of 1499", random_bits(1499))]
    grouping = group_photographs(identities)
    assert grouping.groups[1500:] == (3, 1499)
    assert grouping.num_copy_groups == 2
