"""Scores of a network on the validation split, before anything is fitted to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fundusgrade.metrics.classification import evaluate_predictions
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.heads import MIDPOINTS, NUM_OUTPUTS
from fundusgrade.networks.inference import predict_outputs, to_probabilities
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.tensors import LabeledImages
from fundusgrade.options import Decision
from fundusgrade.training.distributed import process_group
from fundusgrade.training.options import TrainOptions

_IMAGES_IN_MEMORY = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationScores:
    """Mean log loss, quadratic weighted kappa and accuracy; a score that is undefined is None."""

    loss: float
    kappa: float | None
    accuracy: float | None


def validate(
    network: GradingNetwork, validation: LabeledImages, options: TrainOptions, choice: DeviceChoice
) -> ValidationScores:
    """Scores of the uncalibrated network, with thresholds midway between grades; each process grades a part."""
    group = process_group()
    part = group.rank_slice(len(validation))
    outputs = torch.zeros(len(validation), NUM_OUTPUTS[network.spec.head])
    outputs[part] = split_outputs(network, validation, choice, part)
    probabilities = to_probabilities(network.spec, group.all_reduce(outputs))
    grades = validation.grades.numpy()
    thresholds = MIDPOINTS if options.decision is Decision.THRESHOLDS else None
    evaluation = evaluate_predictions(grades, probabilities, thresholds)
    return ValidationScores(loss=log_loss(grades, probabilities), kappa=evaluation.kappa, accuracy=evaluation.accuracy)


def split_outputs(
    network: GradingNetwork, images: LabeledImages, choice: DeviceChoice, part: slice = slice(None)
) -> Tensor:
    """Outputs of the head (n, k) for a part of a split, which need not fit into memory."""
    chunks = torch.split(torch.arange(len(images))[part], _IMAGES_IN_MEMORY)
    return torch.cat([predict_outputs(network, images.select(chunk), choice) for chunk in chunks])


def log_loss(grades: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Mean negative logarithm of the true grade's probability, for grades (N,) and probabilities (N, 5)."""
    return float(-np.log(np.clip(probabilities[np.arange(len(grades)), grades], 1e-12, 1.0)).mean())
