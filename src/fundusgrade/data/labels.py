"""Label files and folders as data sets publish them -> samples: one photograph, its grade, and whose eye it is."""

from __future__ import annotations

import contextlib
import csv
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from fundusgrade.errors import DatasetError
from fundusgrade.grades import Grade
from fundusgrade.photographs.sources import PHOTOGRAPH_SUFFIXES, find_files


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A photograph with what its data set says of it; `path` is None where the named photograph does not exist."""

    source: str
    path: Path | None
    grade: Grade | None = None
    patient: str | None = None
    eye: str | None = None
    site: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelColumns:
    """Names of a label file's columns; patient, eye and site are optional."""

    image: str
    grade: str
    patient: str | None = None
    eye: str | None = None
    site: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """What was found, as which layout it was read, and the folder that sources are named from."""

    layout: str
    samples: tuple[Sample, ...]
    root: Path | None = None
    num_unlabeled_left_out: int = field(default=0)


_APTOS = LabelColumns(image="id_code", grade="diagnosis")
_EYEPACS = LabelColumns(image="image", grade="level", patient="patient", eye="eye")
_IDRID = LabelColumns(image="Image name", grade="Retinopathy grade")
_LAYOUTS = {"aptos": _APTOS, "eyepacs": _EYEPACS, "idrid": _IDRID}
# EyePACS names its photographs by patient and eye.
_EYEPACS_NAME = re.compile(r"(?P<patient>\d+)_(?P<eye>left|right)")
_FOLDER_GRADES = {
    "0": Grade.NONE, "nodr": Grade.NONE, "none": Grade.NONE, "normal": Grade.NONE, "healthy": Grade.NONE,
    "1": Grade.MILD, "mild": Grade.MILD, "milddr": Grade.MILD,
    "2": Grade.MODERATE, "moderate": Grade.MODERATE, "moderatedr": Grade.MODERATE,
    "3": Grade.SEVERE, "severe": Grade.SEVERE, "severedr": Grade.SEVERE,
    "4": Grade.PROLIFERATIVE, "proliferate": Grade.PROLIFERATIVE, "proliferatedr": Grade.PROLIFERATIVE,
    "proliferative": Grade.PROLIFERATIVE, "proliferativedr": Grade.PROLIFERATIVE, "pdr": Grade.PROLIFERATIVE,
}  # fmt: skip


def label_columns(
    image: str | None, grade: str | None, patient: str | None, eye: str | None, site: str | None
) -> LabelColumns | None:
    """The columns a user named, or None where none was named. Raises DatasetError where only one of two needed is."""
    if image is None and grade is None:
        if patient or eye or site:
            raise DatasetError(
                "columns of patient, eye or site go with --image-column and --grade-column; give those too"
            )
        return None
    if image is None or grade is None:
        raise DatasetError("--image-column and --grade-column go together; give both")
    return LabelColumns(image=image, grade=grade, patient=patient, eye=eye, site=site)


def find_samples(
    sources: Sequence[Path], *, labels: Path | None = None, columns: LabelColumns | None = None
) -> Samples:
    """Read a labeled data set from one folder, or plain photographs from files and folders.

    A label file is recognized by its header (APTOS, EyePACS, IDRiD) or described by `columns`; without one, subfolders
    named by grade are labels. Raises DatasetError where labels are ambiguous or contradict each other.
    """
    if labels is not None or columns is not None:
        return _from_label_file(_only_folder(sources), labels, columns)
    if len(sources) == 1 and sources[0].is_dir():
        found = _label_files(sources[0])
        if found:
            return _from_label_file(sources[0], None, None)
        by_folder = _from_grade_folders(sources[0])
        if by_folder is not None:
            return by_folder
    missing = [str(source) for source in sources if not source.exists()]
    if missing:
        raise DatasetError(f"no such file or folder: {', '.join(missing)}")
    photographs = find_files(list(sources))
    if not photographs:
        raise DatasetError(f"no photographs in {', '.join(map(str, sources))}; expected {_suffixes()} files")
    samples = tuple(Sample(source=_source(found.path), path=found.path) for found in photographs)
    return Samples(layout="photographs", samples=samples, root=Path.cwd())


