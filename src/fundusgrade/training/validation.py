"""The validation split of a run: which photographs choose, and the scores that choose the epoch.

Half of the split chooses epoch, calibration and thresholds; conformity scores come from the other half, which chooses
nothing. Of a split too small to be halved all choose, and there are no conformity scores. An epoch is scored as its
model would grade: after calibration, by the decision rule of the run. Both are cross-fitted, so that neither the
optimism of a fit nor a rule that will not be used chooses the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.splits import held_out_half
from fundusgrade.grades import NUM_GRADES
from fundusgrade.metrics.classification import evaluate_predictions
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.heads import NUM_OUTPUTS
from fundusgrade.networks.inference import predict_outputs
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.tensors import LabeledImages
from fundusgrade.training.decision import GradedOutputs, RatedOutputs, cross_fit
from fundusgrade.training.distributed import process_group
from fundusgrade.training.options import TrainOptions

_IMAGES_IN_MEMORY = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationScores:
    """Mean log loss, quadratic weighted kappa and accuracy; a score that is undefined is None."""

    loss: float
    kappa: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Validation:
    """The N photographs of a validation split.

    `groups` (N,) are their groups, `data` (N) names the data set of each, `chooses` (N,) those that choose epoch,
    calibration, thresholds and operating point: all where nothing is fitted, or the split is too small to be halved.
    `num_training` (5,) counts the training photographs of each grade.
    """

    images: LabeledImages
    groups: NDArray[np.int64]
    data: tuple[str, ...]
    chooses: NDArray[np.bool_]
    num_training: NDArray[np.int64]

    @property
    def grades(self) -> NDArray[np.int64]:
        """True grades (N,)."""
        return np.asarray(self.images.grades.numpy(), np.int64)


def plan_validation(
    dataset: PreparedDataset, training: LabeledImages, images: LabeledImages, options: TrainOptions
) -> Validation:
    """The validation split of a data set from the images of its training and validation split."""
    rows = dataset.graded_rows("validation")
    groups = np.array([row.group for row in rows], np.int64)
    held_out = held_out_half(groups, np.asarray(images.grades.numpy(), np.int64))
    return Validation(
        images=images,
        groups=groups,
        data=tuple(row.origin or dataset.name for row in rows),
        chooses=~held_out if options.calibrate else np.ones(len(groups), bool),
        num_training=torch.bincount(training.grades, minlength=NUM_GRADES).numpy(),
    )


def validate(
    network: GradingNetwork, validation: Validation, options: TrainOptions, choice: DeviceChoice
) -> ValidationScores:
    """Cross-fitted scores of the photographs that choose; each process grades a part of them."""
    group, chosen = process_group(), np.flatnonzero(validation.chooses)
    part = group.rank_slice(len(chosen))
    outputs = torch.zeros(len(chosen), NUM_OUTPUTS[network.spec.head])
    outputs[part] = split_outputs(network, validation.images, choice, chosen[part])
    rated = RatedOutputs(
        outputs=group.all_reduce(outputs), grades=validation.grades[chosen], groups=validation.groups[chosen]
    )
    return score(rated.grades, cross_fit(network.spec, rated, validation.num_training, options))


def score(grades: NDArray[np.int64], graded: GradedOutputs) -> ValidationScores:
    """Scores of graded photographs against their true grades (N,)."""
    evaluation = evaluate_predictions(grades, graded.probabilities, predicted=graded.predicted)
    return ValidationScores(
        loss=log_loss(grades, graded.probabilities), kappa=evaluation.kappa, accuracy=evaluation.accuracy
    )


def split_outputs(
    network: GradingNetwork, images: LabeledImages, choice: DeviceChoice, positions: NDArray[np.int64]
) -> Tensor:
    """Outputs of the head (n, k) for images of a split at these positions (n,), which need not fit into memory."""
    chunks = torch.split(torch.from_numpy(positions), _IMAGES_IN_MEMORY)
    return torch.cat([predict_outputs(network, images.select(chunk), choice) for chunk in chunks])


def log_loss(grades: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Mean negative logarithm of the true grade's probability, for grades (N,) and probabilities (N, 5)."""
    return float(-np.log(np.clip(probabilities[np.arange(len(grades)), grades], 1e-12, 1.0)).mean())
