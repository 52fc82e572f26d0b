"""The results of several photographs: a list that can become a table of pandas."""

from __future__ import annotations

from typing import TYPE_CHECKING, SupportsIndex, overload

from fundusgrade.errors import FundusgradeError
from fundusgrade.grades import COLUMNS, RANGE_COLUMNS, Prediction, Ungraded

if TYPE_CHECKING:
    from pandas import DataFrame

_WHOLE_NUMBERS = ("grade", "most_probable", *RANGE_COLUMNS)


class Results(list[Prediction | Ungraded]):
    """Results in the order of their photographs: a list of Prediction and Ungraded."""

    def to_pandas(self) -> DataFrame:
        """A table with a row for each photograph and the columns of a file of predictions, probabilities unrounded.

        Grades are of pandas' type Int64, missing for photographs without one. Raises FundusgradeError where pandas is
        not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise FundusgradeError(
                "to_pandas needs pandas, which is not installed; run: pip install 'fundusgrade[pandas]'"
            ) from error
        table = pandas.DataFrame([result.to_dict() for result in self], columns=[*COLUMNS, *RANGE_COLUMNS])
        return table.astype(dict.fromkeys(_WHOLE_NUMBERS, "Int64"))

    @overload
    def __getitem__(self, place: SupportsIndex) -> Prediction | Ungraded: ...

    @overload
    def __getitem__(self, place: slice) -> Results: ...

    def __getitem__(self, place: SupportsIndex | slice) -> Prediction | Ungraded | Results:
        """A result, or some of them as Results too."""
        found = super().__getitem__(place)
        return Results(found) if isinstance(found, list) else found

    def __repr__(self) -> str:
        return "[" + ",\n ".join(map(repr, self)) + "]"
