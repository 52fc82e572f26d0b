"""Predictions on their way to a file: row by row, going on where an earlier run was stopped.

    out.csv.partial        the rows so far; it becomes out.csv when all are there
    out.csv.partial.json   by what they were made, so that only the same is added to them; it becomes out.csv.json

Rows for Parquet wait as JSON lines. A kill at any moment leaves whole rows and at most one that is cut short.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from fundusgrade.errors import StoreError
from fundusgrade.files import file_lock, write_atomically
from fundusgrade.grades import Prediction, Ungraded
from fundusgrade.grading import parquet
from fundusgrade.grading.rows import (
    RowFormat,
    WrittenRow,
    csv_header,
    csv_line,
    csv_rows,
    json_line,
    json_rows,
    name_in_row,
    row_format,
    row_of,
)

PARTIAL = ".partial"
_KEY = ".json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All photographs by name, in order, and by what they are graded; what is there already is gone on with or not.

    Rows are kept in multiples of `batch_size`: the network then sees the same batches as without a stop.
    """

    names: Sequence[str]
    made_by: Mapping[str, object]
    batch_size: int
    resume: bool = False
    overwrite: bool = False


class PredictionWriter:
    """Streams predictions to a file (.csv, .jsonl, .parquet), or as CSV to standard output where `path` is None.

    Use it in a `with` block: the file takes its name when the block ends well. When it does not, the partial file stays
    and a note on the exception names it. With a `job`, `num_kept` of its photographs have their rows already. With
    `with_ranges` each row ends with the lowest and highest grade of its range. Raises StoreError where the file cannot
    be written, is being written by another process, or holds rows that were neither resumed nor given up, already on
    entering the block.
    """

    def __init__(self, path: Path | None, *, with_ranges: bool = False, job: Job | None = None) -> None:
        self.path = path
        self.num_graded = 0
        self.num_ungraded = 0
        self.num_doubtful = 0
        self.num_kept = 0
        self.was_finished = False
        streams = path is None or (os.path.lexists(path) and not os.path.isfile(path))  # noqa: PTH113 (never raises)
        self._format = RowFormat.CSV if path is None or streams else row_format(path)
        self._partial = None if path is None or streams else path.with_name(path.name + PARTIAL)
        self._with_ranges = with_ranges
        self._job = job
        self._stream: BinaryIO | None = None
        self._lock = contextlib.ExitStack()

    def __enter__(self) -> PredictionWriter:
        if self._format is RowFormat.PARQUET:
            parquet.check_parquet()
        with self._write_errors():
            if self.path is not None and self._partial is not None:
                self._claim(self.path, self._partial)
                if self.was_finished:
                    return self
            elif self.path is not None:
                # A device or a pipe is written to: a file renamed into its place would remove it.
                self._stream = self.path.open("wb")
        if self._format is RowFormat.CSV and not self.num_kept:
            self._write(csv_header(with_ranges=self._with_ranges))
        return self

    def write(self, result: Prediction | Ungraded) -> None:
        """Write one row; it is in the file when this returns."""
        row = row_of(result, with_ranges=self._with_ranges)
        self._write(csv_line(row) if self._format is RowFormat.CSV else json_line(row))
        is_graded = isinstance(result, Prediction)
        self._count(is_graded=is_graded, is_doubtful=is_graded and not row["gradable"])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._stream is None or self.path is None:
            return
        if error is not None:
            self._abandon()
            where = self._partial or self.path
            going_on = " Give --resume to go on." if self._job is not None and self._partial is not None else ""
            error.add_note(f"The rows written so far ({self.num_graded + self.num_ungraded}) are in {where}.{going_on}")
            return
        with self._write_errors(), self._lock:
            self._finish(self.path)

    def _claim(self, path: Path, partial: Path) -> None:
        """Hold the file's lock from before the rows are looked at until they have their name."""
        self._lock.enter_context(file_lock(path, wait=False))
        try:
            self.was_finished = self._is_finished(partial)
            if self.was_finished:
                self._lock.close()
                return
            partial.parent.mkdir(parents=True, exist_ok=True)
            partial.touch()
            self._stream = partial.open("r+b")
            size = self._take_over(self._stream, partial, self._job) if self._job is not None else 0
            self._stream.seek(size)
            self._stream.truncate()
        except BaseException:
            self._abandon()
            raise

    def _take_over(self, file: BinaryIO, partial: Path, job: Job) -> int:
        """Count the rows of an earlier run that are kept; returns how many bytes of the file they take, with header."""
        header = file.readline() if self._format is RowFormat.CSV else b""
        start = file.tell()
        has_rows = next(self._rows(file), None) is not None
        if has_rows and not job.resume and not job.overwrite:
            raise StoreError(
                f"{partial} holds the rows of a run that was stopped; add --resume to go on with it or --overwrite to "
                "start again"
            )
        kept: list[_Counted] = []
        if has_rows and job.resume:
            _check_made_by(_key_file(partial), job)
            file.seek(start)
            rows = list(_matching(self._rows(file), job, partial, self._format))
            kept = rows if len(rows) == len(job.names) else rows[: len(rows) // job.batch_size * job.batch_size]
        if not kept:
            write_atomically(_key_file(partial), json.dumps(job.made_by, indent=2) + "\n")
            return 0
        self._keep(kept)
        return len(header) + sum(row.num_bytes for row in kept)

    def _keep(self, rows: Sequence[_Counted]) -> None:
        self.num_kept = len(rows)
        for row in rows:
            self._count(is_graded=row.is_graded, is_doubtful=row.is_doubtful)

    def _is_finished(self, partial: Path) -> bool:
        """Whether a run that is to be resumed has ended: a row for each photograph, made alike, which are counted."""
        path, job = self.path, self._job
        if job is None or not job.resume or path is None or partial.is_file() or not path.is_file():
            return False
        _check_made_by(_key_file(path), job)
        rows: list[_Counted] = []
        for row, name in itertools.zip_longest(read_rows(path), job.names):
            if row is None or name is None or row.image != name_in_row(name, self._format):
                raise StoreError(
                    f"{path} is finished, but holds other photographs' rows; give the same photographs, or leave "
                    "--resume out to replace it"
                )
            rows.append(_Counted.of(row))
        self._keep(rows)
        return True

    def _rows(self, file: BinaryIO) -> Iterator[WrittenRow]:
        return csv_rows(file) if self._format is RowFormat.CSV else json_rows(file)

    def _count(self, *, is_graded: bool, is_doubtful: bool) -> None:
        self.num_graded += is_graded
        self.num_ungraded += not is_graded
        self.num_doubtful += is_graded and is_doubtful

    def _write(self, line: bytes) -> None:
        if self.path is None:
            _write_to_stdout(line)
        elif self._stream is not None:
            with self._write_errors():
                try:
                    self._stream.write(line)
                    self._stream.flush()
                except OSError:
                    self._abandon()
                    raise

    def _finish(self, path: Path) -> None:
        assert self._stream is not None, "a file was opened"
        if self._partial is None:
            self._stream.close()
            return
        os.fsync(self._stream.fileno())
        self._stream.close()  # Windows renames no open file
        if self._job is not None:
            write_atomically(_key_file(path), json.dumps(self._job.made_by, indent=2) + "\n")
        if self._format is RowFormat.PARQUET:
            with self._partial.open("rb") as lines:
                parquet.write_parquet(lines, path, with_ranges=self._with_ranges)
            self._partial.unlink()
        else:
            self._partial.replace(path)
        _key_file(self._partial).unlink(missing_ok=True)

    def _abandon(self) -> None:
        # Closing writes what is buffered, which fails once more on a full disk.
        if self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.close()
        self._lock.close()

    @contextlib.contextmanager
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _cannot_write(self.path, error) from error


def read_rows(path: Path) -> Iterator[WrittenRow]:
    """The rows of a finished file, in any format. Raises StoreError where it cannot be read, or is none of ours."""
    chosen = row_format(path)
    if chosen is RowFormat.PARQUET:
        yield from parquet.parquet_rows(path)
        return
    try:
        with path.open("rb") as file:
            if chosen is RowFormat.CSV:
                header = file.readline()
                if header not in (csv_header(with_ranges=False), csv_header(with_ranges=True)):
                    raise StoreError(
                        f"{path} does not begin as predictions do; make it again with `fundusgrade predict`"
                    )
            yield from csv_rows(file) if chosen is RowFormat.CSV else json_rows(file)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}; check its name and permissions") from error