def _source(path: Path) -> str:
    """A photograph's path as one line of text; control characters and bytes that are not UTF-8 as \\xNN."""
    return _one_line(os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace"))


def path_of_source(root: Path, source: str) -> Path:
    """Where the photograph of a source lies: as it is written, or with its escapes undone where that is not there."""
    path = root / source
    if path.exists():
        return path
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), os.fsencode(source))
    return root / os.fsdecode(raw)


def _one_line(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def _only_folder(sources: Sequence[Path]) -> Path:
    if len(sources) != 1 or not sources[0].is_dir():
        raise DatasetError("a label file goes with exactly one folder of photographs; give that folder as the argument")
    return sources[0]


def _header(path: Path) -> list[str]:
    with _opened(path) as file:
        return [name.strip() for name in next(csv.reader(file), [])]


def _rows(path: Path, header: list[str]) -> list[dict[str, str]]:
    with _opened(path) as file:
        return list(csv.DictReader(file, fieldnames=header))[1:]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield file
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"cannot read the label file {path}: {error}; expected a CSV in UTF-8") from error


def _layout_of(header: Sequence[str]) -> str | None:
    for layout, columns in _LAYOUTS.items():
        if columns.image in header and columns.grade in header:
            return layout
    return None


def _label_files(folder: Path) -> list[Path]:
    """CSV files of the folder whose header is known. Kaggle's sample submission has labels, but invented ones."""
    candidates = [path for path in _csv_files(folder) if "submission" not in path.name.lower()]
    return [path for path in candidates if _layout_of(_header(path)) is not None]


def _csv_files(folder: Path) -> list[Path]:
    """Hidden ones are left out: macOS leaves a `._train.csv`, which is no CSV, on foreign disks."""
    return sorted(path for path in folder.glob("*.csv") if not path.name.startswith("."))


def _from_label_file(folder: Path, labels: Path | None, columns: LabelColumns | None) -> Samples:
    path = labels or _choose_label_file(folder, columns)
    header = _header(path)
    layout = "columns" if columns is not None else _layout_of(header)
    if layout is None:
        raise DatasetError(
            f"the label file {path} has the columns {', '.join(header)}; expected those of APTOS, EyePACS or IDRiD, or "
            "name yours with --image-column and --grade-column"
        )
    columns = _known_columns(path, header, columns or _LAYOUTS[layout], optional_given=columns is not None)
    index = _photographs_by_stem(folder)
    rows = [row for row in _rows(path, header) if (row.get(columns.image) or "").strip()]
    samples = [_sample(row, columns, index, folder) for row in rows]
    if not samples:
        raise DatasetError(f"the label file {path} has a header but no rows")
    _refuse_contradictions(samples, path)
    num_labeled = len({sample.path for sample in samples if sample.path is not None})
    num_unlabeled = sum(map(len, index.values())) - num_labeled
    return Samples(layout=layout, samples=tuple(samples), root=folder.resolve(), num_unlabeled_left_out=num_unlabeled)


def _choose_label_file(folder: Path, columns: LabelColumns | None) -> Path:
    files = _label_files(folder) if columns is None else _csv_files(folder)
    preferred = [path for path in files if path.name.lower() in {"train.csv", "labels.csv", "trainlabels.csv"}]
    chosen = files if len(files) == 1 else preferred
    if len(chosen) != 1:
        names = ", ".join(path.name for path in files) or "none"
        raise DatasetError(f"which label file of {folder} is meant? found: {names}; choose one with --labels")
    return chosen[0]


def _known_columns(path: Path, header: list[str], columns: LabelColumns, *, optional_given: bool) -> LabelColumns:
    """The columns that exist. One that the user named must."""
    wanted = {name: getattr(columns, name) for name in ("image", "grade", "patient", "eye", "site")}
    missing = [value for value in wanted.values() if value is not None and value not in header]
    if missing and (optional_given or not {columns.image, columns.grade} <= set(header)):
        raise DatasetError(f"the label file {path} has no column {missing[0]!r}; it has {', '.join(header)}")
    return LabelColumns(**{name: value for name, value in wanted.items() if value in header})


def _photographs_by_stem(folder: Path) -> dict[str, list[Path]]:
    index: dict[str, list[Path]] = defaultdict(list)
    for found in find_files([folder]):
        index[found.path.stem].append(found.path)
    return index


