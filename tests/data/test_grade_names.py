"""Grades as people write them: numbers, words, folder names; what is of no grade is not guessed."""

from __future__ import annotations

import pytest

from fundusgrade.data.grade_names import (
    is_like_a_grade,
    is_without_grade,
    parse_grade,
    parse_grade_names,
    parse_keywords,
)
from fundusgrade.errors import DatasetError
from fundusgrade.grades import Grade

SPELLINGS = {
    0: "0|0.0|0,0|No DR|no_dr|NoDR|No apparent retinopathy|No diabetic retinopathy|normal|Healthy|non-DR|0 - No DR|"
    "0_No_DR|class0|grade 0|1. No DR signs|none|normal fundus|Without DR|DR: none|(0) No DR",
    1: "1|1.0|Mild|Mild NPDR|mild_npdr|Mild non-proliferative DR|2. Mild (or early) NPDR|early|early NPDR|Class 1|"
    "mild nonproliferative retinopathy|mild-1|1 (mild)|Grade 1 (mild)|DR1|NPDR mild|DR - Mild|Mild stage",
    2: "2|Moderate|ModerateDR|Moderate NPDR|moderate non proliferative retinopathy|2-Moderate|level_2|grade2.|stage 2|"
    "NPDR_Moderate",
    3: "3|Severe|severe NPDR|5. Very Severe NPDR|Severe nonproliferative diabetic retinopathy|3Severe|dr_grade_3|"
    "Se\N{FULLWIDTH LATIN SMALL LETTER V}ere",
    4: "4|PDR|Proliferative|Proliferate_DR|4 - Proliferate_DR|Proliferative DR|7. Advanced PDR|high-risk PDR|early PDR|"
    "severe proliferative diabetic retinopathy|CLASS-4|Proliferative diabetic retinopathy|Proliferative DR (PDR)|"
    "PDR, high risk",
}


@pytest.mark.parametrize(
    ("grade", "text"), [(grade, text) for grade, texts in SPELLINGS.items() for text in texts.split("|")]
)
def test_each_spelling_means_its_grade(grade: int, text: str) -> None:
    assert parse_grade(text) == Grade(grade)
    assert parse_grade(f"  {text.upper()} ") == Grade(grade)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "-1",
        "2.7",
        "two",
        "nan",
        "0x1",
        "DR",
        "NPDR",
        "nonproliferative",
        "no proliferative DR",
        "R1",
        "R3",
        "no",
        "pre-proliferative",
        "moderate to severe",
        "M1",
        "yes",
        "background DR",
        "mild glaucoma",
        "no DME",
        "not graded",
        "ungradable",
        "severe 2 mild",
        "class 7",
        "grade 2 (mild)",
        "hypertensive retinopathy",
        "suspected mild NPDR",
        "advanced",
        "1 of 2",
    ],
)
def test_what_is_no_grade_or_may_be_two_is_not_guessed(text: str) -> None:
    assert parse_grade(text) is None


@pytest.mark.parametrize(
    ("keywords", "grade"),
    [
        ("normal fundus", 0),
        ("lens dust\N{FULLWIDTH COMMA}normal fundus", 0),
        ("moderate non proliferative retinopathy\N{FULLWIDTH COMMA}hypertensive retinopathy", 2),
        ("cataract, severe nonproliferative retinopathy", 3),
        ("mild nonproliferative retinopathy, proliferative diabetic retinopathy", 4),
        ("cataract", None),
        ("diabetic retinopathy", None),
        ("suspected diabetic retinopathy, normal fundus", None),
        ("suspected moderate non proliferative retinopathy", None),
        ("", None),
    ],
)
def test_keywords_give_a_grade_only_where_one_is_named(keywords: str, grade: int | None) -> None:
    assert parse_keywords(keywords) == grade


def test_names_that_the_user_gives_come_first() -> None:
    names = parse_grade_names("R0=0, r1 = mild,1=0,odd=name=2, U=-")
    assert [names.grade(text) for text in ("R0", "R1", "1", "odd=name", "2", "U", "R2")] == [0, 1, 0, 2, 2, None, None]
    assert [names.is_left_out(text) for text in ("u", "R2", "0")] == [True, False, False]
    assert parse_grade_names(None).given == {}


@pytest.mark.parametrize("text", ["R0", "R0=", "=1", "R0=5", "R0=what"])
def test_a_name_without_a_grade_is_an_error_that_shows_how(text: str) -> None:
    with pytest.raises(DatasetError, match=r"--grades has .*expected --grades 'LABEL=GRADE"):
        parse_grade_names(text)


def test_names_that_speak_of_grades_are_told_from_others() -> None:
    assert all(map(is_like_a_grade, ["NPDR", "R2", "class 7", "nonreferable", "Moderate-Severe", "mild x", "DR"]))
    assert not any(map(is_like_a_grade, ["Dr Smith", "left", "images", "patient 12", "2019", "DR_grading"]))
    assert all(
        map(is_without_grade, ["Ungradable", "test_images", "unlabelled", "Poor quality", "not gradable", "masks"])
    )
    assert not any(map(is_without_grade, ["train", "NPDR", "left"]))
