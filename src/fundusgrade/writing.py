"""Predictions on their way to a file: row by row, going on where an earlier run was stopped.

    out.csv.partial        the rows so far; it becomes out.csv when all are there
    out.csv.partial.json   by what they were made, so that only the same is added to them

Rows for Parquet wait as JSON lines. A kill at any moment leaves whole rows and at most one that is cut short.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from fundusgrade import columnar, store
from fundusgrade.errors import StoreError
from fundusgrade.figures import printable
from fundusgrade.grades import Prediction, Ungraded
from fundusgrade.rows import (
    RowFormat,
    WrittenRow,
    csv_header,
    csv_line,
    csv_rows,
    csv_text,
    json_line,
    json_rows,
    row_format,
    row_of,
)

PARTIAL = ".partial"
_KEY = ".json"
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


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
        self._format = RowFormat.CSV if path is None else row_format(path) if _becomes_file(path) else RowFormat.CSV
        self._with_ranges = with_ranges
        self._job = job
        self._partial = None if path is None or not _becomes_file(path) else path.with_name(path.name + PARTIAL)
        self._stream: BinaryIO | None = None

    def __enter__(self) -> PredictionWriter:
        if self._format is RowFormat.PARQUET:
            columnar.check_parquet()
        if self._partial is not None and self._job is not None:
            self._take_over(self._partial, self._job)
        if self.path is not None and not self.was_finished:
            with self._write_errors():
                self._stream = self._open(self.path)
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
        with self._write_errors():
            self._finish(self.path)

    def _take_over(self, partial: Path, job: Job) -> None:
        """Count the rows that an earlier run left, and cut the file behind the last that is kept."""
        if not partial.is_file():
            self.was_finished = job.resume and self._is_finished(job)
            return
        with self._write_errors(), partial.open("r+b") as file:
            _lock(file, partial)
            start = len(csv_header(with_ranges=self._with_ranges)) if self._format is RowFormat.CSV else 0
            if not job.resume:
                self._refuse_to_lose(file, partial, job, start)
                return
            _check_made_by(partial, job)
            file.seek(start)
            rows = list(_matching(self._rows(file), job, partial, is_csv=self._format is RowFormat.CSV))
            complete = len(rows) == len(job.names)
            kept = rows if complete else rows[: len(rows) // job.batch_size * job.batch_size]
            self._keep(kept)
            file.truncate(start + sum(row.num_bytes for row in kept) if kept else 0)

    def _keep(self, rows: Sequence[_Counted]) -> None:
        self.num_kept = len(rows)
        for row in rows:
            self._count(is_graded=row.is_graded, is_doubtful=row.is_doubtful)

    def _refuse_to_lose(self, file: BinaryIO, partial: Path, job: Job, start: int) -> None:
        file.seek(start)
        if not job.overwrite and next(self._rows(file), None) is not None:
            raise StoreError(
                f"{partial} holds the rows of a run that was stopped; add --resume to go on with it or --overwrite to "
                "start again"
            )

    def _is_finished(self, job: Job) -> bool:
        """Whether the file is there, with a row by this model for each photograph; its rows are counted then."""
        assert self.path is not None, "standard output is never finished"
        if not self.path.is_file():
            return False
        model, is_csv = printable(str(job.made_by.get("model", ""))), self._format is RowFormat.CSV
        rows: list[_Counted] = []
        for row, name in itertools.zip_longest(read_rows(self.path), job.names):
            if row is None or name is None or row.image != _name_in_row(name, is_csv=is_csv) or row.model != model:
                return False
            rows.append(_Counted.of(row))
        self._keep(rows)
        return True

    def _rows(self, file: BinaryIO) -> Iterator[WrittenRow]:
        return csv_rows(file) if self._format is RowFormat.CSV else json_rows(file)

    def _count(self, *, is_graded: bool, is_doubtful: bool) -> None:
        self.num_graded += is_graded
        self.num_ungraded += not is_graded
        self.num_doubtful += is_graded and is_doubtful

    def _open(self, path: Path) -> BinaryIO:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if self._partial is None:  # a device or a pipe is written to: a file renamed into its place would remove it
            return path.open("wb")
        path.parent.mkdir(parents=True, exist_ok=True)
        if not self.num_kept and self._job is not None:
            made_by = json.dumps(self._job.made_by, indent=2) + "\n"
            store.write_atomically(_key_file(self._partial), made_by)
        stream = self._partial.open("ab")
        _lock(stream, self._partial)
        if not self.num_kept:
            stream.truncate(0)
        return stream

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
        if self._format is RowFormat.PARQUET:
            whole = path.with_name(f".{path.name}{PARTIAL}")
            columnar.parquet_from_json(self._partial, whole, with_ranges=self._with_ranges)
            whole.replace(path)
            self._partial.unlink()
        else:
            self._partial.replace(path)
        self._stream.close()
        _key_file(self._partial).unlink(missing_ok=True)

    def _abandon(self) -> None:
        # Closing writes what is buffered, which fails once more on a full disk.
        if self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.close()

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
        yield from columnar.parquet_rows(path)
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


def _matching(rows: Iterator[WrittenRow], job: Job, partial: Path, *, is_csv: bool) -> Iterator[_Counted]:
    """The rows as long as they are those of the job's photographs. Raises StoreError where they are of others."""
    names = iter(job.names)
    for row in rows:
        expected = next(names, None)
        if expected is None or row.image != _name_in_row(expected, is_csv=is_csv):
            raise StoreError(
                f"{partial} goes on with {row.image!r} where {expected or 'its end'!r} is expected: these are not the "
                "photographs that it was begun with; give the same, or start again with --overwrite, without --resume"
            )
        yield _Counted.of(row)


def _name_in_row(name: str, *, is_csv: bool) -> str:
    return csv_text(name) if is_csv else printable(name)


def _check_made_by(partial: Path, job: Job) -> None:
    try:
        before = json.loads(_key_file(partial).read_text(encoding="utf-8"))
        asked = job.made_by.items()
        different = [f"{name} was {before.get(name)}, is {value}" for name, value in asked if before.get(name) != value]
    except (OSError, ValueError, AttributeError):
        different = ["what they were made by is not known"]
    if different:
        raise StoreError(
            f"the rows in {partial} were made otherwise: {'; '.join(different)}; give the same options to go on, or "
            "start again with --overwrite, without --resume"
        )


def _key_file(partial: Path) -> Path:
    return partial.with_name(partial.name + _KEY)


def _becomes_file(path: Path) -> bool:
    return path.is_file() or not path.exists()


def _lock(file: BinaryIO, path: Path) -> None:
    """Hold a file for this process alone, where the file system can; the lock ends with the process."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StoreError(
            f"{path} is being written by another process; let it end, or give each its own part with --shard"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


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
