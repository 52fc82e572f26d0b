"""The manifest of a prepared data set: a CSV file with one row per photograph."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fundusgrade.data.fingerprints import is_fingerprint
from fundusgrade.files import hash_text, write_atomically
from fundusgrade.grades import Grade
from fundusgrade.photographs.quality import Quality

MANIFEST_FILE = "manifest.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRow:
    """One photograph of a data set."""

    image: str
    """Path of the preprocessed image, below the data set's folder; empty where `error` says why there is none."""
    source: str
    """Path of the photograph, below the folder that the data set was made from."""
    grade: Grade | None
    split: str | None
    """"train", "validation" or "test"; None for a photograph without an image or a grade."""
    fold: int | None
    """Cross-validation fold in which the photograph is tested, from 0."""
    group: int
    """Number shared by copies and by a patient's photographs, which are never in different splits."""
    patient: str | None
    eye: str | None
    site: str | None
    error: str | None
    """Why the photograph cannot be used."""
    conflict: bool
    """Whether copies of this photograph carry different grades."""
    sha256: str
    """Hash of the photograph's file, in hexadecimal; empty where the file could not be read."""
    fingerprint: str | None
    """Perceptual fingerprint, in hexadecimal; None where there is none, or one of an earlier version."""
    quality: Quality | None = None
    origin: str | None = None
    """Name of the data set that the row comes from, where several are concatenated."""
    acquisition: int | None = None
    """Cluster of photographs that were acquired alike, from 1; None where it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The rows of a manifest file and the SHA-256 of its text."""

    rows: tuple[ManifestRow, ...]
    hash: str


_NOT_COLUMNS = ("quality", "origin")
_LABEL_COLUMNS = tuple(name for name in ManifestRow.__dataclass_fields__ if name not in _NOT_COLUMNS)
_QUALITY_COLUMNS = tuple(Quality.__dataclass_fields__)
ACQUISITION_COLUMN = "acquisition"
"""Manifests of earlier versions lack it."""
MANIFEST_COLUMNS = (*_LABEL_COLUMNS, "gradable", "quality_reasons", *_QUALITY_COLUMNS)


def write_manifest(folder: Path, rows: Sequence[ManifestRow]) -> Manifest:
    """Write the manifest of a data set; unknown values are empty cells. Raises StoreError."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(MANIFEST_COLUMNS)
    for row in rows:
        cells = [getattr(row, column) for column in _LABEL_COLUMNS]
        labels = ["" if cell is None else int(cell) if isinstance(cell, int) else cell for cell in cells]
        writer.writerow([*labels, *_quality_cells(row.quality)])
    write_atomically(folder / MANIFEST_FILE, out.getvalue())
    return Manifest(rows=tuple(rows), hash=hash_text(out.getvalue()))


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a data set. Raises OSError, and ValueError, KeyError or csv.Error for a damaged one."""
    text = (folder / MANIFEST_FILE).read_text(encoding="utf-8")
    reader = csv.DictReader(io.StringIO(text))
    missing = set(MANIFEST_COLUMNS) - {ACQUISITION_COLUMN} - set(reader.fieldnames or ())
    if missing:
        raise ValueError(f"its manifest lacks the columns {', '.join(sorted(missing))}")
    return Manifest(rows=tuple(_row_from_cells(cells) for cells in reader), hash=hash_text(text))


def _quality_cells(quality: Quality | None) -> list[str]:
    if quality is None:
        return [""] * (2 + len(_QUALITY_COLUMNS))
    measured = [f"{getattr(quality, name):.4f}" for name in _QUALITY_COLUMNS]
    return [str(int(quality.gradable)), "; ".join(quality.reasons), *measured]


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
        acquisition=int(cells[ACQUISITION_COLUMN]) if cells.get(ACQUISITION_COLUMN) else None,
        sha256=cells["sha256"],
        fingerprint=cells["fingerprint"] if is_fingerprint(cells["fingerprint"]) else None,
        quality=Quality(**{name: float(cells[name]) for name in _QUALITY_COLUMNS}) if cells["gradable"] else None,
    )
