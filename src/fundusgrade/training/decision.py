"""The decision rule of a model: calibration and thresholds that turn a network's outputs into grades, and their fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fundusgrade.data.splits import assign_folds
from fundusgrade.grades import NUM_GRADES, Grade
from fundusgrade.metrics.classification import decide_grades, expected_grades
from fundusgrade.metrics.thresholds import fit_thresholds
from fundusgrade.networks.heads import UNCALIBRATED, Calibration
from fundusgrade.networks.inference import to_probabilities
from fundusgrade.networks.spec import NetworkSpec
from fundusgrade.options import DecideFor, Decision
from fundusgrade.training.calibration import fit_calibration
from fundusgrade.training.losses import CLASS_WEIGHT_POWERS
from fundusgrade.training.options import TrainOptions

_NUM_PARTS = 5
_PARTS_SEED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRule:
    """A calibration, and thresholds of the expected grade; the most probable grade is taken where they are None."""

    calibration: Calibration = UNCALIBRATED
    thresholds: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RatedOutputs:
    """Outputs (N, n) of a network for N photographs, with their true grades (N,) and groups (N,)."""

    outputs: Tensor
    grades: NDArray[np.int64]
    groups: NDArray[np.int64]

    def subset(self, selection: NDArray[np.bool_]) -> RatedOutputs:
        """The photographs of a mask (N,)."""
        return RatedOutputs(
            outputs=self.outputs[selection], grades=self.grades[selection], groups=self.groups[selection]
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GradedOutputs:
    """Probabilities (N, 5) and predicted grades (N,) of N photographs."""

    probabilities: NDArray[np.float64]
    predicted: NDArray[np.int64]


def fit_rule(
    spec: NetworkSpec, rated: RatedOutputs, num_training: NDArray[np.int64], options: TrainOptions
) -> DecisionRule:
    """The rule of a run, fitted to photographs; `num_training` (5,) counts the training photographs of each grade.

    Without calibration nothing is fitted: the most probable grade is taken.
    """
    assert options.class_weights is not None, "options are filled before use"
    if not options.calibrate:
        return DecisionRule()
    power, outputs, grades = CLASS_WEIGHT_POWERS[options.class_weights], rated.outputs, rated.grades
    calibration = fit_calibration(spec.head, outputs, grades, num_training, class_weight_power=power)
    if options.decision is not Decision.THRESHOLDS:
        return DecisionRule(calibration=calibration)
    expected = expected_grades(to_probabilities(spec, outputs, calibration))
    thresholds = fit_thresholds(grades, expected, options.decide_for or DecideFor.BALANCED)
    return DecisionRule(calibration=calibration, thresholds=thresholds)


def grade_outputs(spec: NetworkSpec, outputs: Tensor, rule: DecisionRule) -> GradedOutputs:
    """Probabilities and grades from outputs (N, n) by a rule."""
    probabilities = to_probabilities(spec, outputs, rule.calibration)
    return GradedOutputs(probabilities=probabilities, predicted=decide_grades(probabilities, rule.thresholds))


def cross_fit(
    spec: NetworkSpec, rated: RatedOutputs, num_training: NDArray[np.int64], options: TrainOptions
) -> GradedOutputs:
    """Probabilities and grades of photographs by rules fitted without them: on the other four fifths of the groups.

    Where all photographs are one group, by the rule that is not fitted. The same photographs give the same fifths.
    """
    parts = np.array(
        assign_folds(rated.groups.tolist(), [Grade(grade) for grade in rated.grades.tolist()], _NUM_PARTS, _PARTS_SEED)
    )
    probabilities, predicted = np.zeros((len(parts), NUM_GRADES)), np.zeros(len(parts), np.int64)
    for part in np.unique(parts):
        others, held_out = rated.subset(parts != part), parts == part
        rule = fit_rule(spec, others, num_training, options) if len(others.grades) else DecisionRule()
        graded = grade_outputs(spec, rated.outputs[held_out], rule)
        probabilities[held_out], predicted[held_out] = graded.probabilities, graded.predicted
    return GradedOutputs(probabilities=probabilities, predicted=predicted)
