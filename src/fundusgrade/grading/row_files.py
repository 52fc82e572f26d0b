"""Finished files of rows that are written from rows on disk: of shards, and of parts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fundusgrade.files import open_atomically
from fundusgrade.grading import parquet
from fundusgrade.grading.rows import RowFormat, WrittenRow, csv_header, csv_line, row_format


def write_rows(rows: Iterator[WrittenRow], path: Path, columns: tuple[str, ...]) -> int:
    """Write rows, whose lines are in the format of `path`, all or none; returns the number of ungraded photographs."""
    chosen, num_ungraded = row_format(path), 0

    def lines() -> Iterator[bytes]:
        nonlocal num_ungraded
        for row in rows:
            num_ungraded += not row.is_graded
            yield row.line

    if chosen is RowFormat.PARQUET:
        parquet.write_parquet(lines(), path, columns)
        return num_ungraded
    with open_atomically(path) as file:
        file.write(csv_header(columns) if chosen is RowFormat.CSV else b"")
        file.writelines(lines())
    return num_ungraded


def in_format(row: WrittenRow, stored_as: RowFormat) -> WrittenRow:
    """A row with a line of JSON, as those of Parquet files have, with its line in another format."""
    if stored_as is not RowFormat.CSV:
        return row
    return replace(row, line=csv_line(parquet.as_written(json.loads(row.line))))
