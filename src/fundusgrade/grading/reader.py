"""The rows of a finished file, read back in any format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fundusgrade.errors import StoreError
from fundusgrade.grading import parquet
from fundusgrade.grading.rows import RowFormat, WrittenRow, csv_header, csv_rows, json_rows, row_format


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
