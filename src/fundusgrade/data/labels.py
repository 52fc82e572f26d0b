"""A labeled data set as it is published -> samples, from a label file or from one folder per grade."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fundusgrade.data.label_files import LabelColumns, find_label_files, read_label_file
from fundusgrade.data.samples import RawDataset, Sample, source_of
from fundusgrade.errors import DatasetError
from fundusgrade.grades import Grade
from fundusgrade.photographs.sources import PHOTOGRAPH_SUFFIXES, find_files

_FOLDER_GRADES = {
    "0": Grade.NONE, "nodr": Grade.NONE, "none": Grade.NONE, "normal": Grade.NONE, "healthy": Grade.NONE,
    "1": Grade.MILD, "mild": Grade.MILD, "milddr": Grade.MILD,
    "2": Grade.MODERATE, "moderate": Grade.MODERATE, "moderatedr": Grade.MODERATE,
    "3": Grade.SEVERE, "severe": Grade.SEVERE, "severedr": Grade.SEVERE,
    "4": Grade.PROLIFERATIVE, "proliferate": Grade.PROLIFERATIVE, "proliferatedr": Grade.PROLIFERATIVE,
    "proliferative": Grade.PROLIFERATIVE, "proliferativedr": Grade.PROLIFERATIVE, "pdr": Grade.PROLIFERATIVE,
}  # fmt: skip


def find_samples(
    sources: Sequence[Path], *, labels: Path | None = None, columns: LabelColumns | None = None
) -> RawDataset:
    """Find the photographs and labels of a data set in one folder, or unlabeled photographs in files and folders.

    A label file is recognized by its header (APTOS, EyePACS, IDRiD) or described by `columns`; without one, subfolders
    named by grade are labels. Raises DatasetError where labels are ambiguous or contradict each other.
    """
    if labels is not None or columns is not None:
        return read_label_file(_only_folder(sources), labels, columns)
    if len(sources) == 1 and sources[0].is_dir():
        if find_label_files(sources[0]):
            return read_label_file(sources[0], None, None)
        by_folder = _from_grade_folders(sources[0])
        if by_folder is not None:
            return by_folder
    missing = [str(source) for source in sources if not source.exists()]
    if missing:
        raise DatasetError(f"no such file or folder: {', '.join(missing)}")
    photographs = find_files(list(sources))
    if not photographs:
        raise DatasetError(f"no photographs in {', '.join(map(str, sources))}; expected {_suffixes()} files")
    samples = tuple(Sample(source=source_of(photograph.path), path=photograph.path) for photograph in photographs)
    return RawDataset(layout="photographs", samples=samples, root=Path.cwd())


def _only_folder(sources: Sequence[Path]) -> Path:
    if len(sources) != 1 or not sources[0].is_dir():
        raise DatasetError("a label file needs exactly one folder of photographs; give that folder as the argument")
    return sources[0]


def _from_grade_folders(folder: Path) -> RawDataset | None:
    """RawDataset of subfolders named 0-4 or by the grades' names; None where there are fewer than two such folders."""
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
            f"{folder} has folders for the grades 0-4, but also {', '.join(numbered[:4])}; if the numbers are grades, "
            "move the other folders away; if they are not, give the folders inside it as the arguments"
        )
    samples = [
        Sample(source=source_of(photograph.path.relative_to(folder)), path=photograph.path, grade=grade)
        for child, grade in graded.items()
        if grade is not None
        for photograph in find_files([child])
    ]
    if not samples:
        raise DatasetError(f"the grade folders of {folder} contain no photographs; expected {_suffixes()} files")
    num_left_out = len(find_files(others))
    return RawDataset(
        layout="folders", samples=tuple(samples), root=folder.resolve(), num_unlabeled_left_out=num_left_out
    )


def _suffixes() -> str:
    return ", ".join(sorted(PHOTOGRAPH_SUFFIXES))
