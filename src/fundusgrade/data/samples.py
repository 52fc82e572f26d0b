"""A raw data set: photographs with their labels, before they are preprocessed, and their paths as text."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fundusgrade.grades import Grade


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A photograph with its labels."""

    source: str
    """Path below the data set's folder, as one line of text; where there is no file, the name in the label file."""
    path: Path | None
    """The file; None where it does not exist."""
    grade: Grade | None = None
    """None where the photograph has no label."""
    patient: str | None = None
    """Identifier of the patient; this and the following are None where they are not known."""
    eye: str | None = None
    """Which eye, such as "left" or "right"."""
    site: str | None = None
    """Where the photograph was taken."""
    without_grade: str | None = None
    """What a reader said instead of a grade, such as "ungradable"."""
    error: str | None = None
    """Why the photograph cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawDataset:
    """A data set as it is published: its photographs with their labels, before preprocessing."""

    layout: str
    """The layout that was recognized: "aptos", "eyepacs", "idrid", "messidor2", "messidor" (mapped by the user),
    "deepdrid", "odir", "reviewed" (a page of results), "ddr", "list" (no header), "columns" (named by the user),
    "folders", or "photographs" without labels."""
    samples: tuple[Sample, ...]
    root: Path | None = None
    """The folder that `Sample.source` is relative to."""
    num_unlabeled_left_out: int = 0
    """Photographs in the folder that have no label, or one that says they have no grade."""
    label_files: tuple[Path, ...] = ()
    """The files that the labels come from; empty for folders and for photographs without labels."""
    unread_files: tuple[Path, ...] = ()
    """Tables and spreadsheets in the folder that were not read as labels."""
    pair_files: tuple[Path, ...] = ()
    """Tables that the patients come from."""
    num_skipped: Mapping[str, int] = field(default_factory=dict)
    """How many other files the folder holds, by kind: neither photographs nor tables named above."""


def source_of(path: Path) -> str:
    """A photograph's path as one line of text; control characters and bytes that are not UTF-8 as \\xNN."""
    return escape_controls(os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace"))


def path_of_source(root: Path, source: str) -> Path:
    """The file of a source: as it is written, or with its escapes decoded where that file does not exist."""
    path = root / source
    if path.exists():
        return path
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), os.fsencode(source))
    return root / os.fsdecode(raw)


def escape_controls(text: str) -> str:
    """Text with its control characters as \\xNN."""
    return re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\x{ord(match[0]):02x}", text)
