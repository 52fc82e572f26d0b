"""Ranges of grades that contain the true grade with a chosen probability: split conformal prediction for one model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fundusgrade.errors import CheckpointError
from fundusgrade.grades import Grade
from fundusgrade.metrics.classification import decide_grades
from fundusgrade.metrics.conformal import grade_sets, score_limit
from fundusgrade.networks.description import CheckpointDescription


def conformal_limit(description: CheckpointDescription, coverage: float, *, tta: bool) -> float:
    """The limit of conformity scores, 0 to 1, for a target coverage, from the model's validation photographs.

    Raises CheckpointError where the model holds no such scores, and with test-time augmentation, under which the scores
    of the validation photographs were not computed.
    """
    if tta:
        raise CheckpointError(
            "--coverage cannot be combined with --tta: the model's conformity scores were computed on validation "
            "photographs without test-time augmentation; leave out either of the two"
        )
    if not description.conformity:
        raise CheckpointError(
            f"--coverage: the model {description.name!r} holds no conformity scores of validation photographs; train "
            "it again with --calibrate, or leave --coverage out"
        )
    return score_limit(np.array(description.conformity), coverage)


def grade_ranges(
    probabilities: NDArray[np.float64], limit: float, thresholds: tuple[float, ...] | None
) -> list[tuple[Grade, Grade]]:
    """Lowest and highest grade of each range, from probabilities (N, 5); it always contains the predicted grade."""
    sets = grade_sets(probabilities, limit, decide_grades(probabilities, thresholds))
    return [(Grade(first), Grade(last)) for first, last in zip(sets.low.tolist(), sets.high.tolist(), strict=True)]
