"""Whose eye a photograph shows: the patient and the eye, from a CSV file or from the file name."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePath

from fundusgrade.errors import DatasetError
from fundusgrade.text import error_text, printable

IMAGE_COLUMNS = ("image", "source")
"""Columns that may name the photograph: a list's, or a manifest's."""
PATIENT_COLUMN, EYE_COLUMN = "patient", "eye"
_NUM_NAMED = 3


class Eye(StrEnum):
    """The eye that a photograph shows; `UNKNOWN` where nothing says which."""

    RIGHT = "right"
    LEFT = "left"
    UNKNOWN = ""


_EYES = {
    **dict.fromkeys(("right", "r", "od", "re"), Eye.RIGHT),
    **dict.fromkeys(("left", "l", "os", "le"), Eye.LEFT),
    **dict.fromkeys(("", "b", "both", "ou", "unknown"), Eye.UNKNOWN),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The patient and the eye of a photograph, whose name or path is `image`."""

    image: str
    patient: str
    eye: Eye = Eye.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Identified:
    """The identities of photographs, in their order, and of those that are listed but not among them."""

    photographs: tuple[Identity, ...]
    missing: tuple[Identity, ...] = ()


def parse_eye(text: str) -> Eye:
    """The eye of "left", "L", "OS", "right", ...; unknown for nothing and for both. Raises DatasetError for others."""
    try:
        return _EYES[text.strip().lower()]
    except KeyError:
        raise DatasetError(f"the eye {printable(text)!r} is not known; expected left, right, L, R, OS or OD") from None


def identify_by_pattern(names: Sequence[str], pattern: str) -> Identified:
    """Patients and eyes from file names, by the groups `patient` and `eye` of a regular expression.

    It is searched for in the file name without its folders. Raises DatasetError for a pattern without a group
    `patient`, and where it does not match a name.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DatasetError(f"--patient-pattern {pattern!r} is no regular expression: {error}") from error
    if PATIENT_COLUMN not in compiled.groupindex:
        raise DatasetError(
            f"--patient-pattern {pattern!r} has no group named patient; expected one such as "
            r"'(?P<patient>\d+)_(?P<eye>left|right)'"
        )
    matches = [compiled.search(PurePath(name).name) for name in names]
    others = [name for name, match in zip(names, matches, strict=True) if match is None or not match[PATIENT_COLUMN]]
    if others:
        raise DatasetError(
            f"--patient-pattern {pattern!r} finds no patient in {_few(others)}; change the pattern, or name the "
            "patients of all photographs in a CSV file with --patients"
        )
    has_eye = EYE_COLUMN in compiled.groupindex
    return Identified(
        photographs=tuple(
            Identity(
                image=name, patient=match[PATIENT_COLUMN], eye=parse_eye((match[EYE_COLUMN] or "") if has_eye else "")
            )
            for name, match in zip(names, matches, strict=True)
            if match is not None
        )
    )


def identify_by_file(names: Sequence[str], path: Path) -> Identified:
    """Patients and eyes from a CSV file with the columns `image` (or `source`), `patient` and, if known, `eye`.

    A photograph is looked up by its path, by the end of its path, by its file name, and without suffix. Photographs
    that are listed, but not among the names, are missing. Raises DatasetError for a file without these columns, and
    where a photograph is not listed, or several patients could be meant.
    """
    listed = read_identities(path)
    by_name: dict[str, list[Identity]] = defaultdict(list)
    for identity in listed:
        for key in {PurePath(identity.image).name, PurePath(identity.image).stem}:
            by_name[key].append(identity)
    found = [_look_up(name, by_name) for name in names]
    unclear = [name for name, candidates in zip(names, found, strict=True) if len(candidates) != 1]
    if unclear:
        raise DatasetError(
            f"--patients {path} names not exactly one patient for {_few(unclear)}; list each photograph once, by a "
            "path that tells it from others of the same name"
        )
    taken = {id(candidates[0]) for candidates in found}
    return Identified(
        photographs=tuple(candidates[0] for candidates in found),
        missing=tuple(identity for identity in listed if id(identity) not in taken),
    )


def read_identities(path: Path) -> list[Identity]:
    """The photographs that a CSV file lists. Raises DatasetError as `identify_by_file`."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        reason = error_text(error) if isinstance(error, OSError) else str(error)
        raise DatasetError(f"--patients {path} cannot be read: {reason}; expected a CSV file") from error
    image_column = next((name for name in IMAGE_COLUMNS if name in columns), None)
    if image_column is None or PATIENT_COLUMN not in columns:
        raise DatasetError(
            f"--patients {path} has the columns {', '.join(columns) or 'none'}; expected image (or source) and "
            "patient, and eye where it is known"
        )
    return [_identity(row, image_column, path) for row in rows if (row.get(image_column) or "").strip()]


def _identity(row: dict[str, str], image_column: str, path: Path) -> Identity:
    image, patient = row[image_column].strip(), (row.get(PATIENT_COLUMN) or "").strip()
    if not patient:
        raise DatasetError(f"--patients {path} names no patient for {printable(image)!r}; fill in the column patient")
    return Identity(image=image, patient=patient, eye=parse_eye(row.get(EYE_COLUMN) or ""))


def _look_up(name: str, by_name: dict[str, list[Identity]]) -> list[Identity]:
    """The entries that agree with a name in most of their last parts."""
    path = PurePath(name)
    candidates = by_name.get(path.name) or by_name.get(path.stem) or []
    agreeing: dict[int, list[Identity]] = defaultdict(list)
    for candidate in candidates:
        agreeing[_num_equal_folders(path, PurePath(candidate.image))].append(candidate)
    return agreeing[max(agreeing)] if agreeing else []


def _num_equal_folders(one: PurePath, other: PurePath) -> int:
    """How many folders above the file agree, from the innermost one outwards."""
    pairs = zip(reversed(one.parent.parts), reversed(other.parent.parts), strict=False)
    return next((number for number, (a, b) in enumerate(pairs) if a != b), min(len(one.parts), len(other.parts)) - 1)


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
    return ", ".join(map(printable, names[:_NUM_NAMED])) + more
