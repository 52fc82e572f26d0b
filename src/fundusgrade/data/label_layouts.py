"""The columns of label files: those of published data sets, a list without header, or columns that the user names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import PurePosixPath

from fundusgrade.data.grade_names import HOW_TO_NAME, GradeNames, parse_grade, parse_keywords
from fundusgrade.data.label_tables import LabelTable
from fundusgrade.data.photograph_names import PhotographIndex
from fundusgrade.data.reviewed import (
    REFERRED,
    REFERRED_WITHOUT_GRADE,
    REVIEW_COLUMNS,
    UNGRADABLE_BY_READER,
    read_cell,
)
from fundusgrade.errors import DatasetError

Cells = dict[str, str]
"""The cells of a row by the folded names of their columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelColumns:
    """Names of a label file's columns."""

    image: str
    """Name or path of the photograph, with or without suffix."""
    grade: str
    """Grade of diabetic retinopathy, 0-4 or in words."""
    patient: str | None = None
    """Identifier of the patient."""
    eye: str | None = None
    """Which eye, such as left or right."""
    site: str | None = None
    """Where the photograph was taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRow:
    """What a label file says of one photograph; None where it says nothing."""

    image: str
    grade: str | None
    """The label as it is written; None where the data set says that the photograph has no grade."""
    patient: str | None = None
    eye: str | None = None
    site: str | None = None
    without_grade: str | None = None
    """What a reader said instead of a grade, where the photograph is to be kept without one."""


_APTOS = LabelColumns(image="id_code", grade="diagnosis")
_EYEPACS = LabelColumns(image="image", grade="level", patient="patient", eye="eye")
_IDRID = LabelColumns(image="Image name", grade="Retinopathy grade")
_MESSIDOR2 = LabelColumns(image="image_id", grade="adjudicated_dr_grade")
_LAYOUTS = {"aptos": _APTOS, "eyepacs": _EYEPACS, "idrid": _IDRID, "messidor2": _MESSIDOR2}
_REVIEWED = {name.replace("_", "") for name in REVIEW_COLUMNS[:7]}
_DEEPDRID = {"imageid", "lefteyedrlevel", "righteyedrlevel"}
_ODIR = {"leftfundus", "rightfundus", "leftdiagnostickeywords", "rightdiagnostickeywords"}
# EyePACS names its photographs by patient and eye.
_EYEPACS_NAME = re.compile(r"(?P<patient>\d+)_(?P<eye>left|right)")
# Messidor and Messidor-2 name theirs by date, patient and picture.
_MESSIDOR_NAME = re.compile(r"\d{8}_\d{4,5}_\d{4}_PP", re.IGNORECASE)
UNGRADABLE = "5"
"""The label of DDR and DeepDRiD for photographs that could not be graded."""
_NUM_PROBED = 50


def layout_of(table: LabelTable, index: PhotographIndex) -> str | None:
    """The layout of a label file, by its header or, for a list without header, by what it names; None if unknown.

    "messidor" is the scale 0-3 of Messidor, whose columns are those of IDRiD and one more.
    """
    header = set(map(_key, table.header))
    for layout, columns in _LAYOUTS.items():
        if {_key(columns.image), _key(columns.grade)} <= header:
            return "messidor" if layout == "idrid" and _is_messidor(table) else layout
    if header >= _REVIEWED:
        return "reviewed"
    if header >= _DEEPDRID:
        return "deepdrid"
    if header >= _ODIR:
        return "odir"
    if _list_columns(table, index) is not None:
        return "ddr" if table.path.suffix.lower() == ".txt" else "list"
    return None


def read_rows(table: LabelTable, layout: str, columns: LabelColumns | None, index: PhotographIndex) -> list[LabelRow]:
    """The rows of a label file that name a photograph.

    `columns` are those that the user named, for the layout "columns". Raises DatasetError where a column is missing.
    """
    if layout in ("ddr", "list"):
        places = _list_columns(table, index)
        assert places is not None
        rows = [LabelRow(image=row[places[0]], grade=row[places[1]]) for row in table.rows if len(row) > max(places)]
        return [_without_ungradable(row) for row in rows] if layout == "ddr" else rows
    cells = _cells(table)
    if layout in _READERS:
        return list(dict.fromkeys(row for row_cells in cells for row in _READERS[layout](row_cells)))
    known = _known_columns(table, columns or _LAYOUTS["idrid" if layout == "messidor" else layout], given=columns)
    rows = [_row(row_cells, known) for row_cells in cells if row_cells[_key(known.image)]]
    return [_with_no_grade(row) for row in rows] if layout == "messidor2" else rows


def reviewed_rows(table: LabelTable) -> list[LabelRow]:
    """The rows of the file of a page of results. Raises DatasetError for another file."""
    if not set(map(_key, table.header)) >= _REVIEWED:
        raise DatasetError(
            f"{table.path} is no reviewed.csv: it has the columns {', '.join(filter(None, table.header))}; expected "
            f"{', '.join(REVIEW_COLUMNS[:7])}, as a page of results downloads it (`fundusgrade predict --report`)"
        )
    return list(dict.fromkeys(row for cells in _cells(table) for row in _reviewed_rows(cells)))


def check_scale(table: LabelTable, layout: str, rows: list[LabelRow], names: GradeNames) -> None:
    """Raise DatasetError where grades are of another scale than ICDR's 0-4 and the user has not said what they mean."""
    if names.given:
        return
    if layout == "messidor" or (layout == "columns" and _is_messidor(table)):
        raise DatasetError(
            f"the label file {table.path} has the columns {', '.join(filter(None, table.header))}: this is Messidor's "
            "own scale 0-3, not the ICDR scale 0-4; use the adjudicated grades of Messidor-2, or say what its grades "
            f"mean with {HOW_TO_NAME}"
        )
    values = {row.grade or UNGRADABLE for row in rows} if layout == "ddr" else {row.grade for row in rows}
    if {"1", "2", "3", "4", "5"} <= values and "0" not in values:
        raise DatasetError(
            f"the grades of the label file {table.path} run from 1 to 5; expected 0-4: say what they mean with "
            "--grades '1=0,2=1,3=2,4=3,5=4', if that is so"
        )


