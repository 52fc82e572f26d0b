"""The scores that can be explained: of a grade, the predicted grade, referable disease, or the expected grade."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fundusgrade.errors import ExplanationError
from fundusgrade.grades import REFERABLE_FROM, Grade


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


def resolve_target(target: Target, logits: Tensor) -> Target:
    """The target for logits (5,) of one image, of which the grade with the highest logit is taken to be predicted.

    Raises ExplanationError where the network's output is not finite.
    """
    values = logits.tolist()
    if not np.isfinite(values).all():
        raise ExplanationError(f"the network's output is not finite ({values}): there is nothing to explain")
    return target_for_grade(target, max(Grade, key=values.__getitem__))


def target_scores(target: Target, logits: Tensor) -> Tensor:
    """Scores (B,) of a resolved target from logits (B, 5), in the target's unit; differentiable."""
    if target.grade is not None:
        return logits[:, target.grade]
    if target == EXPECTED:
        grades = torch.arange(logits.shape[1], dtype=logits.dtype, device=logits.device)
        return logits.softmax(dim=1) @ grades
    return torch.logsumexp(logits[:, REFERABLE_FROM:], dim=1) - torch.logsumexp(logits[:, :REFERABLE_FROM], dim=1)


def target_probability(target: Target, logits: Tensor) -> Tensor:
    """Probabilities (B,) of a resolved target from logits (B, 5); for the expected grade a quarter of it, 0-1."""
    probabilities = logits.softmax(dim=1)
    if target.grade is not None:
        return probabilities[:, target.grade]
    if target == EXPECTED:
        return target_scores(EXPECTED, logits) / (logits.shape[1] - 1)
    return probabilities[:, REFERABLE_FROM:].sum(dim=1)
