"""Predictions as a table of what matters, row by row as they come: photograph, grade, referable or not, doubts."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import PurePath

from fundusgrade.grades import Prediction, Ungraded
from fundusgrade.reports.listings import doubts_in_words, stated_referable
from fundusgrade.text import one_line

_GRADE_WIDTH = len("4 Proliferative")
_REFERABLE_WIDTH = len("ungradable")
_PROBABILITY_WIDTH = len("> 0.95")
_GAP = "  "
_LEAST_NOTES, _LEAST_NAME = 24, 12
NO_VALUE = "-"


class PredictionTable:
    """Lines of a table for a terminal of `width` columns. Names are wrapped where they must be, never cut.

    Names are given below the folder that all photographs share, which stands in the header.
    """

    def __init__(self, names: Sequence[str], width: int) -> None:
        self._folder = shared_folder(names)
        fixed = _GRADE_WIDTH + _REFERABLE_WIDTH + _PROBABILITY_WIDTH + 4 * len(_GAP)
        longest = max((len(self._name(name)) for name in names), default=0)
        room = max(width - fixed - _LEAST_NOTES, _LEAST_NAME)
        self._name_width = min(max(longest, len("photograph")), room)
        self._notes_width = max(width - fixed - self._name_width, _LEAST_NOTES)

    def header(self) -> str:
        """The folder of all photographs, if they share one, and the names of the columns."""
        where = f"photographs in {one_line(self._folder)}\n" if self._folder else ""
        columns = self._line("photograph", "grade", "referable", "p", "notes")
        return f"{where}{columns}\n{'-' * len(columns)}"

    def row(self, result: Prediction | Ungraded) -> str:
        """A result in one line, or in more where its name or the notes are long."""
        name = one_line(self._name(result.image))
        if isinstance(result, Prediction):
            grade = f"{int(result.grade)} {result.grade.label}"
            probability = stated_referable(result)[0].removeprefix("= ")
            return self._rows(name, grade, str(result.referable), probability, _notes(result))
        return self._rows(name, NO_VALUE, str(result.referable), NO_VALUE, f"not graded: {_short(result.reason)}")

    def _rows(self, name: str, grade: str, referable: str, probability: str, notes: str) -> str:
        names = [name[start : start + self._name_width] for start in range(0, len(name), self._name_width)]
        wrapped = textwrap.wrap(one_line(notes), self._notes_width) or [""]
        lines = [self._line(names[0] if names else "", grade, referable, probability, wrapped[0])]
        for number in range(1, max(len(names), len(wrapped))):
            rest = names[number] if number < len(names) else ""
            lines.append(self._line(rest, "", "", "", wrapped[number] if number < len(wrapped) else ""))
        return "\n".join(lines)

    def _line(self, name: str, grade: str, referable: str, probability: str, notes: str) -> str:
        cells = (
            name.ljust(self._name_width),
            grade.ljust(_GRADE_WIDTH),
            referable.ljust(_REFERABLE_WIDTH),
            probability.rjust(_PROBABILITY_WIDTH),
            notes,
        )
        return _GAP.join(cells).rstrip()

    def _name(self, name: str) -> str:
        return name.removeprefix(self._folder)


def _short(reason: str) -> str:
    """A reason without what was expected and what to do, which rows of files say."""
    return reason.partition("; expected")[0]


def _notes(prediction: Prediction) -> str:
    """Doubts, the most probable grade where thresholds decided for another, and the prediction set if there is one."""
    notes = [doubts_in_words(prediction)]
    if prediction.most_probable is not prediction.grade:
        notes.append(f"most probable {prediction.most_probable.name_in_sentence}")
    if prediction.grade_range is not None:
        notes.append(prediction.grade_range.describe())
    return "; ".join(filter(None, notes))


def shared_folder(names: Sequence[str]) -> str:
    """The folder, with the separator behind it, in which all photographs are; "" of one photograph, or without one."""
    folders = {str(PurePath(name).parent) for name in names}
    if len(names) < 2 or "." in folders:
        return ""
    try:
        shared = os.path.commonpath(sorted(folders))
    except ValueError:  # relative and absolute, or on several drives
        return ""
    prefix = shared if shared.endswith(os.sep) else shared + os.sep
    return prefix if shared and all(name.startswith(prefix) for name in names) else ""