def _sample(row: dict[str, str], columns: LabelColumns, index: dict[str, list[Path]], folder: Path) -> Sample:
    image = row[columns.image].strip()
    path, error = _find_photograph(image, index, folder)
    grade = _grade(row.get(columns.grade))
    if grade is None and error is None:
        error = f"grade {row.get(columns.grade)!r} is not one of 0-4"
    named = _EYEPACS_NAME.fullmatch(Path(image).stem) if columns.image == _EYEPACS.image else None
    return Sample(
        source=_source(path.relative_to(folder)) if path else _one_line(image),
        path=path,
        grade=grade,
        patient=_cell(row, columns.patient) or (named["patient"] if named else None),
        eye=_cell(row, columns.eye) or (named["eye"] if named else None),
        site=_cell(row, columns.site),
        error=error,
    )


def _find_photograph(image: str, index: dict[str, list[Path]], folder: Path) -> tuple[Path | None, str | None]:
    """The photograph that a label means: its path below the folder, or as much of it as the label tells.

    A label may leave out the suffix and outer folders, or name folders above this one; what both name must agree.
    """
    has_suffix = Path(image).suffix.lower() in PHOTOGRAPH_SUFFIXES
    wanted = tuple(part for part in Path(image).parts if part != "..")
    agreeing: dict[int, list[Path]] = {}
    for path in index.get(Path(image).stem if has_suffix else Path(image).name, []):
        below = path.relative_to(folder)
        parts = below.parts if has_suffix else below.with_suffix("").parts
        if parts == wanted and has_suffix:
            return path, None
        length = min(len(parts), len(wanted))
        if parts[-length:] == wanted[-length:]:
            agreeing.setdefault(length, []).append(path)
    candidates = agreeing[max(agreeing)] if agreeing else []
    if len(candidates) == 1:
        return candidates[0], None
    if not candidates:
        return None, f"no photograph named {image!r} below the data set's folder"
    places = ", ".join(path.relative_to(folder).parent.as_posix() for path in candidates[:4])
    return None, f"several photographs are named {image!r} (in {places}); keep one copy below the folder"


def _grade(text: str | None) -> Grade | None:
    try:
        value = float((text or "").strip())
        return Grade(int(value)) if value.is_integer() else None
    except ValueError:
        return None


def _cell(row: dict[str, str], column: str | None) -> str | None:
    return (_one_line((row.get(column) or "").strip()) or None) if column else None


def _refuse_contradictions(samples: Sequence[Sample], path: Path) -> None:
    grades: dict[str, Grade | None] = {}
    for sample in samples:
        if grades.setdefault(sample.source, sample.grade) != sample.grade:
            raise DatasetError(f"{path} gives {sample.source} two different grades; keep one row for each photograph")


def _from_grade_folders(folder: Path) -> Samples | None:
    """Subfolders named 0-4 or by the grades' names; None where there are not at least two."""
    graded = {
        child: _FOLDER_GRADES.get(re.sub(r"[^a-z0-9]", "", child.name.lower()))
        for child in sorted(folder.iterdir())
        if child.is_dir()
    }
    if sum(grade is not None for grade in graded.values()) < 2:
        return None
    others = [child for child, grade in graded.items() if grade is None]
    numbered = [child.name for child in others if child.name.isdecimal()]
    if numbered:
        raise DatasetError(
            f"{folder} has folders of the grades 0-4, but also {', '.join(numbered[:4])}; if the numbers are grades, "
            "move the others away; if they are not, give the folders inside it as the arguments"
        )
    samples = [
        Sample(source=_source(found.path.relative_to(folder)), path=found.path, grade=grade)
        for child, grade in graded.items()
        if grade is not None
        for found in find_files([child])
    ]
    if not samples:
        raise DatasetError(f"the grade folders of {folder} hold no photographs; expected {_suffixes()} files")
    num_left_out = len(find_files(others))
    return Samples(layout="folders", samples=tuple(samples), root=folder.resolve(), num_unlabeled_left_out=num_left_out)


def _suffixes() -> str:
    return ", ".join(sorted(PHOTOGRAPH_SUFFIXES))
