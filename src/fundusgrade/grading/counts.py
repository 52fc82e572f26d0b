"""What is counted of rows: grades, referrals, doubts and failures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from fundusgrade.grades import Prediction, Referral, Ungraded
from fundusgrade.grading.rows import WrittenRow


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedRow:
    """What is counted of one row; small, as there may be millions."""

    grade: int | None
    """None where the photograph could not be graded."""
    is_doubtful: bool
    referable: Referral

    @classmethod
    def of(cls, row: WrittenRow) -> CountedRow:
        """Of a row read back, of a file with the columns of today."""
        return cls(grade=row.grade, is_doubtful=row.is_doubtful, referable=row.referable or Referral.UNGRADABLE)

    @classmethod
    def of_result(cls, result: Prediction | Ungraded) -> CountedRow:
        """Of a result that is being written."""
        if isinstance(result, Ungraded):
            return cls(grade=None, is_doubtful=False, referable=result.referable)
        return cls(grade=int(result.grade), is_doubtful=not result.gradable, referable=result.referable)


class RowCounts:
    """Counts of rows, to which rows are added."""

    def __init__(self, rows: Iterable[CountedRow] = ()) -> None:
        self.num_per_grade: Counter[int] = Counter()
        self.num_ungraded = 0
        self.num_doubtful = 0
        self.num_referable = 0
        self.num_ungradable = 0
        for row in rows:
            self.add(row)

    @property
    def num_graded(self) -> int:
        """Photographs with a grade."""
        return self.num_per_grade.total()

    @property
    def num_rows(self) -> int:
        """All rows."""
        return self.num_graded + self.num_ungraded

    def add(self, row: CountedRow) -> None:
        """Count one row."""
        if row.grade is None:
            self.num_ungraded += 1
        else:
            self.num_per_grade[row.grade] += 1
            self.num_doubtful += row.is_doubtful
        self.num_referable += row.referable is Referral.YES
        self.num_ungradable += row.referable is Referral.UNGRADABLE

    def to_json(self) -> str:
        """The counts as text, for another process."""
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str) -> RowCounts:
        """The counts that `to_json` wrote."""
        counts, values = cls(), json.loads(text)
        vars(counts).update(values)
        counts.num_per_grade = Counter({int(grade): number for grade, number in values["num_per_grade"].items()})
        return counts

    def add_all(self, others: RowCounts) -> None:
        """Count the rows that others hold."""
        self.num_per_grade += others.num_per_grade
        self.num_ungraded += others.num_ungraded
        self.num_doubtful += others.num_doubtful
        self.num_referable += others.num_referable
        self.num_ungradable += others.num_ungradable
