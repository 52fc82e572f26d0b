"""Photographs of each grade in each split: printed before training, with what is missing."""

from __future__ import annotations

from collections import Counter

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.errors import TrainingError
from fundusgrade.grades import NUM_GRADES

_NAMES = {"train": "training", "validation": "validation", "test": "test"}
_CONSEQUENCES = {
    "train": "the network can hardly learn what it sees so rarely",
    "validation": "the epoch, calibration and thresholds are chosen almost without such photographs",
    "test": "scores of such photographs will be undefined or very uncertain",
}


def count_grades(dataset: PreparedDataset) -> dict[str, tuple[int, ...]]:
    """Photographs of grades 0-4 in each split, which may be empty."""
    counts = {split: Counter(int(row.grade or 0) for row in dataset.graded_rows(split)) for split in _NAMES}
    return {split: tuple(count[grade] for grade in range(NUM_GRADES)) for split, count in counts.items()}


def check_grades(dataset: PreparedDataset) -> None:
    """Raise TrainingError where the training or the validation split has photographs of no grade or of one only."""
    consequences = {"train": "there is nothing to tell apart", "validation": "kappa is undefined"}
    counts = count_grades(dataset)
    for split, consequence in consequences.items():
        present = [grade for grade in range(NUM_GRADES) if counts[split][grade]]
        if not present:
            raise TrainingError(
                f"the {_NAMES[split]} split of {dataset.name} has no graded photographs: {consequence}; prepare a data "
                "set with more labeled photographs"
            )
        if len(present) == 1:
            raise TrainingError(
                f"all {sum(counts[split])} photographs of the {_NAMES[split]} split of {dataset.name} have grade "
                f"{present[0]}: {consequence}; expected at least two grades: prepare a data set with more labeled "
                "photographs"
            )


def describe_grades(dataset: PreparedDataset) -> str:
    """The size of each split and its photographs of grades 0-4, in one line."""
    parts = [
        f"{_NAMES[split]} {sum(counts)} ({' + '.join(map(str, counts))})"
        for split, counts in count_grades(dataset).items()
    ]
    return f"data set {dataset.name}, photographs (of grades 0 + 1 + 2 + 3 + 4): {', '.join(parts)}"


def grade_warnings(dataset: PreparedDataset) -> tuple[str, ...]:
    """A sentence for each split that has no photograph of a grade, or a single one; an empty split is not mentioned."""
    warnings = []
    for split, counts in count_grades(dataset).items():
        found = [
            f"{amount} photograph of grade {', '.join(grades)}"
            for amount, number in (("no", 0), ("only one", 1))
            if (grades := [str(grade) for grade, count in enumerate(counts) if count == number])
        ]
        if sum(counts) and found:
            warnings.append(f"the {_NAMES[split]} split has {' and '.join(found)}: {_CONSEQUENCES[split]}")
    return tuple(warnings)
