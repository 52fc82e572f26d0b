"""The photographs of each cell of a confusion matrix, and those that one of two models puts there alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusgrade.grades import NUM_GRADES, REFERABLE_FROM
from fundusgrade.metrics.classification import expected_grades, probability_from_grade
from fundusgrade.metrics.predictions import ScoredPhotographs

MAX_LISTED = 100
"""Photographs that a cell lists at most: those whose true grade was least probable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellPhotograph:
    """A photograph of a cell: its expected grade, 0.0 to 4.0, and its probability of referable disease, 0 to 1."""

    source: str
    expected_grade: float
    referable: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfusionCell:
    """Photographs of a true and a predicted grade: how many, and the first `MAX_LISTED` of them."""

    grade: int
    predicted: int
    num_photographs: int
    photographs: tuple[CellPhotograph, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferenceCell:
    """A cell of the first model's matrix less the second's: the photographs that only one of them puts there."""

    grade: int
    predicted: int
    only_first: ConfusionCell
    only_second: ConfusionCell

    @property
    def difference(self) -> int:
        """How many more photographs the first model puts there."""
        return self.only_first.num_photographs - self.only_second.num_photographs


def confusion_cells(test: ScoredPhotographs, max_listed: int = MAX_LISTED) -> tuple[ConfusionCell, ...]:
    """The cells of the confusion matrix, row by row: by true grade, then by predicted grade."""
    everything = np.ones(len(test), bool)
    return tuple(
        _cell(test, everything, grade, predicted, max_listed)
        for grade in range(NUM_GRADES)
        for predicted in range(NUM_GRADES)
    )


def difference_cells(
    first: ScoredPhotographs, second: ScoredPhotographs, max_listed: int = MAX_LISTED
) -> tuple[DifferenceCell, ...]:
    """The cells of the difference of two models on the same photographs, in whatever order, row by row."""
    index = {source: i for i, source in enumerate(second.sources)}
    second = second.subset(np.array([index[source] for source in first.sources], np.int64))
    differs = first.predicted != second.predicted
    return tuple(
        DifferenceCell(
            grade=grade,
            predicted=predicted,
            only_first=_cell(first, differs, grade, predicted, max_listed),
            only_second=_cell(second, differs, grade, predicted, max_listed),
        )
        for grade in range(NUM_GRADES)
        for predicted in range(NUM_GRADES)
    )


def _cell(
    test: ScoredPhotographs, among: NDArray[np.bool_], grade: int, predicted: int, max_listed: int
) -> ConfusionCell:
    members = np.flatnonzero(among & (test.grades == grade) & (test.predicted == predicted))
    of_cell = test.subset(members[np.argsort(test.probabilities[members, grade], kind="stable")])
    listed = of_cell.subset(np.arange(min(max_listed, len(of_cell))))
    expected = expected_grades(listed.probabilities)
    referable = probability_from_grade(listed.probabilities, REFERABLE_FROM)
    return ConfusionCell(
        grade=grade,
        predicted=predicted,
        num_photographs=len(members),
        photographs=tuple(
            CellPhotograph(source=source, expected_grade=float(expected[i]), referable=float(referable[i]))
            for i, source in enumerate(listed.sources)
        ),
    )
