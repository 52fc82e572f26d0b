"""Predictions of one model to be scored: on disk as CSV, in memory as columns.

A file holds the photographs that are scored (`part` "test") and those on which thresholds are chosen ("validation"). In
cross-validation each photograph is a test photograph once, graded by the one network that was not trained on its group;
`fold` says which validation photographs belong to which test photographs.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fundusgrade.errors import DatasetError
from fundusgrade.files import write_atomically
from fundusgrade.grades import NUM_GRADES
from fundusgrade.metrics.classification import decide_grades

PARTS = ("test", "validation")
"""Values of the column `part`: the photographs that are scored, and those on which thresholds are chosen."""
_LABELS = ("source", "part", "fold", "group", "grade", "predicted")
_OUTPUTS = (*(f"p{grade}" for grade in range(NUM_GRADES)), "model", "data")
COLUMNS = (*_LABELS, *_OUTPUTS)
MOST_PROBABLE_COLUMN = "most_probable"
"""A column that files of others and earlier versions may lack: the grade of the highest probability, for readers."""
ACQUISITION_COLUMN = "acquisition"
"""A column that files of others may lack: clusters of photographs that were acquired alike, as in the manifest."""
LEAKAGE_COLUMN = "seen"
"""The last column, which files of others may lack: which of the photographs trained the model, in a sentence."""
HEADER = (*_LABELS, MOST_PROBABLE_COLUMN, *_OUTPUTS, ACQUISITION_COLUMN, LEAKAGE_COLUMN)
"""The columns as they are written; they are read in any order."""
INFLATED = "scores are inflated"
"""Words of a sentence on leakage that say so: the model has seen photographs that are scored."""

# Files of others may hold fewer digits; beyond this something else than rounding is wrong.
_TOLERANCE = 1e-3

TTA_SUFFIX = "-tta"
"""Ends the name of predictions with test-time augmentation: the mean over each photograph and its mirror images."""


def fold_name(name: str, fold: int) -> str:
    """The name of the model that was trained without this fold, which counts from 1."""
    return f"{name}-fold{fold}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredPhotographs:
    """Columns of N photographs: names, true and predicted grades (N,), probabilities (N, 5), groups and folds (N,).

    Photographs of one group (copies, a patient) are not independent. Folds count from 1; 0 where there are none.
    `acquisitions` (N,) number clusters of photographs that were acquired alike; None where not all of them are known.
    """

    sources: tuple[str, ...]
    grades: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    groups: NDArray[np.int64]
    folds: NDArray[np.int64]
    acquisitions: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def most_probable(self) -> NDArray[np.int64]:
        """The grade of the highest probability (N,), of equal ones the lowest; thresholds may predict another one."""
        return decide_grades(self.probabilities, None)

    def subset(self, selection: NDArray[np.bool_] | NDArray[np.int64]) -> ScoredPhotographs:
        """The photographs of a mask (N,), or those at these positions, in their order."""
        indices = np.arange(len(self))[selection]
        return ScoredPhotographs(
            sources=tuple(self.sources[i] for i in indices),
            grades=self.grades[indices],
            predicted=self.predicted[indices],
            probabilities=self.probabilities[indices],
            groups=self.groups[indices],
            folds=self.folds[indices],
            acquisitions=None if self.acquisitions is None else self.acquisitions[indices],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PredictionSet:
    """Predictions of one model for one data set; `validation` is empty where no thresholds can be chosen.

    `leakage` says which of the photographs were used to train or select the model; empty where that is not known.
    """

    model: str
    data: str
    test: ScoredPhotographs
    validation: ScoredPhotographs
    leakage: str = ""

    @property
    def is_inflated(self) -> bool:
        """Whether the model was trained or selected on photographs that are scored."""
        return INFLATED in self.leakage


def concatenate(parts: Sequence[ScoredPhotographs]) -> ScoredPhotographs:
    """The photographs of all parts, one part after the other."""
    acquisitions = [part.acquisitions for part in parts if len(part)]
    known = [each for each in acquisitions if each is not None]
    return ScoredPhotographs(
        sources=tuple(source for part in parts for source in part.sources),
        grades=np.concatenate([part.grades for part in parts]),
        predicted=np.concatenate([part.predicted for part in parts]),
        probabilities=np.concatenate([part.probabilities for part in parts]),
        groups=np.concatenate([part.groups for part in parts]),
        folds=np.concatenate([part.folds for part in parts]),
        acquisitions=np.concatenate(known) if known and len(known) == len(acquisitions) else None,
    )


def restrict_to_common(sets: Sequence[PredictionSet]) -> list[PredictionSet]:
    """The sets with the test photographs that all of them hold, and the validation photographs of their folds."""
    shared = set.intersection(*(set(predictions.test.sources) for predictions in sets)) if sets else set()
    restricted = []
    for predictions in sets:
        test = predictions.test.subset(np.array([source in shared for source in predictions.test.sources], bool))
        validation = predictions.validation.subset(np.isin(predictions.validation.folds, test.folds))
        restricted.append(replace(predictions, test=test, validation=validation))
    return restricted


def write_predictions(predictions: PredictionSet, path: Path) -> None:
    """Write a file that `read_predictions` reads. Raises StoreError where it cannot be written."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    for part, photographs in zip(PARTS, (predictions.test, predictions.validation), strict=True):
        acquisitions, most_probable = photographs.acquisitions, photographs.most_probable
        for i, source in enumerate(photographs.sources):
            writer.writerow([
                source, part, int(photographs.folds[i]), int(photographs.groups[i]), int(photographs.grades[i]),
                int(photographs.predicted[i]), int(most_probable[i]),
                *(f"{p:.6f}" for p in photographs.probabilities[i]),
                predictions.model, predictions.data, "" if acquisitions is None else int(acquisitions[i]),
                predictions.leakage,
            ])  # fmt: skip
    write_atomically(path, out.getvalue())


