"""Label files as data sets publish them -> samples; several of one layout (training, test) are read together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fundusgrade.data.grade_names import GradeNames
from fundusgrade.data.label_layouts import (
    LabelColumns,
    LabelRow,
    check_scale,
    has_columns,
    lacks_column,
    layout_of,
    read_rows,
)
from fundusgrade.data.label_tables import LabelTable, find_tables, read_table
from fundusgrade.data.patient_pairs import find_pairs
from fundusgrade.data.photograph_names import PhotographIndex
from fundusgrade.data.samples import RawDataset, Sample, escape_controls, source_of
from fundusgrade.errors import DatasetError

_PREFERRED_NAMES = frozenset({"train.csv", "labels.csv", "trainlabels.csv"})
_EXPECTED = "APTOS, EyePACS, IDRiD, DDR, Messidor-2, DeepDRiD, FGADR or ODIR-5K"
NO_GRADE = "grade"
"""How the reason begins why a photograph has no grade although it has a label."""
_REMEDY = "name yours with --image-column and --grade-column"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFiles:
    """The label files of a folder: those that are understood, all of one layout, and the others."""

    layout: str
    tables: tuple[LabelTable, ...]
    unread: tuple[Path, ...]
    """Tables and spreadsheets that are not read as labels."""
    problem: str | None
    """Why an unread one was not understood, the nearest first; None where none of them can hold labels."""


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


def find_label_files(index: PhotographIndex, columns: LabelColumns | None = None) -> LabelFiles:
    """The label files below a folder whose columns are known, or are those that the user names.

    Where several levels of folders have some, those of the uppermost count. Raises DatasetError where these are of
    several layouts.
    """
    understood: list[tuple[str, LabelTable]] = []
    unread: list[Path] = []
    problems: list[str] = []
    for path in find_tables(index.folder):
        try:
            table = read_table(path)
        except DatasetError as error:
            unread.append(path)
            problems += [str(error)] if path.suffix.lower() != ".txt" else []
            continue
        layout = layout_of(table, index) if columns is None else "columns" if has_columns(table, columns) else None
        if layout is not None:
            understood.append((layout, table))
        elif path.suffix.lower() != ".txt" and _may_hold_labels(table):
            unread.append(path)
            problems.append(_not_understood(table) if columns is None else lacks_column(table, columns))
    depth = min((len(table.path.parts) for _, table in understood), default=0)
    nearest = [(layout, table) for layout, table in understood if len(table.path.parts) == depth]
    unread += [table.path for _, table in understood if len(table.path.parts) > depth]
    layouts = sorted({layout for layout, _ in nearest})
    if len(layouts) > 1:
        names = ", ".join(f"{table.path.relative_to(index.folder)} ({layout})" for layout, table in nearest)
        raise DatasetError(f"{index.folder} has label files of several layouts: {names}; choose one with --labels")
    return LabelFiles(
        layout=layouts[0] if layouts else "",
        tables=tuple(table for _, table in nearest),
        unread=tuple(unread),
        problem=problems[0] if problems else None,
    )


def read_label_file(path: Path, index: PhotographIndex, columns: LabelColumns | None, names: GradeNames) -> RawDataset:
    """Read the samples of a folder from the label file that the user named.

    Rows that cannot be used become samples with an error. Raises DatasetError where the file cannot be read, is not
    understood, or contradicts itself.
    """
    table = read_table(path)
    layout = "columns" if columns is not None else layout_of(table, index)
    if layout is None:
        raise DatasetError(_not_understood(table))
    return _read(LabelFiles(layout=layout, tables=(table,), unread=(), problem=None), index, columns, names)


def read_label_files(
    files: LabelFiles, index: PhotographIndex, columns: LabelColumns | None, names: GradeNames
) -> RawDataset:
    """Read the samples of a folder from its label files.

    Several are read together unless they name the same photographs; then one of them must have the name of the labels,
    such as train.csv. Otherwise as `read_label_file`.
    """
    if len(files.tables) > 1:
        of_tables = [_samples(table, files.layout, index, columns, names, is_alone=False) for table in files.tables]
        named = [{sample.path for sample in samples} - {None} for samples in of_tables]
        if sum(map(len, named)) == len(set().union(*named)):
            return _dataset_of(files, index, [sample for samples in of_tables for sample in samples])
        table = _preferred(files, index.folder)
        unread = (*files.unread, *(other.path for other in files.tables if other is not table))
        files = LabelFiles(layout=files.layout, tables=(table,), unread=unread, problem=None)
    return _read(files, index, columns, names)


def _read(files: LabelFiles, index: PhotographIndex, columns: LabelColumns | None, names: GradeNames) -> RawDataset:
    """The samples of the only label file."""
    [table] = files.tables
    return _dataset_of(files, index, _samples(table, files.layout, index, columns, names, is_alone=True))


def _dataset_of(files: LabelFiles, index: PhotographIndex, samples: Sequence[Sample]) -> RawDataset:
    unread, pairs = files.unread, {}
    if files.layout == "messidor2":
        pairs = {path: pair for path in unread if (pair := find_pairs(path, index)) is not None}
        patients = {path: patient for pair in pairs.values() for path, patient in pair.items()}
        samples = [
            replace(sample, patient=patients.get(sample.path)) if sample.path is not None else sample
            for sample in samples
        ]
        unread = tuple(path for path in unread if path not in pairs)
    label_files = tuple(table.path for table in files.tables)
    _check_contradictions(samples, ", ".join(map(str, label_files)))
    return RawDataset(
        layout=files.layout,
        samples=tuple(samples),
        root=index.folder.resolve(),
        num_unlabeled_left_out=index.num_without_label({sample.path for sample in samples if sample.path is not None}),
        label_files=label_files,
        unread_files=unread,
        pair_files=tuple(pairs),
    )


def _preferred(files: LabelFiles, folder: Path) -> LabelTable:
    preferred = [table for table in files.tables if table.path.name.lower() in _PREFERRED_NAMES]
    if len(preferred) != 1:
        names = ", ".join(table.path.relative_to(folder).as_posix() for table in files.tables)
        raise DatasetError(
            f"{folder} must have one label file for each photograph, found: {names}; choose one with --labels"
        )
    return preferred[0]


def _samples(
    table: LabelTable,
    layout: str,
    index: PhotographIndex,
    columns: LabelColumns | None,
    names: GradeNames,
    *,
    is_alone: bool,
) -> list[Sample]:
    rows = read_rows(table, layout, columns, index)
    if not rows:
        raise DatasetError(f"the label file {table.path} has a header but no rows")
    check_scale(table, layout, rows, names)
    own = index if is_alone else index.of_label_file(table.path)
    kept = [row for row in rows if row.without_grade or (row.grade is not None and not names.is_left_out(row.grade))]
    return [_sample(row, own, table.path, names) for row in kept]


def _sample(row: LabelRow, index: PhotographIndex, label_file: Path, names: GradeNames) -> Sample:
    path, error = index.find(row.image, label_file)
    grade = names.grade(row.grade or "")
    if grade is None and row.without_grade is None and error is None:
        error = f"{NO_GRADE} {row.grade!r} is not one of 0-4"
    return Sample(
        source=source_of(path.relative_to(index.folder)) if path else escape_controls(row.image),
        path=path,
        grade=grade,
        patient=_escaped(row.patient),
        eye=_escaped(row.eye),
        site=_escaped(row.site),
        without_grade=row.without_grade,
        error=error,
    )


def _escaped(text: str | None) -> str | None:
    return escape_controls(text) if text else None


def _may_hold_labels(table: LabelTable) -> bool:
    """Whether a table has two columns, or nothing at all; names alone, such as those of a test set, are no labels."""
    return not table.rows or any(sum(map(bool, row)) > 1 for row in table.rows[:50])


def _not_understood(table: LabelTable) -> str:
    if not table.rows:
        return f"the label file {table.path} is empty; expected a CSV of labels"
    return (
        f"the label file {table.path} has the columns {', '.join(filter(None, table.header))}; expected those of "
        f"{_EXPECTED}, or {_REMEDY}"
    )


def _check_contradictions(samples: Sequence[Sample], files: str) -> None:
    """Raise DatasetError where two rows give one photograph different grades."""
    grades: dict[str, object] = {}
    for sample in samples:
        if sample.path is not None and grades.setdefault(sample.source, sample.grade) != sample.grade:
            raise DatasetError(f"{files} gives {sample.source} two different grades; keep one row for each photograph")
