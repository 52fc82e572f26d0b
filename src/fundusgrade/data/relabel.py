"""A prepared data set with the grades of a reader, from the `reviewed.csv` of a page of results."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.grade_names import parse_grade
from fundusgrade.data.label_layouts import LabelRow, reviewed_rows
from fundusgrade.data.label_tables import read_table
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.data.samples import escape_controls
from fundusgrade.errors import DatasetError
from fundusgrade.files import hash_text

_NUM_NAMED = 3
_LONE_BYTE = re.compile(r"\\udc([89a-f][0-9a-f])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Relabeled:
    """The data set with a reader's grades, and how many photographs have none, by what the reader said of them."""

    dataset: PreparedDataset
    num_graded: int
    num_without: Mapping[str, int]
    num_not_reviewed: int
    num_unknown: int
    """Photographs of the file that the data set does not hold."""

    def describe(self) -> str:
        """One line for people: nothing is left out in silence."""
        without = ", ".join(f"{count} {answer}" for answer, count in sorted(self.num_without.items()))
        parts = [
            f"{self.num_graded} photographs graded by the reader",
            *([without] if without else []),
            *([f"{self.num_not_reviewed} not reviewed"] if self.num_not_reviewed else []),
            *([f"{self.num_unknown} of the file are not in the data set"] if self.num_unknown else []),
        ]
        return "; ".join(parts)


def relabel(dataset: PreparedDataset, path: Path) -> Relabeled:
    """Replace the grades of a data set by those of a reader; photographs that have none of his stay without a grade.

    A photograph is known by the end of its path. Patients and eyes of the file are taken where the data set has none,
    and photographs of one patient form a group. Raises DatasetError where the file is no `reviewed.csv`, names a
    photograph twice with different grades or one that could be several, or none of the data set's.
    """
    reviewed = reviewed_rows(read_table(path))
    found = _by_source(dataset, reviewed, path)
    if not found:
        raise DatasetError(
            f"--labels {path} names no photograph of the data set {dataset.name!r}; name the data set that was made of "
            "the photographs that were reviewed"
        )
    rows = _regrouped([_relabeled(row, found.get(row.source)) for row in dataset.rows])
    answers = Counter(row.without_grade for row in found.values() if row.without_grade)
    new_hash = hash_text("\n".join([dataset.hash, *(f"{row.source}\t{row.grade}" for row in rows)]))
    return Relabeled(
        dataset=replace(dataset, rows=rows, hash=new_hash),
        num_graded=sum(row.grade is not None for row in rows),
        num_without={answer: count for answer, count in answers.items() if answer is not None},
        num_not_reviewed=len(dataset.rows) - len(found),
        num_unknown=len({row.image for row in reviewed}) - len(found),
    )


def _by_source(dataset: PreparedDataset, reviewed: Sequence[LabelRow], path: Path) -> dict[str, LabelRow]:
    """The rows of the file by the source of the photograph that they are about."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for known in dataset.rows:
        by_name[known.source.rpartition("/")[2]].append(known.source)
    found: dict[str, LabelRow] = {}
    for row in reviewed:
        source = _source(row.image, by_name, path)
        if source is None:
            continue
        if source in found and found[source].grade != row.grade:
            raise DatasetError(f"--labels {path} gives {source} two different grades; keep one row for each photograph")
        found[source] = row
    return found


def _source(image: str, by_name: Mapping[str, Sequence[str]], path: Path) -> str | None:
    """The source whose path agrees with a name in most of its last parts; None where there is none of this name."""
    named = _LONE_BYTE.sub(r"\\x\1", escape_controls(image)).split("/")
    agreeing: dict[int, list[str]] = defaultdict(list)
    for source in by_name.get(named[-1], ()):
        agreeing[_num_equal_last(named, source.split("/"))].append(source)
    if not agreeing:
        return None
    best = agreeing[max(agreeing)]
    if len(best) > 1:
        several = ", ".join(best[:_NUM_NAMED])
        raise DatasetError(f"--labels {path}: {image!r} could be {several}; name one data set with --data")
    return best[0]


def _num_equal_last(one: Sequence[str], other: Sequence[str]) -> int:
    pairs = list(zip(reversed(one), reversed(other), strict=False))
    return next((number for number, (a, b) in enumerate(pairs) if a != b), len(pairs))


def _relabeled(row: ManifestRow, label: LabelRow | None) -> ManifestRow:
    if label is None:
        return replace(row, grade=None)
    grade = None if label.grade is None else parse_grade(label.grade)
    if label.grade is not None and grade is None:
        raise DatasetError(f"the grade {label.grade!r} of {row.source} is not one of 0-4")
    patient = row.patient or (escape_controls(label.patient) if label.patient else None)
    return replace(row, grade=grade, patient=patient, eye=row.eye or label.eye)


def _regrouped(rows: Sequence[ManifestRow]) -> tuple[ManifestRow, ...]:
    """The rows with groups that also hold all photographs of a patient: of joined groups the lowest number."""
    parent: dict[int, int] = {}

    def root(group: int) -> int:
        while parent.get(group, group) != group:
            group = parent[group]
        return group

    of_patient: dict[tuple[str | None, str], int] = {}
    for row in rows:
        if row.patient is None:
            continue
        own, other = root(row.group), root(of_patient.setdefault((row.origin, row.patient), row.group))
        parent[max(own, other)] = min(own, other)
    return tuple(replace(row, group=root(row.group)) for row in rows)
