"""Grades as people write them, in a cell or as a folder's name -> Grade: numbers, words, names given by the user."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

from fundusgrade.errors import DatasetError
from fundusgrade.grades import Grade

_DISEASE = "(?:dr|diabeticretinopathy|retinopathy)"
_NONPROLIFERATIVE = f"(?:npdr|nonproliferative{_DISEASE}?|{_DISEASE})?"
_PROLIFERATIVE = f"(?:pdr|proliferat(?:ive|e|ed|ion){_DISEASE}?)"
_SUFFIX = "(?:stage|grade|class|level)?"
_WORDS = {
    Grade.NONE: f"{_DISEASE}?none|(?:no|non|without)(?:apparent|visible|signsof|signof)?{_DISEASE}(?:signs?)?"
    "|(?:normal|healthy)(?:fundus|retina|eyes?)?",
    Grade.MILD: f"{_NONPROLIFERATIVE}(?:very)?mild(?:orearly)?{_NONPROLIFERATIVE}{_SUFFIX}|early{_NONPROLIFERATIVE}",
    Grade.MODERATE: f"{_NONPROLIFERATIVE}moderate{_NONPROLIFERATIVE}{_SUFFIX}",
    Grade.SEVERE: f"{_NONPROLIFERATIVE}(?:very)?severe{_NONPROLIFERATIVE}{_SUFFIX}",
    Grade.PROLIFERATIVE: f"(?:early|mild|moderate|severe|advanced|highrisk)?{_PROLIFERATIVE}(?:pdr|highrisk)?{_SUFFIX}",
}
# "class0", "grade 2", "DR_level-3", "Grade 2 (moderate)"
_MARKED = re.compile(
    r"(?:(?:icdr|dr|retinopathy)?[\W_]*(?:class|grade|level|label|stage|score)|icdr|dr)[\W_]*(?P<number>\d)(?P<rest>\D*)"
)
_NUMBERED = re.compile(r"\d+[\W_]+(?P<rest>[^\d\W_].*)|\d+(?P<joined>[^\d\W_]\D*)")
_TRAILING_NUMBER = re.compile(r"(?P<rest>.*[^\d\W_])[\W_]*\d\W*")
# Names that speak of retinopathy or of a class but are none of the grades: "NPDR", "R2", "referable", "class 7".
_LIKE_A_GRADE = re.compile(
    r"(?:^|[\W_])(?:n?pdr|mild|moderate|severe)(?:$|[\W_])|npdr|retinopath|proliferat|referable|"
    r"^(?:r|class|grade|level|label|stage|dr)[\W_]*\d+$|^(?:dr|no)$"
)
_WITHOUT_GRADE = re.compile(
    r"un(?:gradable|gradeable|graded|label{1,2}ed|known|usable)|not?gradable|reject(?:ed)?|(?:bad|poor)(?:quality)?|"
    r"tests?(?:images?|set)?|.*masks?|groundtruths?|annotations?"
)
LEFT_OUT = "-"
"""What a user writes for labels that are no grade."""
HOW_TO_NAME = "--grades 'LABEL=GRADE,...', such as --grades 'R0=0,R1=1,ungradable=-' (- leaves photographs out)"
"""How labels are given a meaning, for messages."""


def parse_grade(text: str) -> Grade | None:
    """The grade that a text means: 0-4, "2.0", "No DR", "Mild NPDR", "3 - Severe", "class4", "PDR"; else None.

    Words decide over a number before or after them, which may be an ordinal: Paraguay's "1. No DR signs" is no DR.
    """
    folded = _folded(text)
    number = _whole_number(folded)
    if number is not None:
        return Grade(number) if 0 <= number <= max(Grade) else None
    if marked := _MARKED.fullmatch(folded):
        grade = _grade_of_number(marked["number"])
        return grade if not _letters(marked["rest"]) or _grade_in_words(marked["rest"]) == grade else None
    for pattern in (_NUMBERED, _TRAILING_NUMBER):
        if numbered := pattern.fullmatch(folded):
            return _grade_in_words(" ".join(filter(None, numbered.groups())))
    return _grade_in_words(folded)


def parse_keywords(text: str) -> Grade | None:
    """The grade among diagnoses divided by commas (ODIR-5K), the highest of several; None where none names a grade.

    A doubtful or unstaged diabetic retinopathy beside a normal fundus is no grade.
    """
    keywords = [keyword.strip() for keyword in re.split(r"[,;，、]", text) if keyword.strip()]
    grades = [grade for keyword in keywords if (grade := parse_grade(keyword)) is not None]
    is_unstaged = any(re.search(r"diabet|proliferat", keyword) and parse_grade(keyword) is None for keyword in keywords)
    grade = max(grades, default=None)
    return None if is_unstaged and grade == Grade.NONE else grade


def is_like_a_grade(text: str) -> bool:
    """Whether a name speaks of retinopathy or classes, so that not understanding it must not pass in silence."""
    return parse_grade(text) is not None or _LIKE_A_GRADE.search(_folded(text)) is not None


def is_without_grade(text: str) -> bool:
    """Whether a folder's name says that its photographs have no grade, such as "ungradable" or "test"."""
    return _WITHOUT_GRADE.fullmatch(_letters(_folded(text))) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class GradeNames:
    """What labels mean: names that the user gives come first, then the names that `parse_grade` knows."""

    given: Mapping[str, Grade | None] = field(default_factory=dict)
    """Grade of each label in lower case, None for labels that are left out; empty where the user gave none."""

    def grade(self, text: str) -> Grade | None:
        """The grade that a label means; None where it has none."""
        folded = _folded(text)
        return self.given[folded] if folded in self.given else parse_grade(text)

    def is_left_out(self, text: str) -> bool:
        """Whether the user said that the label is no grade."""
        return self.given.get(_folded(text), Grade.NONE) is None


def parse_grade_names(text: str | None) -> GradeNames:
    """Names such as "R0=0,R1=1,U=-". Raises DatasetError where the text is not made of LABEL=GRADE."""
    given: dict[str, Grade | None] = {}
    for part in filter(str.strip, (text or "").split(",")):
        label, equals, value = (word.strip() for word in part.rpartition("="))
        grade = None if value == LEFT_OUT else parse_grade(value)
        if not equals or not label or (grade is None and value != LEFT_OUT):
            raise DatasetError(f"--grades has {part.strip()!r}; expected {HOW_TO_NAME}")
        given[_folded(label)] = grade
    return GradeNames(given=given)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip().casefold()


def _letters(text: str) -> str:
    return re.sub(r"[\W\d_]", "", text)


def _whole_number(text: str) -> int | None:
    """The whole number in a cell, also "2.0" or "2,0" (which spreadsheets write); None for other text."""
    match = re.fullmatch(r"([+-]?\d{1,9})(?:[.,]0*)?", text)
    return int(match[1]) if match else None


def _grade_of_number(text: str) -> Grade | None:
    return Grade(int(text)) if int(text) <= max(Grade) else None


def _grade_in_words(text: str) -> Grade | None:
    letters = _letters(text)
    return next((grade for grade, pattern in _WORDS.items() if re.fullmatch(pattern, letters)), None)
