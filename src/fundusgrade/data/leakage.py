"""Leakage between data sets: fingerprints of a model's training photographs, and which photographs they match.

They are stored in the checkpoint. Parts of hashes of files and patients tell nothing to one who has neither the file
nor the patient's identifier. From a perceptual fingerprint a sketch of 48 x 48 cells can be estimated that shows optic
disc, fovea and the largest vessels, but no photograph. A patient's fingerprint also depends on the data set's name,
because other data sets give numbers such as "17" to other people.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.descriptors import descriptor_path, read_descriptor
from fundusgrade.data.duplicates import MIN_CORRELATION
from fundusgrade.data.fingerprints import (
    FINGERPRINT_BYTES,
    find_candidates,
    fingerprint_table,
    registered_estimate,
)
from fundusgrade.data.manifest import ManifestRow

HASH_BYTES = 8
"""Bytes kept of the hash of a file or a patient."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingFingerprints:
    """Fingerprints of the photographs that a model was trained and selected on, one per row, sorted, all uint8."""

    files: NDArray[np.uint8]
    """First bytes of each file's hash, (N, 8)."""
    fingerprints: NDArray[np.uint8]
    """Perceptual fingerprint of each photograph, (M, 128)."""
    patients: NDArray[np.uint8]
    """First bytes of the hash of each patient's data set and identifier, (P, 8)."""

    @property
    def is_known(self) -> bool:
        """Whether there are any: a model file may lack them."""
        return len(self.files) > 0

    def joined(self, other: TrainingFingerprints) -> TrainingFingerprints:
        """The fingerprints of both, each once."""
        return TrainingFingerprints(
            files=_rows_of_both(self.files, other.files),
            fingerprints=_rows_of_both(self.fingerprints, other.fingerprints),
            patients=_rows_of_both(self.patients, other.patients),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Photographs of a data set that a model was trained or selected on, by their sources, each listed once."""

    files: tuple[str, ...]
    """The same files."""
    copies: tuple[str, ...]
    """Copies of them."""
    patients: tuple[str, ...]
    """Other photographs of the same patients."""

    @property
    def sources(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.files, *self.copies, *self.patients)


def collect_fingerprints(dataset: PreparedDataset, rows: Sequence[ManifestRow]) -> TrainingFingerprints:
    """The fingerprints of these photographs of a data set."""
    patients = {(_origin(dataset, row), row.patient) for row in rows if row.patient is not None}
    return TrainingFingerprints(
        files=_table({_file_hash(row) for row in rows}, HASH_BYTES),
        fingerprints=_table({row.fingerprint for row in rows if row.fingerprint}, FINGERPRINT_BYTES),
        patients=_table({_patient_hash(data_name, patient) for data_name, patient in patients}, HASH_BYTES),
    )


def find_overlap(fingerprints: TrainingFingerprints, dataset: PreparedDataset, rows: Sequence[ManifestRow]) -> Overlap:
    """Which of these photographs the model was trained or selected on, or on others of their patients."""
    is_file, is_patient = _are_files(fingerprints, rows), _are_of_patients(fingerprints, dataset, rows)
    is_copy = _is_copy(fingerprints.fingerprints, dataset, rows)
    return Overlap(
        files=tuple(row.source for row, same in zip(rows, is_file, strict=True) if same),
        copies=tuple(row.source for row, copy, same in zip(rows, is_copy, is_file, strict=True) if copy and not same),
        patients=tuple(
            row.source
            for row, same_patient, copy, same in zip(rows, is_patient, is_copy, is_file, strict=True)
            if same_patient and not copy and not same
        ),
    )


def shares_files_or_patients(
    fingerprints: TrainingFingerprints, dataset: PreparedDataset, rows: Sequence[ManifestRow]
) -> bool:
    """Whether the model was trained or selected on any of these files, or on photographs of these patients."""
    return any(_are_files(fingerprints, rows)) or any(_are_of_patients(fingerprints, dataset, rows))


def count_unchecked(fingerprints: TrainingFingerprints, rows: Sequence[ManifestRow]) -> int:
    """Of how many photographs copies cannot be found, because they or the model have no perceptual fingerprints."""
    has_any = len(fingerprints.fingerprints) > 0
    return sum(row.fingerprint is None or not has_any for row in rows)


def _are_files(fingerprints: TrainingFingerprints, rows: Sequence[ManifestRow]) -> list[bool]:
    files = {row.tobytes().hex() for row in fingerprints.files}
    return [_file_hash(row) in files for row in rows]


def _are_of_patients(
    fingerprints: TrainingFingerprints, dataset: PreparedDataset, rows: Sequence[ManifestRow]
) -> list[bool]:
    patients = {row.tobytes().hex() for row in fingerprints.patients}
    return [row.patient is not None and _patient_hash(_origin(dataset, row), row.patient) in patients for row in rows]


def _origin(dataset: PreparedDataset, row: ManifestRow) -> str:
    """The data set of a row, by the name under which it was prepared: a model knows its patients by that name."""
    part = next((part for part in dataset.parts if part.name == row.origin), dataset)
    return part.first_name or row.origin or part.name


def _file_hash(row: ManifestRow) -> str:
    return row.sha256[: 2 * HASH_BYTES]


def _patient_hash(data_name: str, patient: str) -> str:
    return hashlib.sha256(f"{data_name}\n{patient}".encode()).hexdigest()[: 2 * HASH_BYTES]


def _table(values: Iterable[str], num_bytes: int) -> NDArray[np.uint8]:
    """Values in hexadecimal as rows (N, num_bytes), sorted."""
    whole = b"".join(bytes.fromhex(value) for value in sorted(values))
    return np.frombuffer(whole, np.uint8).reshape(-1, num_bytes)


def _rows_of_both(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The rows of two tables, sorted, each once."""
    return np.asarray(np.unique(np.concatenate([first, second]), axis=0), np.uint8)


def _is_copy(training: NDArray[np.uint8], dataset: PreparedDataset, rows: Sequence[ManifestRow]) -> list[bool]:
    """Whether each photograph, once registered, correlates with a training photograph, by fingerprints (M, 128)."""
    known = [index for index, row in enumerate(rows) if row.fingerprint is not None]
    if not len(training) or not known:
        return [False] * len(rows)
    table = np.concatenate([training, fingerprint_table([rows[index].fingerprint or "" for index in known])])
    is_copy = [False] * len(rows)
    for first, second, estimate in find_candidates(table):
        if first < len(training) <= second and not is_copy[index := known[second - len(training)]]:
            is_copy[index] = _correlation(training[first], dataset, rows[index], estimate) >= MIN_CORRELATION
    return is_copy


def _correlation(training: NDArray[np.uint8], dataset: PreparedDataset, row: ManifestRow, estimate: float) -> float:
    """The estimated correlation with a training photograph, registered where the estimate before is too low."""
    if estimate >= MIN_CORRELATION or not row.image:
        return estimate
    descriptor = read_descriptor(descriptor_path(dataset.directory / row.image))
    return estimate if descriptor is None else registered_estimate(descriptor, training)
