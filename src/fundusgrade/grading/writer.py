"""Writes predictions to a file row by row, and resumes an interrupted run.

    out.csv.partial        the rows so far; it is renamed to out.csv when all are written
    out.csv.partial.json   their provenance; it is renamed to out.csv.json

Rows for Parquet are JSON lines until the end. A run that is killed leaves whole rows and at most one truncated row.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from fundusgrade.errors import StoreError
from fundusgrade.files import file_lock
from fundusgrade.grades import Prediction, Ungraded
from fundusgrade.grading import parquet
from fundusgrade.grading.counts import CountedRow, RowCounts
from fundusgrade.grading.resume import (
    KeptRow,
    ResumeRequest,
    finished_rows,
    provenance_file,
    resumable_rows,
    write_provenance,
)
from fundusgrade.grading.rows import RowFormat, columns_of, csv_header, csv_line, json_line, row_format, row_of
from fundusgrade.text import error_text

PARTIAL = ".partial"


def partial_file(path: Path) -> Path:
    """Where the rows of a file stand until all are written."""
    return path.with_name(path.name + PARTIAL)


class PredictionWriter:
    """Writes predictions to a file (.csv, .jsonl, .parquet), or as CSV to standard output where `path` is None.

    Use it in a `with` block: the file gets its name when the block ends without an exception. Otherwise the partial
    file stays, and a note on the exception names it. After entering a block with a `request` to resume, `num_kept` is
    the number of photographs whose rows are kept from an earlier run. With `with_ranges` each row ends with the lowest
    and highest grade of its range. `in_words` turns results into the lines of standard output, instead of CSV. Entering
    raises StoreError where the file cannot be written, is locked by another process, or has rows of an interrupted run
    that are neither resumed nor overwritten.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        with_ranges: bool = False,
        request: ResumeRequest | None = None,
        in_words: Callable[[Prediction | Ungraded], str] | None = None,
    ) -> None:
        self.path = path
        self.counts = RowCounts()
        """Of the rows of the file, those kept from an earlier run included."""
        self.num_kept = 0
        self.was_finished = False
        streams = path is None or (os.path.lexists(path) and not os.path.isfile(path))  # noqa: PTH113 (never raises)
        self._format = RowFormat.CSV if path is None or streams else row_format(path)
        self._partial = None if path is None or streams else partial_file(path)
        self._with_ranges = with_ranges
        self._columns = columns_of(with_ranges=with_ranges)
        self._request = request
        self._in_words = in_words if path is None else None
        self._stream: BinaryIO | None = None
        self._lock = contextlib.ExitStack()

    def __enter__(self) -> PredictionWriter:
        if self._format is RowFormat.PARQUET:
            parquet.check_parquet()
        with self._write_errors():
            if self.path is not None and self._partial is not None:
                self._open(self.path, self._partial)
                if self.was_finished:
                    return self
            elif self.path is not None:
                # A device or a pipe is written to directly: renaming a file to its name would replace it.
                self._stream = self.path.open("wb")
        if self._format is RowFormat.CSV and not self.num_kept and self._in_words is None:
            self._write(csv_header(self._columns))
        return self

    @property
    def is_file(self) -> bool:
        """Whether rows are written to a file, not to a device, a pipe or standard output."""
        return self._partial is not None

    def write(self, result: Prediction | Ungraded) -> None:
        """Write one row; it is in the file when this returns."""
        self._write(self._line(result))
        self.counts.add(CountedRow.of_result(result))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._stream is None or self.path is None:
            return
        if error is not None:
            self._close()
            where = self._partial or self.path
            remedy = " Resume with --resume." if self._request is not None and self._partial is not None else ""
            error.add_note(f"The rows written so far ({self.counts.num_rows}) are in {where}.{remedy}")
            return
        with self._write_errors(), self._lock:
            self._finish(self.path)

    def _open(self, path: Path, partial: Path) -> None:
        """Lock the file, and open the partial file behind the rows of an earlier run that are kept."""
        self._lock.enter_context(file_lock(path, wait=False))
        try:
            if self._request is not None and self._request.resume and path.is_file() and not partial.is_file():
                self._keep(finished_rows(path, self._request, self._columns))
                self.was_finished = True
                self._lock.close()
                return
            partial.parent.mkdir(parents=True, exist_ok=True)
            partial.touch()
            self._stream = partial.open("r+b")
            size = self._resume(self._stream, partial, self._request) if self._request is not None else 0
            self._stream.seek(size)
            self._stream.truncate()
        except BaseException:
            self._close()
            raise

    def _resume(self, file: BinaryIO, partial: Path, request: ResumeRequest) -> int:
        """Keep rows of an earlier run; returns the size of them and the header in bytes."""
        kept = resumable_rows(file, partial, self._format, request, self._columns)
        if not kept:
            write_provenance(partial, request.provenance)
            return 0
        self._keep(kept)
        header = csv_header(self._columns) if self._format is RowFormat.CSV else b""
        return len(header) + sum(row.num_bytes for row in kept)

    def _keep(self, rows: Sequence[KeptRow]) -> None:
        self.num_kept = len(rows)
        self.counts = RowCounts(row.counted for row in rows)

    def _line(self, result: Prediction | Ungraded) -> bytes:
        if self._in_words is not None:
            return f"{self._in_words(result)}\n".encode()
        row = row_of(result, with_ranges=self._with_ranges)
        return csv_line(row) if self._format is RowFormat.CSV else json_line(row)

    def _write(self, line: bytes) -> None:
        if self.path is None:
            _write_to_stdout(line)
        elif self._stream is not None:
            with self._write_errors():
                try:
                    self._stream.write(line)
                    self._stream.flush()
                except OSError:
                    self._close()
                    raise

    def _finish(self, path: Path) -> None:
        assert self._stream is not None, "a file was opened"
        if self._partial is None:
            self._stream.close()
            return
        os.fsync(self._stream.fileno())
        self._stream.close()  # Windows renames no open file
        if self._request is not None:
            write_provenance(path, self._request.provenance)
        if self._format is RowFormat.PARQUET:
            with self._partial.open("rb") as lines:
                parquet.write_parquet(lines, path, self._columns)
            self._partial.unlink()
        else:
            self._partial.replace(path)
        provenance_file(self._partial).unlink(missing_ok=True)

    def _close(self) -> None:
        # Closing writes what is buffered, which fails again on a full disk.
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


def _write_to_stdout(line: bytes) -> None:
    binary = getattr(sys.stdout, "buffer", None)
    if binary is None:  # standard output was replaced by a text stream
        sys.stdout.write(line.decode())
        sys.stdout.flush()
    else:
        # Not through the text layer, which on some systems is not UTF-8 and changes line ends.
        sys.stdout.flush()
        binary.write(line)
        binary.flush()  # not sys.stdout.flush: a progress bar replaces sys.stdout


def _cannot_write(path: Path | None, error: OSError) -> StoreError:
    return StoreError(f"cannot write {path}: {error_text(error)}; choose a writable folder with enough free space")