def has_columns(table: LabelTable, columns: LabelColumns) -> bool:
    """Whether a label file has the columns of image and grade."""
    return {_key(columns.image), _key(columns.grade)} <= set(map(_key, table.header))


def lacks_column(table: LabelTable, columns: LabelColumns) -> str:
    """In words, which column that the user named a label file has not; "" where it has all."""
    header = set(map(_key, table.header))
    missing = [name for name in asdict(columns).values() if name is not None and _key(name) not in header]
    listed = ", ".join(filter(None, table.header))
    return f"the label file {table.path} has no column {missing[0]!r}; it has {listed}" if missing else ""


def _is_messidor(table: LabelTable) -> bool:
    header = list(map(_key, table.header))
    if "ophthalmologicdepartment" in header:
        return True
    named = [row[0] for row in table.rows[1:] if row]
    return "retinopathygrade" in header and any(_MESSIDOR_NAME.match(name) for name in named[:_NUM_PROBED])


def _list_columns(table: LabelTable, index: PhotographIndex) -> tuple[int, int] | None:
    """Where a list without header has photographs and grades; None where that is not plain from its first rows."""
    probed = table.rows[:_NUM_PROBED]
    width = min((len(row) for row in probed), default=0)
    columns = [[row[i] for row in probed] for i in range(width)]
    images = [
        i for i, cells in enumerate(columns) if index.has(cells[0]) and 2 * sum(map(index.has, cells)) >= len(cells)
    ]
    grades = [i for i, cells in enumerate(columns) if i not in images[:1] and all(map(_is_label, cells))]
    return (images[0], grades[0]) if images and len(grades) == 1 else None


def _is_label(text: str) -> bool:
    return text == UNGRADABLE or parse_grade(text) is not None


