"""What a model has seen: marks of its training photographs, so that nobody tests it on them unawares.

A mark is part of a hash, or a fingerprint of 256 bits; neither gives a picture back. Marks travel in the checkpoint. A
patient's mark also depends on the data set's name: numbers such as "17" are given to other people elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.duplicates import FINGERPRINT_BITS, MAX_DIFFERENT_BITS
from fundusgrade.data.manifest import ManifestRow

MARK_BYTES = 8
_FINGERPRINT_BYTES = FINGERPRINT_BITS // 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingFingerprints:
    """Marks of what was used to train and to choose: files (N, 8), fingerprints (M, 32), patients (P, 8), all uint8."""

    files: NDArray[np.uint8]
    fingerprints: NDArray[np.uint8]
    patients: NDArray[np.uint8]

    @property
    def is_known(self) -> bool:
        """Whether there are marks at all: models made before there were any have none."""
        return len(self.files) > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Photographs of a data set that a model was trained on: the same files, copies of them, other photographs of
    the same patients."""

    files: tuple[str, ...]
    copies: tuple[str, ...]
    patients: tuple[str, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.files, *self.copies, *self.patients)


def exposure_of(dataset: PreparedDataset, rows: Sequence[ManifestRow]) -> TrainingFingerprints:
    """Marks of these photographs of a data set."""
    patients = {(_origin(dataset, row), row.patient) for row in rows if row.patient is not None}
    return TrainingFingerprints(
        files=_table({row.sha256[: 2 * MARK_BYTES] for row in rows}, MARK_BYTES),
        fingerprints=_table({row.fingerprint for row in rows if row.fingerprint}, _FINGERPRINT_BYTES),
        patients=_table({_patient_mark(*each) for each in patients}, MARK_BYTES),
    )


def find_overlap(fingerprints: TrainingFingerprints, dataset: PreparedDataset, rows: Sequence[ManifestRow]) -> Overlap:
    """Which of these photographs, or of their patients, the model has seen."""
    files = {mark.tobytes().hex() for mark in fingerprints.files}
    patients = {mark.tobytes().hex() for mark in fingerprints.patients}
    is_file = [row.sha256[: 2 * MARK_BYTES] in files for row in rows]
    is_copy = _near(fingerprints.fingerprints, [row.fingerprint for row in rows])
    is_patient = [
        row.patient is not None and _patient_mark(_origin(dataset, row), row.patient) in patients for row in rows
    ]
    return Overlap(
        files=tuple(row.source for row, same in zip(rows, is_file, strict=True) if same),
        copies=tuple(row.source for row, copy, same in zip(rows, is_copy, is_file, strict=True) if copy and not same),
        patients=tuple(
            row.source
            for row, known, copy, same in zip(rows, is_patient, is_copy, is_file, strict=True)
            if known and not copy and not same
        ),
    )


def _origin(dataset: PreparedDataset, row: ManifestRow) -> str:
    return row.origin or dataset.name


def _patient_mark(data_name: str, patient: str) -> str:
    return hashlib.sha256(f"{data_name}\n{patient}".encode()).hexdigest()[: 2 * MARK_BYTES]


def _table(marks: Iterable[str], num_bytes: int) -> NDArray[np.uint8]:
    """Hex marks as rows (N, num_bytes), in their order."""
    whole = b"".join(bytes.fromhex(mark) for mark in sorted(marks))
    return np.frombuffer(whole, np.uint8).reshape(-1, num_bytes)


def _near(seen: NDArray[np.uint8], fingerprints: Sequence[str | None]) -> list[bool]:
    """Whether each fingerprint differs in few bits from one that was seen."""
    if not len(seen):
        return [False] * len(fingerprints)
    known = [fingerprint or "00" * _FINGERPRINT_BYTES for fingerprint in fingerprints]
    asked = np.frombuffer(bytes.fromhex("".join(known)), np.uint8).reshape(-1, _FINGERPRINT_BYTES)
    seen_signs, asked_signs = (np.unpackbits(table, axis=1).astype(np.float32) * 2 - 1 for table in (seen, asked))
    threshold = FINGERPRINT_BITS - 2 * MAX_DIFFERENT_BITS
    near: list[bool] = []
    for start in range(0, len(asked_signs), 1024):
        near += ((asked_signs[start : start + 1024] @ seen_signs.T).max(axis=1) >= threshold).tolist()
    return [is_near and fingerprint is not None for is_near, fingerprint in zip(near, fingerprints, strict=True)]