@dataclass(frozen=True, slots=True)
class _Counted:
    """What is remembered of a row that is kept: a night's rows must fit in memory many times."""

    num_bytes: int
    is_graded: bool
    is_doubtful: bool

    @classmethod
    def of(cls, row: WrittenRow) -> _Counted:
        return cls(len(row.line), row.is_graded, row.is_doubtful)


def _matching(rows: Iterator[WrittenRow], job: Job, partial: Path, row_format: RowFormat) -> Iterator[_Counted]:
    """The rows as long as they are those of the job's photographs. Raises StoreError where they are of others."""
    names = iter(job.names)
    for row in rows:
        expected = next(names, None)
        if expected is None or row.image != name_in_row(expected, row_format):
            raise StoreError(
                f"{partial} goes on with {row.image!r} where {expected or 'its end'!r} is expected: these are not the "
                "photographs that it was begun with; give the same, or start again with --overwrite, without --resume"
            )
        yield _Counted.of(row)


def _check_made_by(key: Path, job: Job) -> None:
    """Raises StoreError where the rows that a key file stands beside were made otherwise than the job's."""
    try:
        before = json.loads(key.read_text(encoding="utf-8"))
        asked = job.made_by.items()
        different = [f"{name} was {before.get(name)}, is {value}" for name, value in asked if before.get(name) != value]
    except (OSError, ValueError, AttributeError):
        different = ["what they were made by is not known"]
    if different:
        raise StoreError(
            f"the rows in {key.with_suffix('')} were made otherwise: {'; '.join(different)}; give the same options to "
            "go on, or start again with --overwrite, without --resume"
        )


def made_by(path: Path) -> str:
    """By what the rows of a finished file were made, as text; empty where that is not known."""
    try:
        return _key_file(path).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _key_file(path: Path) -> Path:
    return path.with_name(path.name + _KEY)


def _write_to_stdout(line: bytes) -> None:
    binary = getattr(sys.stdout, "buffer", None)
    if binary is None:  # replaced by a text buffer
        sys.stdout.write(line.decode())
        sys.stdout.flush()
    else:
        # Past the text layer, which on some machines is not UTF-8 and changes line ends.
        sys.stdout.flush()
        binary.write(line)
        binary.flush()  # not sys.stdout's: a progress bar puts a layer of its own there


def _cannot_write(path: Path | None, error: OSError) -> StoreError:
    reason = (error.strerror or str(error)).lower()
    return StoreError(f"cannot write {path}: {reason}; name a file in a folder with room that you may write to")
