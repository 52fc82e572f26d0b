"""Resuming an interrupted run: the rows of a partial file are kept only where they are those that this run would write.

Beside a file of rows stands `NAME.json` with its provenance: model, precision, batch size and whatever else determines
a row besides the photograph.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from fundusgrade.errors import StoreError
from fundusgrade.files import write_atomically
from fundusgrade.grading.counts import CountedRow
from fundusgrade.grading.reader import file_columns, matching_rows, read_rows
from fundusgrade.grading.rows import RowFormat, WrittenRow, csv_rows, json_rows, parse_header, row_format

_SUFFIX = ".json"
_REMEDY = "rerun with the same options and photographs, or start over with --overwrite instead of --resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowProvenance:
    """Everything besides the photograph that determines a row.

    `description` is the SHA-256 of the model's description, which holds the hash of its weights; `coverage` the
    target coverage of its ranges of grades, None without ranges; `referable_threshold` that of the operating point.
    """

    fundusgrade: str
    model: str
    description: str
    device: str
    runtime: str
    precision: str
    batch_size: int
    require_gradable: bool
    tta: bool
    coverage: float | None
    referable_threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRequest:
    """The names of all photographs in order, the provenance of their rows, and what to do with a partial file.

    `resume` keeps its rows, `overwrite` discards them; without either a partial file is an error.
    """

    names: Sequence[str]
    provenance: RowProvenance
    resume: bool = False
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRow:
    """The size and summary of a row on disk that is kept."""

    num_bytes: int
    counted: CountedRow

    @classmethod
    def of(cls, row: WrittenRow) -> KeptRow:
        """Of one row, of a file with the columns of today."""
        return cls(num_bytes=len(row.line), counted=CountedRow.of(row))


def provenance_file(path: Path) -> Path:
    """Where the provenance of a file of rows is stored."""
    return path.with_name(provenance_name(path.name))


def provenance_name(name: str) -> str:
    """The name of the file that holds the provenance of a file of rows."""
    return f"{name}{_SUFFIX}"


def write_provenance(path: Path, provenance: RowProvenance) -> None:
    """Store the provenance beside a file of rows. Raises StoreError."""
    write_atomically(provenance_file(path), json.dumps(asdict(provenance), indent=2) + "\n")


def provenance_text(path: Path) -> str:
    """The stored provenance of a file of rows; "" where there is none."""
    try:
        return provenance_file(path).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def check_provenance(path: Path, provenance: RowProvenance) -> None:
    """Raises StoreError where the rows in a file were not written by this model with these options."""
    check_same_provenance(provenance_text(path), asdict(provenance), path, provenance_file(path).name)


def check_same_provenance(text: str, expected: Mapping[str, object], path: object, file_name: str) -> None:
    """Raises StoreError where the provenance of rows, the content of a file, differs from what this run has."""
    try:
        written = json.loads(text)
        different = {name: written.get(name) for name, value in expected.items() if written.get(name) != value}
    except (ValueError, AttributeError):
        raise StoreError(
            f"{path}: the provenance of its rows is unknown: {file_name} is missing or damaged; "
            "start over with --overwrite instead of --resume"
        ) from None
    if different:
        before = ", ".join(f"{name} {value}" for name, value in different.items())
        now = ", ".join(f"{name} {expected[name]}" for name in different)
        raise StoreError(f"{path} was written with {before}; this run has {now}: {_REMEDY}")


def check_columns(found: tuple[str, ...], expected: tuple[str, ...], path: Path) -> None:
    """Raises StoreError where the rows of a file do not have the columns that this run would write."""
    if found != expected:
        missing = ", ".join(name for name in expected if name not in found) or "with others than this run writes"
        raise StoreError(
            f"{path} was begun by another version of fundusgrade: its rows lack {missing}; finish it with that "
            "version, or start over with --overwrite instead of --resume"
        )


def resumable_rows(
    file: BinaryIO, path: Path, stored_as: RowFormat, request: ResumeRequest, columns: tuple[str, ...]
) -> list[KeptRow]:
    """The rows of an interrupted run with these columns that are kept, from a file at its beginning.

    None for a new run. Whole batches are kept, so that the network sees the same batches as without the interruption.
    Raises StoreError where rows are neither to be resumed nor overwritten, or are not those of this run.
    """
    first = next(_rows(file, stored_as), None)
    if first is None:
        return []
    if not request.resume:
        if request.overwrite:
            return []
        raise StoreError(
            f"{path} has the rows of an interrupted run; resume it with --resume, or discard it with --overwrite"
        )
    check_provenance(path, request.provenance)
    check_columns(first.columns, columns, path)
    file.seek(0)
    matching = matching_rows(_rows(file, stored_as), request.names, path, stored_as, remedy=_REMEDY)
    rows = [KeptRow.of(row) for row in matching]
    batch_size = request.provenance.batch_size
    return rows if len(rows) == len(request.names) else rows[: len(rows) // batch_size * batch_size]


def finished_rows(path: Path, request: ResumeRequest, columns: tuple[str, ...]) -> list[KeptRow]:
    """The rows of a finished file. Raises StoreError where they are not all rows that this run would write."""
    check_provenance(path, request.provenance)
    check_columns(file_columns(path) or columns, columns, path)
    matching = matching_rows(read_rows(path), request.names, path, row_format(path), complete=True, remedy=_REMEDY)
    return [KeptRow.of(row) for row in matching]


def _rows(file: BinaryIO, stored_as: RowFormat) -> Iterator[WrittenRow]:
    """The rows of a file at its beginning; none where the header of a CSV file is missing."""
    if stored_as is not RowFormat.CSV:
        return json_rows(file)
    columns = parse_header(file.readline())
    return iter(()) if columns is None else csv_rows(file, columns)
