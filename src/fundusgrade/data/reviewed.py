"""The file `reviewed.csv` that a page of results makes of a reader's answers: its columns, and its cells.

Cells are safe to open in a spreadsheet, which would evaluate some of them as formulas, and are read back unchanged.
"""

from __future__ import annotations

import re

REVIEW_COLUMNS = (
    *("image", "patient", "eye", "reader_grade", "reader_referable", "reader", "reviewed_at"),
    *("model", "model_hash", "model_grade", "model_score", "model_referable", "model_shown", "sampled"),
)
"""Photograph; the reader's answer; the first model's. `model_score` is P(referable DR); `model_shown` says whether the
reader saw the model's answer before giving one; `sampled` whether the photograph was drawn for quality assurance."""
REFERRED = "yes"
"""`reader_referable` of a photograph that is to be referred; with an empty `reader_grade` no grade was given."""
UNGRADABLE_BY_READER = "ungradable"
REFERRED_WITHOUT_GRADE = "to be referred without a grade"
"""What a reader says of a photograph instead of a grade, for messages."""

# Spreadsheets evaluate a cell that begins with one of these characters, after blanks and control characters. Some split
# cells at semicolons, tabs and line breaks, so a cell may begin after those.
_BLANKS = r"'\s\x00-\x20\x7f-\xa0\u200b\ufeff"
_FORMULA = rf"(?=[{_BLANKS}]*[=+\-@＝＋－＠]|'*[\t\r])"
_UNGUARDED = re.compile(rf"(^|[;\t\r\n]){_FORMULA}")
_GUARDED = re.compile(rf"(^|[;\t\r\n])'{_FORMULA}")


def review_cell(text: str) -> str:
    """A text as a quoted cell of CSV that no spreadsheet evaluates: an apostrophe before what would begin a formula.

    One is added where there are some already, so that `read_cell` can take exactly that one away.
    """
    guarded = _UNGUARDED.sub(r"\1'", text).replace('"', '""')
    return f'"{guarded}"'


def read_cell(text: str) -> str:
    """The text of a cell that `review_cell` wrote, after its quotes were read by a CSV reader."""
    return _GUARDED.sub(r"\1", text)
