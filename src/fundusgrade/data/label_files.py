"""Label files as data sets publish them (CSV) -> samples: APTOS, EyePACS, IDRiD, or columns that the user names."""

from __future__ import annotations

import contextlib
import csv
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from fundusgrade.data.samples import RawDataset, Sample, escape_controls, source_of
from fundusgrade.errors import DatasetError
from fundusgrade.grades import Grade
from fundusgrade.photographs.sources import PHOTOGRAPH_SUFFIXES, find_files


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelColumns:
    """Names of a label file's columns."""

    image: str
    """Name or path of the photograph, with or without suffix."""
    grade: str
    """Grade of diabetic retinopathy, 0-4."""
    patient: str | None = None
    """Identifier of the patient."""
    eye: str | None = None
    """Which eye, such as left or right."""
    site: str | None = None
    """Where the photograph was taken."""


_APTOS = LabelColumns(image="id_code", grade="diagnosis")
_EYEPACS = LabelColumns(image="image", grade="level", patient="patient", eye="eye")
_IDRID = LabelColumns(image="Image name", grade="Retinopathy grade")
_LAYOUTS = {"aptos": _APTOS, "eyepacs": _EYEPACS, "idrid": _IDRID}
# EyePACS names its photographs by patient and eye.
_EYEPACS_NAME = re.compile(r"(?P<patient>\d+)_(?P<eye>left|right)")


def label_columns(
    image: str | None, grade: str | None, patient: str | None, eye: str | None, site: str | None
) -> LabelColumns | None:
    """The columns that the user named, or None. Raises DatasetError where only one of image and grade is named."""
    if image is None and grade is None:
        if patient or eye or site:
            raise DatasetError(
                "--patient-column, --eye-column and --site-column need --image-column and --grade-column; add them"
            )
        return None
    if image is None or grade is None:
        raise DatasetError("--image-column and --grade-column are needed together; give both")
    return LabelColumns(image=image, grade=grade, patient=patient, eye=eye, site=site)


def find_label_files(folder: Path) -> list[Path]:
    """CSV files of a folder whose header is that of a known layout."""
    # Kaggle's sample submission has the same columns with placeholder labels.
    candidates = [path for path in _csv_files(folder) if "submission" not in path.name.lower()]
    return [path for path in candidates if _layout_of(_header(path)) is not None]


def read_label_file(folder: Path, labels: Path | None, columns: LabelColumns | None) -> RawDataset:
    """Read the samples of a folder from its label file: `labels`, or the only one there that is recognized.

    Rows that cannot be used become samples with an error. Raises DatasetError where the file cannot be read, is
    ambiguous, or contradicts itself.
    """
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
    _check_contradictions(samples, path)
    num_labeled = len({sample.path for sample in samples if sample.path is not None})
    num_unlabeled = sum(map(len, index.values())) - num_labeled
    return RawDataset(
        layout=layout, samples=tuple(samples), root=folder.resolve(), num_unlabeled_left_out=num_unlabeled
    )


def _choose_label_file(folder: Path, columns: LabelColumns | None) -> Path:
    files = find_label_files(folder) if columns is None else _csv_files(folder)
    preferred = [path for path in files if path.name.lower() in {"train.csv", "labels.csv", "trainlabels.csv"}]
    chosen = files if len(files) == 1 else preferred
    if len(chosen) != 1:
        names = ", ".join(path.name for path in files) or "none"
        raise DatasetError(f"{folder} must have one label file, found: {names}; choose one with --labels")
    return chosen[0]


def _csv_files(folder: Path) -> list[Path]:
    """CSV files of a folder but hidden ones: macOS leaves a `._train.csv`, which is no CSV, on other file systems."""
    return sorted(path for path in folder.glob("*.csv") if not path.name.startswith("."))


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


def _known_columns(path: Path, header: list[str], columns: LabelColumns, *, optional_given: bool) -> LabelColumns:
    """The columns that the file has. Raises DatasetError where one needed, or named by the user, is missing."""
    names = asdict(columns)
    missing = [name for name in names.values() if name is not None and name not in header]
    if missing and (optional_given or not {columns.image, columns.grade} <= set(header)):
        raise DatasetError(f"the label file {path} has no column {missing[0]!r}; it has {', '.join(header)}")
    return LabelColumns(**{field: name for field, name in names.items() if name in header})


def _photographs_by_stem(folder: Path) -> dict[str, list[Path]]:
    index: dict[str, list[Path]] = defaultdict(list)
    for photograph in find_files([folder]):
        index[photograph.path.stem].append(photograph.path)
    return index


def _sample(row: dict[str, str], columns: LabelColumns, index: dict[str, list[Path]], folder: Path) -> Sample:
    image = row[columns.image].strip()
    path, error = _find_photograph(image, index, folder)
    grade = _grade(row.get(columns.grade))
    if grade is None and error is None:
        error = f"grade {row.get(columns.grade)!r} is not one of 0-4"
    named = _EYEPACS_NAME.fullmatch(Path(image).stem) if columns.image == _EYEPACS.image else None
    return Sample(
        source=source_of(path.relative_to(folder)) if path else escape_controls(image),
        path=path,
        grade=grade,
        patient=_cell(row, columns.patient) or (named["patient"] if named else None),
        eye=_cell(row, columns.eye) or (named["eye"] if named else None),
        site=_cell(row, columns.site),
        error=error,
    )


def _find_photograph(image: str, index: dict[str, list[Path]], folder: Path) -> tuple[Path | None, str | None]:
    """The photograph that a label names, or the reason why there is not exactly one.

    A label may leave out the suffix and outer folders, or include folders above this one; the parts that label and path
    both have must be equal.
    """
    has_suffix = Path(image).suffix.lower() in PHOTOGRAPH_SUFFIXES
    named = tuple(part for part in Path(image).parts if part != "..")
    agreeing: dict[int, list[Path]] = {}
    for path in index.get(Path(image).stem if has_suffix else Path(image).name, []):
        below = path.relative_to(folder)
        parts = below.parts if has_suffix else below.with_suffix("").parts
        if parts == named and has_suffix:
            return path, None
        length = min(len(parts), len(named))
        if parts[-length:] == named[-length:]:
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
    return (escape_controls((row.get(column) or "").strip()) or None) if column else None


def _check_contradictions(samples: Sequence[Sample], path: Path) -> None:
    """Raise DatasetError where two rows give one photograph different grades."""
    grades: dict[str, Grade | None] = {}
    for sample in samples:
        if grades.setdefault(sample.source, sample.grade) != sample.grade:
            raise DatasetError(f"{path} gives {sample.source} two different grades; keep one row for each photograph")
