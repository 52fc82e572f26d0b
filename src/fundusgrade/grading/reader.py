"""Rows read back from a file, and checked against the photographs that they were written for."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from fundusgrade.errors import StoreError
from fundusgrade.grading import parquet
from fundusgrade.grading.rows import RowFormat, WrittenRow, csv_rows, json_rows, name_in_row, parse_header, row_format
from fundusgrade.text import error_text


def read_rows(path: Path) -> Iterator[WrittenRow]:
    """The rows of a finished file in any format. Raises StoreError where it cannot be read or is no such file."""
    chosen = row_format(path)
    if chosen is RowFormat.PARQUET:
        yield from parquet.parquet_rows(path, path)
        return
    try:
        with path.open("rb") as file:
            if chosen is RowFormat.JSON_LINES:
                yield from json_rows(file)
                return
            columns = parse_header(file.readline())
            if columns is None:
                raise StoreError(
                    f"{path} does not begin with the header of predictions; grade again with `fundusgrade predict`"
                )
            yield from csv_rows(file, columns)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error_text(error)}; check its name and permissions") from error


def read_cells(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a finished file in any format by column, as text that is "" for what is not known.

    Raises StoreError as `read_rows`.
    """
    stored_as = row_format(path)
    for row in read_rows(path):
        if stored_as is RowFormat.CSV:
            [cells] = csv.reader(io.StringIO(row.line.decode(), newline=""), strict=True)
            yield dict(zip(row.columns, cells, strict=True))
        else:
            yield {name: cell_text(value) for name, value in json.loads(row.line).items()}


def cell_text(value: object) -> str:
    """The value of a column as text: "yes" and "no", lists joined by semicolons, "" for None."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "; ".join(value) if isinstance(value, list | tuple) else "" if value is None else str(value)


def file_columns(path: Path) -> tuple[str, ...] | None:
    """The columns of the rows of a finished file; None where it has no rows. Raises StoreError as `read_rows`."""
    first = next(read_rows(path), None)
    return None if first is None else first.columns


def matching_rows(
    rows: Iterator[WrittenRow],
    names: Sequence[str],
    path: Path | str,
    stored_as: RowFormat,
    *,
    complete: bool = False,
    remedy: str,
) -> Iterator[WrittenRow]:
    """The rows of a file, each checked to be that of the photograph of the same position in `names`.

    Raises StoreError, which ends with the remedy, at a row of another photograph or beyond the last one; if `complete`,
    also where rows are missing.
    """
    num_rows = 0
    for row in rows:
        expected = names[num_rows] if num_rows < len(names) else None
        num_rows += 1
        if expected is None or row.image != name_in_row(expected, stored_as):
            raise StoreError(
                f"{path}: row {num_rows} is about {row.image!r}, expected {expected or 'no more rows'!r}: the file was "
                f"written for other photographs; {remedy}"
            )
        yield row
    if complete and num_rows < len(names):
        raise StoreError(f"{path} ends after {num_rows} of {len(names)} rows; {remedy}")
