"""Folders named by grade, at one level or inside of others such as `train` and `val` -> samples."""

from __future__ import annotations

from pathlib import Path

from fundusgrade.data.grade_names import HOW_TO_NAME, GradeNames, is_like_a_grade, is_without_grade, parse_grade
from fundusgrade.data.samples import RawDataset, Sample, source_of
from fundusgrade.errors import DatasetError
from fundusgrade.grades import Grade
from fundusgrade.photographs.sources import find_files

_MAX_DEPTH = 4


def read_grade_folders(folder: Path, names: GradeNames) -> RawDataset | None:
    """RawDataset of folders named by grade ("0", "1_Mild", "No DR", "PDR", ...); None where no name is that of a grade.

    Raises DatasetError where beside them a folder of photographs has a name that is not understood.
    """
    graded = _grade_folders(folder, names, depth=0)
    if not graded:
        return None
    samples = [
        Sample(source=source_of(photograph.path.relative_to(folder)), path=photograph.path, grade=grade)
        for child, grade in graded.items()
        for photograph in find_files([child])
    ]
    if not samples:
        raise DatasetError(
            f"the grade folders of {folder} contain no photographs; expected JPEG, PNG or other pictures"
        )
    num_left_out = len(find_files([folder])) - len(samples)
    return RawDataset(
        layout="folders", samples=tuple(samples), root=folder.resolve(), num_unlabeled_left_out=num_left_out
    )


def _grade_folders(folder: Path, names: GradeNames, depth: int) -> dict[Path, Grade]:
    """Folders named by grade and their grades: those of this folder or, where it has none, of the folders inside."""
    children = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    graded = {child: grade for child in children if (grade := _grade_of(child.name, names)) is not None}
    others = [child for child in children if child not in graded and not names.is_left_out(child.name)]
    # One number is no proof: the folder may be a patient.
    if any(not child.name.isdecimal() for child in graded) or len(graded) > 1:
        _check_others(folder, graded, others)
        return graded
    below = [_grade_folders(child, names, depth + 1) for child in children] if depth < _MAX_DEPTH else []
    inside = {child: grade for found in below for child, grade in found.items()}
    if not inside:
        like_grades = [child for child in others if is_like_a_grade(child.name) and not child.name.isdecimal()]
        _check_others(folder, {}, like_grades)
    return inside


def _grade_of(name: str, names: GradeNames) -> Grade | None:
    """The grade that a folder's name means; "01" may be a patient."""
    return None if name.isdecimal() and len(name) > 1 and names.grade(name) == parse_grade(name) else names.grade(name)


def _check_others(folder: Path, graded: dict[Path, Grade], others: list[Path]) -> None:
    """Raise DatasetError where folders that hold photographs are neither grades nor named as having none."""
    unknown = [child for child in others if not is_without_grade(child.name) and find_files([child])]
    if not unknown:
        return
    named = ", ".join(child.name for child in unknown[:4])
    if graded and any(child.name.isdecimal() for child in unknown):
        numbered = ", ".join([child.name for child in unknown if child.name.isdecimal()][:4])
        raise DatasetError(
            f"{folder} has folders for the grades 0-4, but also {numbered}; if the numbers are grades, "
            f"move the other folders away or pass {HOW_TO_NAME}; if they are not, give the folders inside it as the "
            "arguments"
        )
    raise DatasetError(
        f"{folder} has folders whose names are not understood as grades: {named}; expected 0-4, or names such as "
        f"No DR, Mild, Moderate NPDR, Severe, PDR. Say what they mean with {HOW_TO_NAME}; if they are no grades, give "
        "the folders inside it as the arguments"
    )
