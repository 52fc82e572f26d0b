"""Bring a network's probabilities back towards the frequencies of the photographs it was trained on.

A loss that weighs rare grades up teaches probabilities of a world where all grades are equally common. Adding
`power * log(frequency)` to the logits goes back towards this one (logit adjustment, Menon et al., ICLR 2021). How far
is chosen on the validation split, by quadratic weighted kappa; the offsets travel in the checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusgrade.batches import GradedPictures
from fundusgrade.device import DeviceChoice
from fundusgrade.grades import NUM_GRADES
from fundusgrade.metrics import Evaluation, evaluate_predictions
from fundusgrade.model import NO_OFFSETS, GradingNetwork, predict_probabilities

# Shares of the way back; 1 undoes the class weights wholly.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustment:
    """Offsets of the five logits, the share of the class weights that they undo, and the validation scores then."""

    share: float
    offsets: tuple[float, ...]
    evaluation: Evaluation


def choose_adjustment(
    network: GradingNetwork,
    validation: GradedPictures,
    num_per_grade: NDArray[np.int64],
    choice: DeviceChoice,
    *,
    class_weight_power: float,
) -> Adjustment:
    """Try each share on the validation split and keep the one of highest kappa, the smallest of equals.

    `num_per_grade` (5,) counts the training photographs, `class_weight_power` is the power of the inverse frequency in
    the loss. The network's own offsets are left out of account and set to zero.
    """
    network.set_offsets(NO_OFFSETS)
    probabilities = predict_probabilities(network, validation.pixels, choice)
    grades = validation.grades.numpy()
    tried = []
    for share in SHARES if class_weight_power > 0 else (0.0,):
        offsets = frequency_offsets(num_per_grade, share * class_weight_power)
        evaluation = evaluate_predictions(grades, _shifted(probabilities, offsets))
        tried.append(Adjustment(share=share, offsets=offsets, evaluation=evaluation))
    return max(tried, key=lambda each: -2.0 if each.evaluation.kappa is None else each.evaluation.kappa)


def frequency_offsets(num_per_grade: NDArray[np.int64], power: float) -> tuple[float, ...]:
    """`power * log(frequency)` of each grade; a grade that was never seen counts as half a photograph."""
    counts = np.maximum(np.asarray(num_per_grade, np.float64), 0.5)
    return tuple(float(value) for value in power * np.log(counts / counts.sum()))


def _shifted(probabilities: NDArray[np.float64], offsets: tuple[float, ...]) -> NDArray[np.float64]:
    """The probabilities (N, 5) that the same logits give with offsets added."""
    assert len(offsets) == NUM_GRADES, "one offset for each grade"
    raised = probabilities * np.exp(np.asarray(offsets) - max(offsets))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float64)
