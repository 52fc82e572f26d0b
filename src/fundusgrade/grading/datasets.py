"""Predictions of a model for the images of a prepared data set, with what is needed to score them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fundusgrade import store
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.grades import NUM_GRADES
from fundusgrade.grading.grader import Grader
from fundusgrade.metrics.classification import decide_grades
from fundusgrade.metrics.predictions import TTA_SUFFIX, PredictionSet, ScoredPhotographs
from fundusgrade.networks.graph_files import graph_format
from fundusgrade.networks.tensors import pixels_in_parts
from fundusgrade.options import DeviceName, Precision, RuntimeName


def load_for_figures(
    model: str | None = None,
    *,
    device: DeviceName = DeviceName.AUTO,
    precision: Precision = Precision.AUTO,
    tta: bool = False,
    coverage: float | None = None,
) -> Grader:
    """A model in PyTorch, so that figures do not depend on what else is installed; an exported graph in its runtime.

    Raises as `Grader.load`.
    """
    is_graph = graph_format(store.resolve_model(model)) is not None
    runtime = RuntimeName.AUTO if is_graph else RuntimeName.PYTORCH
    return Grader.load(model, device=device, precision=precision, runtime=runtime, tta=tta, coverage=coverage)


def predict_dataset(grader: Grader, dataset: PreparedDataset, split: str, *, fold: int = 0) -> PredictionSet:
    """Predictions for one split, and for the validation split where the model was trained on this data set.

    `fold` is recorded with each prediction, for files that hold the predictions of several networks; 0 for none. Raises
    DatasetError where the data set was preprocessed differently from the model's training data.
    """
    provenance = grader.description.provenance
    is_training_data = dataset.hash == provenance.data_hash and split in ("test", "train")
    validation = provenance.with_training_splits(dataset).graded_rows("validation") if is_training_data else ()
    return PredictionSet(
        model=grader.name + (TTA_SUFFIX if grader.tta else ""),
        data=dataset.name,
        test=score_rows(grader, dataset, dataset.graded_rows(split), fold),
        validation=score_rows(grader, dataset, validation, fold),
    )


def predict_rows(grader: Grader, dataset: PreparedDataset, rows: tuple[ManifestRow, ...]) -> NDArray[np.float64]:
    """Grade probabilities (N, 5) of the network, before a clinic's calibration, for images of a prepared data set.

    Raises DatasetError as `predict_dataset`.
    """
    dataset.check_recipe(grader.recipe, grader.name)
    probabilities = [
        grader.predict_images(pixels.permute(0, 2, 3, 1).numpy()) for pixels in pixels_in_parts(dataset, rows)
    ]
    return np.concatenate(probabilities) if probabilities else np.zeros((0, NUM_GRADES))


def score_rows(
    grader: Grader, dataset: PreparedDataset, rows: tuple[ManifestRow, ...], fold: int = 0
) -> ScoredPhotographs:
    """True grades, and those and the probabilities that the model gives, of images of a prepared data set.

    Raises DatasetError as `predict_dataset`.
    """
    before, description = predict_rows(grader, dataset, rows), grader.description
    acquisitions = [row.acquisition for row in rows if row.acquisition is not None]
    return ScoredPhotographs(
        sources=tuple(row.source for row in rows),
        grades=np.array([row.grade for row in rows], np.int64),
        predicted=decide_grades(description.deciding(before), description.thresholds),
        probabilities=description.recalibrated(before),
        groups=np.array([row.group for row in rows], np.int64),
        folds=np.full(len(rows), fold, np.int64),
        acquisitions=np.array(acquisitions, np.int64) if len(acquisitions) == len(rows) else None,
    )
