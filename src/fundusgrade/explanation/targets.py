"""The scores that can be explained: of a grade, the predicted grade, referable disease, or the expected grade."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusgrade.errors import ExplanationError
from fundusgrade.grades import NUM_GRADES, REFERABLE_FROM, Grade


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A score to explain: a grade's logit or, where `grade` is None, one of the targets below.

    `score_name` and `unit` are the name and the unit of its score; `floor` is a large change of it, by which absolute
    color scales are chosen.
    """

    name: str
    grade: Grade | None
    score_name: str = "logit"
    unit: str = "logits"
    floor: float = 4.0


AUTO = Target(name="auto", grade=None)
"""Referable disease where the predicted grade is 0 or 1, else the predicted grade: evidence of disease in every eye."""

PREDICTED = Target(name="predicted", grade=None)
"""The predicted grade."""

REFERABLE = Target(name="referable", grade=None, score_name="log-odds")
"""The log-odds of referable disease, which is moderate or worse."""

EXPECTED = Target(name="expected", grade=None, score_name="expected grade", unit="grades", floor=2.0)
"""The expected grade, 0-4: the mean of the grades weighted by their probabilities."""


def parse_target(text: str) -> Target:
    """Read "auto", "predicted", "referable", "expected", a grade "0" to "4", or a grade's label in any case.

    Raises ExplanationError for anything else.
    """
    name = text.strip().casefold().replace("_", " ")
    targets = {target.name: target for target in (AUTO, PREDICTED, REFERABLE, EXPECTED)}
    for grade in Grade:
        targets[str(grade.value)] = targets[grade.label.casefold()] = grade_target(grade)
    if name not in targets:
        labels = ", ".join(f'"{grade.label}"' for grade in Grade)
        raise ExplanationError(
            f"unknown target {text!r}; use auto, predicted, referable, expected, a grade 0 to 4, or its label: {labels}"
        )
    return targets[name]


def grade_target(grade: Grade) -> Target:
    """The target that explains this grade's logit."""
    return Target(name=f"grade {grade.value} {grade.label}", grade=grade)


def target_for_grade(target: Target, grade: Grade) -> Target:
    """The target for an eye of this predicted grade: what `AUTO` and `PREDICTED` stand for."""
    if target == AUTO:
        target = REFERABLE if grade < REFERABLE_FROM else PREDICTED
    return grade_target(grade) if target == PREDICTED else target


def resolve_target(target: Target, logits: NDArray[np.floating]) -> Target:
    """The target for logits (5,) of one image, of which the grade with the highest logit is taken to be predicted.

    Raises ExplanationError where the network's output is not finite.
    """
    if not np.isfinite(logits).all():
        raise ExplanationError(f"the network's output is not finite ({logits.tolist()}): there is nothing to explain")
    return target_for_grade(target, Grade(int(logits.argmax())))


def score_values(target: Target, logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Scores (B,) of a resolved target from logits (B, 5), in the target's unit; `target_scores` has gradients."""
    values = logits.astype(np.float64)
    if target.grade is not None:
        return values[:, target.grade]
    if target == EXPECTED:
        shares = np.exp(values - values.max(axis=1, keepdims=True))
        return np.asarray(shares @ np.arange(NUM_GRADES) / shares.sum(axis=1), np.float64)
    referable, other = values[:, REFERABLE_FROM:], values[:, :REFERABLE_FROM]
    return np.asarray(np.logaddexp.reduce(referable, axis=1) - np.logaddexp.reduce(other, axis=1), np.float64)
