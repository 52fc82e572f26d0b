"""Scores that may be undefined: a value with its 95 % interval, and how both are written for people."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A score and the bounds of its 95 % interval; None where they are undefined.

    `no_interval` is the reason why a defined score has no bounds, empty where it has them or the reason is not known.
    """

    value: float | None
    low: float | None
    high: float | None
    no_interval: str = ""

    @property
    def has_interval(self) -> bool:
        """Whether both bounds are defined."""
        return self.low is not None and self.high is not None

    def describe(self, digits: int = 3) -> str:
        """The score with its interval: "0.866 (0.838 to 0.890)", "0.866 (no interval: reason)" or "undefined"."""
        number = describe_number(self.value, digits)
        return number if self.value is None else f"{number} ({self.describe_interval(digits)})"

    def describe_interval(self, digits: int = 3) -> str:
        """The interval without the score: "0.838 to 0.890", or "no interval: " and the reason."""
        if self.low is None or self.high is None:
            return f"no interval: {self.no_interval}" if self.no_interval else "no interval"
        return f"{describe_number(self.low, digits)} to {describe_number(self.high, digits)}"

    def without_interval(self, reason: str) -> Estimate:
        """The score without bounds, for this reason; unchanged where it has none or is undefined."""
        return replace(self, low=None, high=None, no_interval=reason) if self.has_interval else self


UNDEFINED = Estimate(value=None, low=None, high=None)


def describe_number(value: float | None, digits: int = 3) -> str:
    """A number with this many decimals; "undefined" for None and NaN."""
    return "undefined" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def describe_p_value(p: float | None) -> str:
    """A p-value with three decimals: "0.012", "< 0.001" for smaller ones, "undefined" for None."""
    return "undefined" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def parse_proportion(value: object) -> float:
    """A number from 0 to 1 of a JSON file. Raises ValueError for anything else."""
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is not a number from 0 to 1")
    return float(value)


def defined_or_none(value: float | np.floating) -> float | None:
    """A Python number, or None for NaN."""
    return None if math.isnan(value) else float(value)


def ratio(parts: NDArray[np.float64], wholes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Elementwise parts / wholes; NaN where the whole is 0."""
    undefined = np.full(np.broadcast(parts, wholes).shape, np.nan)
    return np.asarray(np.divide(parts, wholes, out=undefined, where=wholes != 0), np.float64)


def mean_of_defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean (M,) of each row of values (M, K) without its NaN; NaN where a row holds nothing else."""
    return ratio(np.nansum(values, axis=1), (~np.isnan(values)).sum(axis=1).astype(np.float64))
