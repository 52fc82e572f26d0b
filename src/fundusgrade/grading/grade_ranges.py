"""Ranges of grades that contain the true grade with a chosen probability: split conformal prediction for one model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fundusgrade.data.splits import FEWEST_TO_HALVE
from fundusgrade.errors import CheckpointError
from fundusgrade.grades import Grade, GradeRange
from fundusgrade.metrics.classification import decide_grades
from fundusgrade.metrics.conformal import ConformalLimits, grade_sets
from fundusgrade.networks.description import CheckpointDescription


def conformal_limits(description: CheckpointDescription, coverage: float, *, tta: bool) -> ConformalLimits:
    """The limits of conformity scores for a target coverage, from the model's validation photographs.

    Raises CheckpointError where the model holds no such scores, and with test-time augmentation, under which the scores
    of the validation photographs were not computed.
    """
    if tta:
        raise CheckpointError(
            "--coverage cannot be combined with --tta: the model's conformity scores were computed on validation "
            "photographs without test-time augmentation; leave out either of the two"
        )
    if not description.conformity.sets:
        raise CheckpointError(
            f"--coverage: the model {description.name!r} holds no conformity scores of validation photographs "
            f"(which take --calibrate, and a validation split of at least {FEWEST_TO_HALVE}); leave --coverage out"
        )
    return description.conformity.limits(coverage)


def grade_ranges(
    probabilities: NDArray[np.float64],
    limits: ConformalLimits,
    thresholds: tuple[float, ...] | None,
    *,
    coverage: float,
) -> list[GradeRange]:
    """The range of each photograph from probabilities (N, 5); it always contains the predicted grade.

    `limits` are those for the target `coverage`.
    """
    sets = grade_sets(probabilities, limits, decide_grades(probabilities, thresholds))
    return [
        GradeRange(low=Grade(low), high=Grade(high), upper_bound=Grade(bound), coverage=coverage)
        for low, high, bound in zip(sets.low.tolist(), sets.high.tolist(), sets.upper_bound.tolist(), strict=True)
    ]
