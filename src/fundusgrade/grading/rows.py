"""One prediction as a row: its columns, as a line of CSV or JSON, and lines read back."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

from fundusgrade.errors import StoreError
from fundusgrade.grades import COLUMNS, PROBABILITY_COLUMNS, RANGE_COLUMNS, Prediction, Referral, Ungraded
from fundusgrade.text import printable

Cell = str | int | float | bool | tuple[str, ...] | None
"""The value of a column: text, grade, probability, boolean, list of reasons, or None."""

_OTHERS = ("gradable", "quality_reasons", "laterality", "camera", "model", "error")

NEEDED_COLUMNS = ("image", "grade", "label", *PROBABILITY_COLUMNS, *_OTHERS)
"""The columns that a file of predictions has at least; earlier versions wrote no others."""

_DECIMALS = 4
_HASH_DIGITS = 12  # as `fundusgrade models` lists them

# A spreadsheet evaluates a cell that begins with one of these characters, also in full width, after skipping blanks and
# control characters. Some also split cells at semicolons, tabs and line breaks, so a cell may begin after those.
_FORMULA_START = re.compile(r"(^|[;\t\r\n])(?=[\s\x00-\x20\x7f-\xa0\u200b\ufeff]*[=+\-@＝＋－＠])|^(?=[\t\r])")
_NEEDS_QUOTES = re.compile(r'[,;"\t\r\n]')


class RowFormat(StrEnum):
    """File formats of rows, each by its suffix."""

    CSV = ".csv"
    JSON_LINES = ".jsonl"
    PARQUET = ".parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenRow:
    """A row read back: its line, with the line end, its columns, and the values that merging and resuming need."""

    line: bytes
    columns: tuple[str, ...]
    image: str
    model: str
    grade: int | None
    """None where the photograph could not be graded."""
    is_doubtful: bool
    referable: Referral | None
    """None in files of earlier versions."""

    @property
    def is_graded(self) -> bool:
        """Whether the photograph could be graded."""
        return self.grade is not None

    @classmethod
    def of(cls, row: Mapping[str, Any], line: bytes) -> WrittenRow:
        """A row of JSON or Parquet by column, and its line of JSON.

        Raises KeyError where a column is missing, ValueError for an unknown answer.
        """
        return cls(
            line=line,
            columns=tuple(row),
            image=row["image"],
            model=row["model"],
            grade=None if row["grade"] is None else int(row["grade"]),
            is_doubtful=not row["gradable"],
            referable=_referral(row.get("referable")),
        )


def row_format(path: Path) -> RowFormat:
    """The format that a file's suffix names. Raises StoreError for any other."""
    try:
        return RowFormat(path.suffix.lower())
    except ValueError:
        raise StoreError(f"cannot write {path}: unknown suffix {path.suffix!r}; use {', '.join(RowFormat)}") from None


def columns_of(*, with_ranges: bool) -> tuple[str, ...]:
    """The columns of every row."""
    return (*COLUMNS, *RANGE_COLUMNS) if with_ranges else COLUMNS


def row_of(result: Prediction | Ungraded, *, with_ranges: bool) -> dict[str, Cell]:
    """A result by column, numbers rounded as they are written."""
    values = result.to_dict()
    values |= {name: printable(values[name]) for name in ("image", "model", "error") if values[name] is not None}
    values |= {"model_hash": result.model_hash[:_HASH_DIGITS]}
    values |= {"quality_reasons": result.quality_reasons, "warnings": result.warnings}
    return {
        name: round(values[name], _DECIMALS) if isinstance(values[name], float) else values[name]
        for name in columns_of(with_ranges=with_ranges)
    }


def csv_header(columns: Sequence[str]) -> bytes:
    """The first line of a CSV file."""
    return (",".join(columns) + "\n").encode()


def parse_header(line: bytes) -> tuple[str, ...] | None:
    """The columns that the first line of a CSV file of predictions names; None for any other line."""
    columns = tuple(line.decode("utf-8", "replace").removesuffix("\n").split(","))
    return columns if line.endswith(b"\n") and set(NEEDED_COLUMNS) <= set(columns) else None


def csv_line(row: Mapping[str, Cell]) -> bytes:
    """A row as a line of CSV (RFC 4180); cells that a spreadsheet would evaluate as formulas are escaped."""
    return (",".join(map(_csv_cell, row.values())) + "\n").encode()


def json_line(row: Mapping[str, Cell]) -> bytes:
    """A row as a line of JSON; unknown values are null."""
    values = {name: None if value == "" else value for name, value in row.items()}
    return (json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n").encode()


def csv_rows(file: BinaryIO, columns: tuple[str, ...]) -> Iterator[WrittenRow]:
    """The rows of a CSV file whose header has been read, up to the first that is truncated or not a prediction.

    `columns` are those that the header names. Raises OSError.
    """
    pending = b""
    for line in file:
        pending += line
        # A line break within quotes does not end a row.
        if not pending.endswith(b"\n") or pending.count(b'"') % 2:
            continue
        try:
            [cells] = csv.reader(io.StringIO(pending.decode(), newline=""), strict=True)
            row = dict(zip(columns, cells, strict=True))
            yield WrittenRow(
                line=pending,
                columns=columns,
                image=row["image"],
                model=row["model"],
                grade=int(row["grade"]) if row["grade"] else None,
                is_doubtful=row["gradable"] == "no",
                referable=_referral(row.get("referable")),
            )
        except (ValueError, KeyError, csv.Error):
            return
        pending = b""


def json_rows(file: BinaryIO) -> Iterator[WrittenRow]:
    """The rows of a file of JSON lines, up to the first that is truncated or not a prediction. Raises OSError."""
    for line in file:
        try:
            row: Any = json.loads(line) if line.endswith(b"\n") else None
            yield WrittenRow.of(row, line)
        except (ValueError, KeyError, TypeError):
            return


def name_in_row(name: str, stored_as: RowFormat) -> str:
    """A photograph's name as it is written in a row of this format."""
    return _without_formula(name) if stored_as is RowFormat.CSV else printable(name)


def _referral(text: str | None) -> Referral | None:
    return Referral(text) if text else None


def _without_formula(text: str) -> str:
    """Text that no spreadsheet evaluates as a formula."""
    return _FORMULA_START.sub(r"\1'", printable(text))


def _csv_cell(value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{_DECIMALS}f}"
    text = _without_formula("; ".join(value) if isinstance(value, tuple) else str(value))
    # Not by Python 3.11's csv module, which does not quote a carriage return where lines end with a line feed.
    return '"' + text.replace('"', '""') + '"' if _NEEDS_QUOTES.search(text) else text
