"""Scores that can be explained, by name."""

from __future__ import annotations

import pytest

from fundusgrade.errors import ExplanationError
from fundusgrade.explanation.targets import (
    AUTO,
    EXPECTED,
    PREDICTED,
    REFERABLE,
    grade_target,
    parse_target,
    target_for_grade,
)
from fundusgrade.grades import Grade


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((str(grade.value), grade) for grade in Grade),
        *((grade.label.upper(), grade) for grade in Grade),
        ("no_dr", Grade.NONE),
        (" Severe ", Grade.SEVERE),
    ],
)
def test_targets_are_grades_and_labels(text: str, expected: Grade) -> None:
    assert parse_target(text).grade is expected


def test_named_targets() -> None:
    assert parse_target("Predicted") is PREDICTED
    assert parse_target("REFERABLE") is REFERABLE
    assert parse_target("auto") is AUTO
    assert parse_target("3").name == "grade 3 Severe"


@pytest.mark.parametrize("grade", list(Grade))
def test_auto_is_referable_disease_where_the_grade_is_0_or_1(grade: Grade) -> None:
    assert target_for_grade(AUTO, grade) == (REFERABLE if grade < 2 else grade_target(grade))
    assert target_for_grade(PREDICTED, grade) == grade_target(grade)
    for fixed in (REFERABLE, EXPECTED, grade_target(Grade.SEVERE)):
        assert target_for_grade(fixed, grade) == fixed


@pytest.mark.parametrize("text", ["", "5", "-1", "2.0", "dme", "grade"])
def test_unknown_target_lists_what_exists(text: str) -> None:
    with pytest.raises(ExplanationError, match=r"auto, predicted, referable, expected, .*0 to 4.*\"Proliferative\""):
        parse_target(text)