def read_predictions(path: Path) -> PredictionSet:
    """Read a file of predictions. Raises DatasetError where it is none, or holds no test photographs."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = set(COLUMNS) - set(reader.fieldnames or ())
            if missing:
                raise ValueError(f"it lacks the columns {', '.join(sorted(missing))}")
            rows = list(reader)
        unknown = {str(row["part"]) for row in rows} - set(PARTS)
        if unknown:
            raise ValueError(f"it has the part {sorted(unknown)[0]!r}, expected {' or '.join(PARTS)}")
        test, validation = (_columns([row for row in rows if row["part"] == part]) for part in PARTS)
        if not len(test):
            raise ValueError("it holds no photographs of part test")
        first = rows[0]
        return PredictionSet(
            model=first["model"],
            data=first["data"],
            test=test,
            validation=validation,
            leakage=first.get(LEAKAGE_COLUMN) or "",
        )
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DatasetError(
            f"the predictions in {path} cannot be read ({error}); make them again with `fundusgrade train --folds` or "
            "`fundusgrade evaluate --out`"
        ) from error


def _columns(rows: Sequence[dict[str, str]]) -> ScoredPhotographs:
    probabilities = np.array([[float(row[f"p{g}"]) for g in range(NUM_GRADES)] for row in rows], np.float64)
    probabilities = probabilities.reshape(len(rows), NUM_GRADES)
    sums = probabilities.sum(axis=1, keepdims=True)
    # NaN fails every comparison, so a test for valid rows finds it too.
    is_valid = (probabilities >= 0).all(axis=1) & (np.abs(sums[:, 0] - 1) <= _TOLERANCE)
    if not is_valid.all():
        source = rows[int(np.flatnonzero(~is_valid)[0])]["source"]
        raise ValueError(f"the probabilities of {source} are not five numbers from 0 to 1 that sum to 1")
    _check_most_probable(rows, probabilities)
    return ScoredPhotographs(
        sources=tuple(row["source"] for row in rows),
        grades=_grades(rows, "grade"),
        predicted=_grades(rows, "predicted"),
        # Six digits are written: rounding is undone.
        probabilities=probabilities / sums,
        groups=_whole(rows, "group"),
        folds=_whole(rows, "fold"),
        acquisitions=_whole(rows, ACQUISITION_COLUMN) if all(row.get(ACQUISITION_COLUMN) for row in rows) else None,
    )


def _check_most_probable(rows: Sequence[dict[str, str]], probabilities: NDArray[np.float64]) -> None:
    """Raise ValueError where a row's most probable grade, if it has one, is less probable than another."""
    stated = [(i, row) for i, row in enumerate(rows) if row.get(MOST_PROBABLE_COLUMN)]
    grades = _grades([row for _, row in stated], MOST_PROBABLE_COLUMN)
    for (i, row), grade in zip(stated, grades, strict=True):
        if probabilities[i, grade] < probabilities[i].max() - _TOLERANCE:
            raise ValueError(f"{MOST_PROBABLE_COLUMN} {grade} of {row['source']} is not the grade of its highest p")


def _grades(rows: Sequence[dict[str, str]], column: str) -> NDArray[np.int64]:
    grades = _whole(rows, column)
    is_grade = (grades >= 0) & (grades < NUM_GRADES)
    if not is_grade.all():
        row = int(np.flatnonzero(~is_grade)[0])
        raise ValueError(f"{column} {grades[row]} of {rows[row]['source']} is not one of 0-{NUM_GRADES - 1}")
    return grades


def _whole(rows: Sequence[dict[str, str]], column: str) -> NDArray[np.int64]:
    return np.array([int(row[column]) for row in rows], np.int64)
