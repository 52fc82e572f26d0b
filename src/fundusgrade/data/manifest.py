"""The manifest of a prepared data set: one row per photograph, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from fundusgrade.grades import Grade
from fundusgrade.photographs.quality import Quality


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRow:
    """One photograph of a data set. `image` is its picture below the data set's folder, empty where `error` says why.

    `source` is the photograph's name, below the data set's `root`. `group` ties copies and a patient's photographs;
    `conflict` marks copies that carry different grades. `origin` names the data set where several were joined.
    """

    image: str
    source: str
    grade: Grade | None
    split: str | None
    fold: int | None
    group: int
    patient: str | None
    eye: str | None
    site: str | None
    error: str | None
    conflict: bool
    sha256: str
    fingerprint: str | None
    quality: Quality | None = None
    origin: str | None = None


_NOT_COLUMNS = ("quality", "origin")
_QUALITY_COLUMNS = tuple(Quality.__dataclass_fields__)
MANIFEST_COLUMNS = (
    *(name for name in ManifestRow.__dataclass_fields__ if name not in _NOT_COLUMNS),
    *("gradable", "quality_reasons"),
    *_QUALITY_COLUMNS,
)


def manifest_text(rows: Sequence[ManifestRow]) -> str:
    """The manifest as CSV with a header; what is not known is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(MANIFEST_COLUMNS)
    for row in rows:
        cells = [getattr(row, column) for column in ManifestRow.__dataclass_fields__ if column not in _NOT_COLUMNS]
        labels = ["" if cell is None else int(cell) if isinstance(cell, int) else cell for cell in cells]
        writer.writerow([*labels, *_quality_cells(row.quality)])
    return out.getvalue()


def _quality_cells(quality: Quality | None) -> list[str]:
    if quality is None:
        return [""] * (2 + len(_QUALITY_COLUMNS))
    measured = [f"{getattr(quality, name):.4f}" for name in _QUALITY_COLUMNS]
    return [str(int(quality.gradable)), "; ".join(quality.reasons), *measured]


def manifest_rows_from_text(text: str) -> tuple[ManifestRow, ...]:
    reader = csv.DictReader(io.StringIO(text))
    missing = set(MANIFEST_COLUMNS) - set(reader.fieldnames or ())
    if missing:
        raise ValueError(f"its manifest lacks the columns {', '.join(sorted(missing))}")
    return tuple(_row_from_cells(cells) for cells in reader)


def _row_from_cells(cells: dict[str, str]) -> ManifestRow:
    return ManifestRow(
        image=cells["image"],
        source=cells["source"],
        grade=Grade(int(cells["grade"])) if cells["grade"] else None,
        split=cells["split"] or None,
        fold=int(cells["fold"]) if cells["fold"] else None,
        group=int(cells["group"]),
        patient=cells["patient"] or None,
        eye=cells["eye"] or None,
        site=cells["site"] or None,
        error=cells["error"] or None,
        conflict=cells["conflict"] == "1",
        sha256=cells["sha256"],
        fingerprint=cells["fingerprint"] or None,
        quality=Quality(**{name: float(cells[name]) for name in _QUALITY_COLUMNS}) if cells["gradable"] else None,
    )
