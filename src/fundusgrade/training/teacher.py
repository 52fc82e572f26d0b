"""Soft labels: the probabilities that larger networks give to the training photographs, mixed with their grades.

A small network learns more from them than from the grades alone (Hinton et al., 2015), above all where graders err. The
probabilities are out of fold, so that no teacher has seen the grade that it softens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fundusgrade.data.concatenation import SEPARATOR
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.errors import TrainingError
from fundusgrade.grades import NUM_GRADES
from fundusgrade.metrics.predictions import read_predictions


def soft_labels(files: Sequence[Path], dataset: PreparedDataset, weight: float) -> Tensor:
    """Targets (N, 5) of the training photographs: `weight` times the mean probabilities of all files, plus the grade.

    Photographs are found by their name, with or without that of their data set: a teacher may have been trained on the
    same photographs prepared at another size. Raises DatasetError for files that are no predictions, TrainingError
    where one lacks a training photograph, or where its networks were trained on photographs that this run tests or
    chooses by: their grades would reach the network through the teacher.
    """
    rows = dataset.graded_rows("train")
    held_out = [row for row in dataset.graded_rows() if row.split != "train"]
    probabilities = np.mean([_of_file(path, rows, held_out) for path in files], axis=0)
    grades = torch.tensor([-1 if row.grade is None else int(row.grade) for row in rows])
    one_hot = functional.one_hot(grades, NUM_GRADES).float()
    return (1 - weight) * one_hot + weight * torch.from_numpy(probabilities).float()


def _of_file(path: Path, rows: Sequence[ManifestRow], held_out: Sequence[ManifestRow]) -> NDArray[np.float64]:
    """Probabilities (N, 5) of the rows from one file."""
    predictions = read_predictions(path)
    names = predictions.data.split(SEPARATOR)
    place = {_without_data(source, names): index for index, source in enumerate(predictions.test.sources)}
    seen = next((row for row in held_out if _name(row) in place), None)
    if seen is not None:
        raise TrainingError(
            f"--teacher {path}: its networks were trained on {seen.source}, which is in the {seen.split} split here; "
            "make the teacher's predictions with `fundusgrade train --folds 3 --folds-by training`"
        )
    missing = next((row for row in rows if _name(row) not in place), None)
    if missing is not None:
        raise TrainingError(
            f"--teacher {path}: it has no prediction for the training photograph {missing.source}; make it with "
            "`fundusgrade train --folds 3 --folds-by training` on the same --data, all folds"
        )
    return predictions.test.probabilities[[place[_name(row)] for row in rows]]


def _name(row: ManifestRow) -> str:
    return row.source.removeprefix(f"{row.origin}/") if row.origin else row.source


def _without_data(source: str, names: Iterable[str]) -> str:
    """A photograph's name without the name of its data set, which it has where several are concatenated."""
    return next((source.removeprefix(f"{name}/") for name in names if source.startswith(f"{name}/")), source)
