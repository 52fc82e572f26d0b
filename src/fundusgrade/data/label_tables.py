"""A label file as it was saved -> a table of text: delimiter and encoding are found, spreadsheets are refused."""

from __future__ import annotations

import csv
import io
import os
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from dataclasses import dataclass
from pathlib import Path

from fundusgrade.errors import DatasetError
from fundusgrade.text import error_text

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".txt"})
SPREADSHEET_SUFFIXES = frozenset({".xls", ".xlsx", ".xlsm", ".ods"})
_SPREADSHEET_STARTS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_DELIMITERS = ("\t", ";", ",", "|")
_MAX_BYTES = 256 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTable:
    """The cells of a label file without blank lines, each stripped; the first row may be a header."""

    path: Path
    rows: tuple[tuple[str, ...], ...]

    @property
    def header(self) -> tuple[str, ...]:
        """The first row; empty in an empty file."""
        return self.rows[0] if self.rows else ()


def find_tables(folder: Path) -> list[Path]:
    """Tables and spreadsheets below a folder, the nearest first; hidden ones are skipped.

    macOS leaves a `._train.csv`, which is no CSV, on other file systems. Kaggle's sample submission has the columns of
    the labels with placeholder grades.
    """
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if _is_table(name)]
    return sorted(found, key=lambda path: (len(path.parts), path.as_posix()))


def is_spreadsheet(path: Path) -> bool:
    """Whether a file is a workbook by its name or its first bytes."""
    if path.suffix.lower() in SPREADSHEET_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(4) in _SPREADSHEET_STARTS
    except OSError:
        return False


def read_table(path: Path) -> LabelTable:
    """Read a table. Raises DatasetError for spreadsheets, other encodings than UTF-8 and UTF-16, and broken files."""
    if is_spreadsheet(path):
        raise DatasetError(
            f"the label file {path} is a spreadsheet; open it and save it as 'CSV UTF-8', and pass that with --labels"
        )
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DatasetError(f"the label file {path} has more than {_MAX_BYTES} bytes; expected a CSV of labels")
        text = _decoded(path.read_bytes(), path)
        rows = [tuple(cell.strip() for cell in row) for row in _split(text, is_list=path.suffix.lower() == ".txt")]
    except (OSError, csv.Error) as error:
        raise DatasetError(
            f"cannot read the label file {path}: {error_text(error)}; expected a CSV in UTF-8"
        ) from error
    return LabelTable(path=path, rows=tuple(row for row in rows if any(row)))


def _is_table(name: str) -> bool:
    suffix = Path(name).suffix.lower()
    return (
        suffix in TABLE_SUFFIXES | SPREADSHEET_SUFFIXES
        and not name.startswith((".", "~$"))
        and "submission" not in name.lower()
    )


def _decoded(data: bytes, path: Path) -> str:
    encoding = _encoding(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-8-sig" and b"\0" in data:
            raise DatasetError(f"cannot read the label file {path}: it is not text; expected a CSV in UTF-8") from error
        line = data.count(b"\n", 0, error.start) + 1
        latin = data[error.start : error.start + 1].decode("cp1252", "replace")
        raise DatasetError(
            f"cannot read the label file {path}: line {line} is not {encoding.removesuffix('-sig').upper()} (it has a "
            f"byte that is {latin!r} in Latin-1); expected a CSV in UTF-8: save it as 'CSV UTF-8', or convert it with "
            "iconv -f LATIN1 -t UTF-8"
        ) from error
    if "\0" in text:
        raise DatasetError(f"cannot read the label file {path}: it is not text; expected a CSV in UTF-8")
    return text


def _encoding(data: bytes) -> str:
    """UTF-16 by its mark or, without one, by the null bytes of its Latin letters; else UTF-8."""
    if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        return "utf-16"
    start = data[:200]
    if not data.startswith(BOM_UTF8) and len(start) >= 4:
        for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
            if start[first::2].count(0) > 0.6 * len(start[first::2]) and 0 not in start[1 - first :: 2]:
                return encoding
    return "utf-8-sig"


def _split(text: str, *, is_list: bool) -> list[list[str]]:
    """Rows of cells. A first line such as `sep=;`, which Excel writes, names the delimiter; `#` begins a remark."""
    first, _, rest = text.partition("\n")
    if first.strip().strip('"').lower().startswith("sep="):
        named = first.strip("\r\n ").strip('"')[4:] or "\t"
        return list(csv.reader(io.StringIO(rest, newline=""), delimiter=named[:1]))
    while first.startswith("#"):
        text = rest
        first, _, rest = text.partition("\n")
    start = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(_DELIMITERS, key=start.count)
    if is_list and delimiter not in start:
        return [line.rsplit(None, 1) for line in text.splitlines()]
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter if delimiter in start else ","))