def _cells(table: LabelTable) -> list[Cells]:
    """Each row by column; cells that a row lacks are empty, and of columns of one name the first counts."""
    keys = list(map(_key, table.header))
    padded = [(*row, *([""] * len(keys))) for row in table.rows[1:]]
    return [dict(reversed(list(zip(keys, row, strict=False)))) for row in padded]


def _known_columns(table: LabelTable, columns: LabelColumns, *, given: LabelColumns | None) -> LabelColumns:
    """The columns that the file has. Raises DatasetError where one that the user named is missing."""
    header = list(map(_key, table.header))
    names = asdict(columns)
    repeated = next((name for name in names.values() if name is not None and header.count(_key(name)) > 1), None)
    if repeated is not None:
        raise DatasetError(
            f"the label file {table.path} has several columns {repeated!r}; rename those that are not meant"
        )
    if given is not None and (problem := lacks_column(table, columns)):
        raise DatasetError(problem)
    return LabelColumns(**{field: name for field, name in names.items() if name is None or _key(name) in header})


def _row(cells: Cells, columns: LabelColumns) -> LabelRow:
    image = cells[_key(columns.image)]
    named = _EYEPACS_NAME.fullmatch(PurePosixPath(image).stem) if columns.image == _EYEPACS.image else None
    return LabelRow(
        image=image,
        grade=cells[_key(columns.grade)],
        patient=_cell(cells, columns.patient) or (named["patient"] if named else None),
        eye=_cell(cells, columns.eye) or (named["eye"] if named else None),
        site=_cell(cells, columns.site),
    )


def _cell(cells: Cells, column: str | None) -> str | None:
    return (cells.get(_key(column)) or None) if column else None


def _deepdrid_rows(cells: Cells) -> Iterator[LabelRow]:
    """DeepDRiD gives the grade of a photograph in the column of its eye and leaves the other empty."""
    for eye in ("left", "right"):
        grade = cells[f"{eye}eyedrlevel"]
        if cells["imageid"] and grade:
            row = LabelRow(image=cells["imageid"], grade=grade, patient=cells.get("patientid") or None, eye=eye)
            yield _without_ungradable(row)


def _odir_rows(cells: Cells) -> Iterator[LabelRow]:
    """ODIR-5K has a patient in each row, with diagnoses in words for each eye; few name a grade of retinopathy."""
    for eye in ("left", "right"):
        grade = parse_keywords(cells[f"{eye}diagnostickeywords"])
        if cells[f"{eye}fundus"]:
            text = None if grade is None else str(int(grade))
            yield LabelRow(image=cells[f"{eye}fundus"], grade=text, patient=cells.get("id") or None, eye=eye)


def _reviewed_rows(cells: Cells) -> Iterator[LabelRow]:
    """The file of a page of results has a reader's grade, or that there is none: ungradable, or referred without."""
    grade, answer = cells["readergrade"] or None, cells["readerreferable"]
    if cells["image"] and (grade or answer):
        yield LabelRow(
            image=read_cell(cells["image"]),
            grade=grade,
            patient=read_cell(cells["patient"]) or None,
            eye=read_cell(cells["eye"]) or None,
            without_grade=None if grade else REFERRED_WITHOUT_GRADE if answer == REFERRED else UNGRADABLE_BY_READER,
        )


_READERS: dict[str, Callable[[Cells], Iterator[LabelRow]]] = {
    "deepdrid": _deepdrid_rows,
    "odir": _odir_rows,
    "reviewed": _reviewed_rows,
}


def _without_ungradable(row: LabelRow) -> LabelRow:
    return replace(row, grade=None) if row.grade == UNGRADABLE else row


def _with_no_grade(row: LabelRow) -> LabelRow:
    """Messidor-2's adjudicators left the grade of what is not gradable empty."""
    return replace(row, grade=row.grade or None)


def _key(name: str) -> str:
    """A column's name without regard to case, spaces and punctuation."""
    return "".join(letter for letter in unicodedata.normalize("NFKC", name).casefold() if letter.isalnum())
