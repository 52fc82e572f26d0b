"""Rows as a Parquet file, which is written at the end, as rows cannot be appended to it."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from fundusgrade.errors import StoreError
from fundusgrade.files import open_atomically
from fundusgrade.grades import RANGE_COLUMNS
from fundusgrade.grading.rows import Cell, WrittenRow, json_line
from fundusgrade.outputs import MARK

# Rows in memory at a time, whatever the size of the file.
_GROUP_ROWS = 10_000
_INTEGERS = ("grade", "most_probable", *RANGE_COLUMNS)
_COUNTS = ("photographs", "ungradable_photographs", "missing_fields")
_LISTS = ("quality_reasons", "warnings", "reasons", "ungradable_eyes")
_BOOLEANS = ("gradable", "refer")
_TEXTS = (
    *("image", "label", "referable", "decided_by", "laterality", "camera", "model", "model_hash", "error"),
    *("gradability", "patient", "worst_image", "worst_eye", "right_eye", "left_eye"),
)


def check_parquet() -> None:
    """Raises StoreError where pyarrow is not installed."""
    _pyarrow()


def write_parquet(lines: Iterable[bytes], target: Path, columns: Sequence[str]) -> None:
    """Write rows, given as lines of JSON with these columns, to a Parquet file, all or none. Raises StoreError."""
    check_parquet()  # before a file is opened
    with open_atomically(target) as file:
        _write(lines, file, columns)


def parquet_content(lines: Iterable[bytes], columns: Sequence[str]) -> bytes:
    """The content of the Parquet file that `write_parquet` would write."""
    content = io.BytesIO()
    _write(lines, content, columns)
    return content.getvalue()


def _write(lines: Iterable[bytes], file: BinaryIO, columns: Sequence[str]) -> None:
    pyarrow, parquet = _pyarrow()
    schema = pyarrow.schema([(name, _type_of(name, pyarrow)) for name in columns], metadata={"software": MARK})
    remaining = iter(lines)
    with parquet.ParquetWriter(file, schema) as writer:
        while group := [json.loads(line) for line in itertools.islice(remaining, _GROUP_ROWS)]:
            writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))


def parquet_rows(file: Path | BinaryIO, name: object) -> Iterator[WrittenRow]:
    """The rows of a Parquet file, each as a line of JSON.

    Raises StoreError, with the name of the file, where it is damaged or another file.
    """
    pyarrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(file) as opened:
            for group in opened.iter_batches(_GROUP_ROWS):
                for row in group.to_pylist():
                    yield WrittenRow.of(row, json_line(as_written(row)))
    except (OSError, pyarrow.ArrowException, KeyError, ValueError) as error:
        raise StoreError(
            f"{name} is damaged or not a file of predictions; grade again with `fundusgrade predict`"
        ) from error


def as_written(row: Mapping[str, Any]) -> dict[str, Cell]:
    """A row of JSON or Parquet as it was before it was written, by column."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}


def _type_of(name: str, pyarrow: Any) -> Any:
    for names, kind in (
        (_INTEGERS, pyarrow.int8()),
        (_COUNTS, pyarrow.int32()),
        (_TEXTS, pyarrow.string()),
        (_LISTS, pyarrow.list_(pyarrow.string())),
        (_BOOLEANS, pyarrow.bool_()),
    ):
        if name in names:
            return kind
    return pyarrow.float64()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise StoreError(
            "Parquet files need pyarrow; install it with pip install 'fundusgrade[parquet]', or name a .csv or "
            ".jsonl file"
        ) from error
    return pyarrow, parquet
