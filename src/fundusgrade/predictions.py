"""Predictions of one model that can be scored: on disk as CSV, in memory as columns.

A file holds the photographs that are scored (`part` "test") and those on which thresholds are locked ("validation"). In
cross-validation each photograph is a test photograph once, graded by the one network that never saw its group; `fold`
says which validation photographs belong to which test photographs.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fundusgrade import store
from fundusgrade.errors import DatasetError
from fundusgrade.grades import NUM_GRADES

PARTS = ("test", "validation")
COLUMNS = (
    *("source", "part", "fold", "group", "grade", "predicted"),
    *(f"p{grade}" for grade in range(NUM_GRADES)),
    *("model", "data"),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredPhotographs:
    """Columns of N photographs: names, true and predicted grades (N,), probabilities (N, 5), groups and folds (N,).

    Photographs of one group (copies, a patient) are not independent. Folds count from 1; 0 where there are none.
    """

    sources: tuple[str, ...]
    grades: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    groups: NDArray[np.int64]
    folds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sources)

    def chosen(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> ScoredPhotographs:
        """These photographs alone: a mask (N,), or their numbers in the wanted order."""
        numbers = np.arange(len(self))[which]
        return ScoredPhotographs(
            sources=tuple(self.sources[i] for i in numbers),
            grades=self.grades[numbers],
            predicted=self.predicted[numbers],
            probabilities=self.probabilities[numbers],
            groups=self.groups[numbers],
            folds=self.folds[numbers],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PredictionSet:
    """What one model said of one data set; `validation` is empty where no thresholds can be locked."""

    model: str
    data: str
    test: ScoredPhotographs
    validation: ScoredPhotographs


def joined(parts: Sequence[ScoredPhotographs]) -> ScoredPhotographs:
    """The photographs of all parts, one part after the other."""
    return ScoredPhotographs(
        sources=tuple(source for part in parts for source in part.sources),
        grades=np.concatenate([part.grades for part in parts]),
        predicted=np.concatenate([part.predicted for part in parts]),
        probabilities=np.concatenate([part.probabilities for part in parts]),
        groups=np.concatenate([part.groups for part in parts]),
        folds=np.concatenate([part.folds for part in parts]),
    )


def write_predictions(predictions: PredictionSet, path: Path) -> None:
    """Write a file that `read_predictions` reads. Raises StoreError where it cannot be written."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for part, photographs in zip(PARTS, (predictions.test, predictions.validation), strict=True):
        for i, source in enumerate(photographs.sources):
            writer.writerow([
                source, part, int(photographs.folds[i]), int(photographs.groups[i]), int(photographs.grades[i]),
                int(photographs.predicted[i]), *(f"{p:.6f}" for p in photographs.probabilities[i]),
                predictions.model, predictions.data,
            ])  # fmt: skip
    store.write_atomically(path, out.getvalue())


def read_predictions(path: Path) -> PredictionSet:
    """Read a file of predictions. Raises DatasetError where it is none, or holds no test photographs."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = set(COLUMNS) - set(reader.fieldnames or ())
            if missing:
                raise ValueError(f"it lacks the columns {', '.join(sorted(missing))}")
            rows = list(reader)
        test, validation = (_columns([row for row in rows if row["part"] == part]) for part in PARTS)
        if not len(test):
            raise ValueError("it holds no photographs of part test")
        return PredictionSet(model=rows[0]["model"], data=rows[0]["data"], test=test, validation=validation)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DatasetError(
            f"the predictions in {path} cannot be read ({error}); make them again with `fundusgrade train --folds` or "
            "`fundusgrade evaluate --out`"
        ) from error


def _columns(rows: Sequence[dict[str, str]]) -> ScoredPhotographs:
    probabilities = np.array([[float(row[f"p{g}"]) for g in range(NUM_GRADES)] for row in rows], np.float64)
    probabilities = probabilities.reshape(len(rows), NUM_GRADES)
    return ScoredPhotographs(
        sources=tuple(row["source"] for row in rows),
        grades=_whole(rows, "grade"),
        predicted=_whole(rows, "predicted"),
        # Six digits are written; what they lack to 1 is put back.
        probabilities=probabilities / probabilities.sum(axis=1, keepdims=True),
        groups=_whole(rows, "group"),
        folds=_whole(rows, "fold"),
    )


def _whole(rows: Sequence[dict[str, str]], column: str) -> NDArray[np.int64]:
    return np.array([int(row[column]) for row in rows], np.int64)
