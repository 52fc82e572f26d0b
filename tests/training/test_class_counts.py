"""What is missing from the splits is said before training."""

from __future__ import annotations

import pytest

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.errors import TrainingError
from fundusgrade.grades import Grade
from fundusgrade.training.class_counts import check_grades, count_grades, describe_grades, grade_warnings
from tests.prepared import dataset_in_memory, memory_row


def dataset_of(**grades: tuple[int, ...]) -> PreparedDataset:
    """A data set whose splits have photographs of these grades."""
    placed = [(split, grade) for split, of_split in grades.items() for grade in of_split]
    rows = [memory_row(n, grade=Grade(grade), group=n, split=split) for n, (split, grade) in enumerate(placed)]
    return dataset_in_memory("eyes", rows)


WHOLE = (0, 0, 1, 1, 2, 2, 3, 3, 4, 4)


def test_grades_are_counted_in_each_split() -> None:
    dataset = dataset_of(train=(0, 0, 0, 2), validation=(1, 4))
    assert count_grades(dataset) == {
        "train": (3, 0, 1, 0, 0), "validation": (0, 1, 0, 0, 1), "test": (0, 0, 0, 0, 0)
    }  # fmt: skip
    assert describe_grades(dataset) == (
        "data set eyes, photographs (of grades 0 + 1 + 2 + 3 + 4): training 4 (3 + 0 + 1 + 0 + 0), "
        "validation 2 (0 + 1 + 0 + 0 + 1), test 0 (0 + 0 + 0 + 0 + 0)"
    )


def test_a_split_of_one_grade_is_an_error() -> None:
    with pytest.raises(TrainingError, match="all 2 photographs of the training split of eyes have grade 3: there is"):
        check_grades(dataset_of(train=(3, 3), validation=WHOLE))
    with pytest.raises(TrainingError, match=r"all 1 photographs of the validation split .* kappa is undefined"):
        check_grades(dataset_of(train=WHOLE, validation=(3,)))
    with pytest.raises(TrainingError, match="the validation split of eyes has no graded photographs: kappa is und"):
        check_grades(dataset_of(train=WHOLE, validation=()))
    check_grades(dataset_of(train=WHOLE, validation=(0, 1), test=(2,)))


def test_grades_that_are_missing_or_rare_are_warned_of() -> None:
    assert grade_warnings(dataset_of(train=WHOLE, validation=WHOLE)) == (), "an empty test split is not mentioned"
    warnings = grade_warnings(dataset_of(train=WHOLE[1:], validation=WHOLE[:6], test=(0, *WHOLE[:8])))
    assert warnings == (
        "the training split has only one photograph of grade 0: the network can hardly learn what it sees so rarely",
        "the validation split has no photograph of grade 3, 4: the epoch, calibration and thresholds are "
        "chosen almost without such photographs",
        "the test split has no photograph of grade 4: scores of such photographs will be undefined or very uncertain",
    )
