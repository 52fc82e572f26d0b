"""The operating point of a model, chosen on the validation photographs of all its data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fundusgrade import store
from fundusgrade.data.concatenation import SEPARATOR, open_dataset
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.data.splits import held_out_half
from fundusgrade.errors import TrainingError
from fundusgrade.grades import REFERABLE_FROM
from fundusgrade.metrics.classification import probability_from_grade
from fundusgrade.metrics.referral import SENSITIVITY, OperatingPoint, choose_operating_point, referral_scores
from fundusgrade.networks.checkpoint import load_checkpoint, replace_description
from fundusgrade.networks.description import CheckpointDescription
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.inference import to_device, to_probabilities
from fundusgrade.networks.model_folder import write_card
from fundusgrade.networks.tensors import load_images
from fundusgrade.training.clinic import check_not_calibrated
from fundusgrade.training.validation import split_outputs


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RatedProbabilities:
    """Probabilities (N, 5) of N photographs with their true grades (N,) and groups (N,), and each one's data set."""

    probabilities: NDArray[np.float64]
    grades: NDArray[np.int64]
    groups: NDArray[np.int64]
    data: Sequence[str]


def fit_operating_point(
    rated: RatedProbabilities, chooses: NDArray[np.bool_], sensitivity: float = SENSITIVITY
) -> OperatingPoint | None:
    """The point of a sensitivity on the photographs that choose (N,), measured on the others.

    None where none of those that choose is referable.
    """
    referable = probability_from_grade(rated.probabilities, REFERABLE_FROM)
    chosen_on, held_out = (
        referral_scores(
            [name for name, is_in in zip(rated.data, part, strict=True) if is_in],
            rated.grades[part],
            referable[part],
            rated.groups[part],
        )
        for part in (chooses, ~chooses)
    )
    return choose_operating_point(chosen_on, held_out, sensitivity)


def names_of_data(dataset: PreparedDataset, rows: Sequence[ManifestRow]) -> tuple[str, ...]:
    """The data set that each row comes from, of one data set or of several that are concatenated."""
    return tuple(row.origin or dataset.name for row in rows)


def open_training_data(description: CheckpointDescription, data: Sequence[str] = ()) -> PreparedDataset:
    """The data that a model was trained with, in the splits of its training; its recorded names where `data` is empty.

    Raises StoreError or DatasetError where it is not in the store, TrainingError where other data are named.
    """
    provenance = description.provenance
    dataset = open_dataset(data or tuple(provenance.data_name.split(SEPARATOR)))
    if dataset.hash != provenance.data_hash:
        raise TrainingError(
            f"the data set {dataset.name!r} is not the one that {description.name!r} was trained with "
            f"(manifest {dataset.hash[:12]}, expected {provenance.data_hash[:12]}): its validation photographs may "
            "have trained the model; name the data sets that it was trained with, with --data"
        )
    return provenance.with_training_splits(dataset)


def add_operating_point(
    model: str, choice: DeviceChoice, *, data: Sequence[str] = (), sensitivity: float = SENSITIVITY
) -> OperatingPoint:
    """Choose the operating point of a finished model anew and write it into its file; weights and grades stay.

    `model` is a name or path, `data` the data sets that it was trained with, those of their recorded names if empty.
    The photographs that choose are those that chose its calibration. Raises TrainingError where they are not the data
    that it was trained with, or none of the photographs that choose is referable.
    """
    path = store.resolve_model(model)
    checkpoint = load_checkpoint(path)
    check_not_calibrated(checkpoint.description)
    dataset = open_training_data(checkpoint.description, data)
    rows = dataset.graded_rows("validation")
    images, network = load_images(dataset, rows), to_device(checkpoint.network, choice)
    outputs = split_outputs(network, images, choice, np.arange(len(rows)))
    rated = RatedProbabilities(
        probabilities=to_probabilities(network.spec, outputs),
        grades=np.asarray(images.grades.numpy(), np.int64),
        groups=np.array([row.group for row in rows], np.int64),
        data=names_of_data(dataset, rows),
    )
    point = fit_operating_point(rated, ~held_out_half(rated.groups, rated.grades), sensitivity)
    if point is None:
        raise TrainingError(
            f"none of the validation photographs of {dataset.name!r} that choose is of grade {int(REFERABLE_FROM)} or "
            "worse: no operating point can be chosen; prepare a data set with more graded photographs"
        )
    replace_description(path, replace(checkpoint.description, operating_point=point))
    write_card(path)
    return point
