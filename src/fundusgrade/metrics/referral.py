"""The operating point of a model: from which probability a photograph is referable, and what that finds.

The threshold is chosen on validation photographs and stored with the model, together with the probabilities from which
it and the threshold of any other sensitivity follow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusgrade.errors import MetricsError
from fundusgrade.grades import REFERABLE_DECIMALS, REFERABLE_FROM, UNSTATED_THRESHOLD
from fundusgrade.metrics.bootstrap import estimate_proportion, resample
from fundusgrade.metrics.estimates import Estimate, parse_proportion
from fundusgrade.metrics.operating_points import choose_threshold

SENSITIVITY = 0.90
"""Stated sensitivity of a trained model.

The trials of autonomous screening set their bar at 0.85 (Abramoff et al., npj Digital Medicine 2018); the margin is for
photographs unlike those of validation. 0.95 would need twice as many referable photographs to be known as precisely,
and costs more specificity than most programs can follow up: it is an option.
"""
NEAR_FRACTION = 0.10
"""Fraction of the validation photographs that counts as near the operating point."""
FEWEST_REFERABLE = 22
"""Referable photographs that a data set needs to have a say of its own: fewer cannot show a sensitivity of 0.90."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferralScores:
    """Probabilities of referable DR, to four decimals and rising, of a data set's photographs with a known grade.

    `referable` are those of photographs of grade 2 or worse, `others` those of the rest. Photographs of one group
    (a patient, copies) are not independent: `referable_groups` and `other_groups` number the groups.
    """

    data: str
    referable: tuple[float, ...] = ()
    others: tuple[float, ...] = ()
    referable_groups: tuple[int, ...] = ()
    other_groups: tuple[int, ...] = ()

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ReferralScores:
        """Scores from the output of `dataclasses.asdict`. Raises KeyError, TypeError or ValueError for others."""
        scores = cls(
            data=str(values["data"]),
            referable=tuple(parse_proportion(each) for each in values["referable"]),
            others=tuple(parse_proportion(each) for each in values["others"]),
            referable_groups=tuple(int(each) for each in values["referable_groups"]),
            other_groups=tuple(int(each) for each in values["other_groups"]),
        )
        if len(scores.referable) != len(scores.referable_groups) or len(scores.others) != len(scores.other_groups):
            raise ValueError(f"the operating point's scores of {scores.data!r} have not one group each")
        return scores

    @property
    def num_photographs(self) -> int:
        """Photographs with a known grade."""
        return len(self.referable) + len(self.others)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferralRates:
    """What a threshold found among photographs with a known grade: of one data set, or of all where `data` is ""."""

    data: str
    num_referable: int
    num_others: int
    sensitivity: Estimate
    specificity: Estimate

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ReferralRates:
        """Rates from the output of `dataclasses.asdict`. Raises KeyError, TypeError or ValueError for others."""
        return cls(
            data=str(values["data"]),
            num_referable=int(values["num_referable"]),
            num_others=int(values["num_others"]),
            sensitivity=_estimate(values["sensitivity"]),
            specificity=_estimate(values["specificity"]),
        )

    def describe(self) -> str:
        """In words: "aptos2019: sensitivity 0.93 (0.88 to 0.96) of 120, specificity 0.90 (0.86 to 0.93) of 155"."""
        return (
            f"{self.data or 'all'}: sensitivity {self.sensitivity.describe(2)} of {self.num_referable}, "
            f"specificity {self.specificity.describe(2)} of {self.num_others}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """A photograph is referable where P(grade >= 2), to four decimals, reaches the `threshold` (0 to 1).

    `sensitivity` is the one that the threshold was chosen for, None where the threshold itself was given. It was chosen
    on the photographs of `chosen_on`; `held_out` are photographs that chose nothing, none where validation was too
    small to be halved. `rates` are those of all data sets together, then of each: of the photographs held out, or of
    those that chose where none are held out; empty where neither is known.
    """

    threshold: float
    sensitivity: float | None = None
    rates: tuple[ReferralRates, ...] = ()
    chosen_on: tuple[ReferralScores, ...] = ()
    held_out: tuple[ReferralScores, ...] = ()

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> OperatingPoint:
        """A point from the output of `dataclasses.asdict`. Raises KeyError, TypeError or ValueError for others."""
        sensitivity = values["sensitivity"]
        return cls(
            threshold=parse_proportion(values["threshold"]),
            sensitivity=None if sensitivity is None else parse_proportion(sensitivity),
            rates=tuple(ReferralRates.from_json(each) for each in values["rates"]),
            chosen_on=tuple(ReferralScores.from_json(each) for each in values["chosen_on"]),
            held_out=tuple(ReferralScores.from_json(each) for each in values["held_out"]),
        )

    @property
    def is_held_out(self) -> bool:
        """Whether the rates are those of photographs that chose nothing."""
        return bool(self.held_out)

    @property
    def has_scores(self) -> bool:
        """Whether the threshold of any other sensitivity is known."""
        return any(scores.referable for scores in self.chosen_on)

    @property
    def is_stated(self) -> bool:
        """Whether anything is known about what it finds."""
        return bool(self.rates)

    @property
    def reported_rates(self) -> tuple[ReferralRates, ...]:
        """The rates of all data sets together and of each, or of the only one."""
        return self.rates if len(self.rates) > 2 else self.rates[1:]

    def describe_choice(self) -> str:
        """In words: "from p = 0.2317, chosen for a sensitivity of 0.9 on 412 validation photographs"."""
        text = f"from p = {self.threshold:.4f}"
        if self.sensitivity is None:
            return text
        num_photographs = sum(scores.num_photographs for scores in self.chosen_on)
        return f"{text}, chosen for a sensitivity of {self.sensitivity:g} on {num_photographs} validation photographs"

    def describe_measurement(self) -> str:
        """In words, on which photographs the rates were measured, or that nothing is known."""
        if not self.rates:
            return (
                "what that finds is not known, because the model stores no operating point: measure it on graded "
                "photographs with `fundusgrade evaluate`"
            )
        return f"on {'validation photographs that chose nothing' if self.held_out else 'these photographs themselves'}"

    def describe(self) -> str:
        """In words: from where photographs are referable, why from there, and what that finds on each data set."""
        rates = "; ".join(rates.describe() for rates in self.reported_rates)
        return f"referable {self.describe_choice()}; {self.describe_measurement()}{f': {rates}' if rates else ''}"

    def near_range(self) -> tuple[float, float] | None:
        """The probabilities around the threshold between which a tenth of the known photographs lie, half on each side.

        None where no photographs are known. A photograph in between could as well lie on the other side.
        """
        known = [score for scores in (*self.chosen_on, *self.held_out) for score in scores.referable + scores.others]
        if not known:
            return None
        rank = float(np.mean(np.array(known) < self.threshold))
        low, high = np.quantile(known, [max(rank - NEAR_FRACTION / 2, 0), min(rank + NEAR_FRACTION / 2, 1)])
        return min(float(low), self.threshold), max(float(high), self.threshold)

    def at_sensitivity(self, sensitivity: float) -> OperatingPoint:
        """The point of another sensitivity, from the same photographs.

        Raises MetricsError where the sensitivity is not between 0 and 1, or no referable photographs are stored.
        """
        if not self.has_scores:
            raise MetricsError(
                f"a threshold for the sensitivity {sensitivity:g} needs the model's validation photographs, which are "
                "not stored with it; give a threshold instead, or train or calibrate the model again"
            )
        threshold = threshold_for(self.chosen_on, sensitivity)
        return replace(self._at(threshold), sensitivity=sensitivity)

    def at_threshold(self, threshold: float) -> OperatingPoint:
        """The point of a given threshold. Raises MetricsError where that is not from 0 to 1."""
        if not 0 <= threshold <= 1:
            raise MetricsError(f"the threshold is {threshold}; expected a probability from 0 to 1")
        return self._at(round(threshold, REFERABLE_DECIMALS))

    def _at(self, threshold: float) -> OperatingPoint:
        rates = measure_rates(self.held_out or self.chosen_on, threshold)
        return replace(self, threshold=threshold, sensitivity=None, rates=rates)


UNSTATED_POINT = OperatingPoint(threshold=UNSTATED_THRESHOLD)
"""Of models that store none: nothing is known about its sensitivity."""


def referral_scores(
    data: Sequence[str], grades: NDArray[np.int64], referable: NDArray[np.float64], groups: NDArray[np.int64]
) -> tuple[ReferralScores, ...]:
    """Scores by data set, in the order of their names.

    `data` (N) names each photograph's data set; `grades` (N,) are true, `referable` (N,) is P(grade >= 2), and `groups`
    (N,) number the groups.
    """
    names = np.array(data, dtype=object)
    return tuple(
        _scores_of(name, grades[names == name], referable[names == name], groups[names == name])
        for name in sorted(set(data))
    )


def choose_operating_point(
    chosen_on: Sequence[ReferralScores], held_out: Sequence[ReferralScores] = (), sensitivity: float = SENSITIVITY
) -> OperatingPoint | None:
    """The point of a sensitivity, chosen on some photographs and measured on others; None without referable ones."""
    if not any(scores.referable for scores in chosen_on):
        return None
    point = OperatingPoint(threshold=0.0, chosen_on=tuple(chosen_on), held_out=tuple(held_out))
    return point.at_sensitivity(sensitivity)


def threshold_for(scores: Sequence[ReferralScores], sensitivity: float) -> float:
    """The highest threshold, to four decimals, that reaches a sensitivity on all data sets together and on each.

    A data set of fewer than `FEWEST_REFERABLE` referable photographs has no say of its own. Raises MetricsError where
    the sensitivity is not above 0 and at most 1, or there is no referable photograph.
    """
    if not 0 < sensitivity <= 1:
        raise MetricsError(f"the sensitivity is {sensitivity}; expected a proportion above 0, at most 1, such as 0.9")
    if not any(each.referable for each in scores):
        raise MetricsError("a threshold for a sensitivity needs photographs of grade 2 or worse; there is none")
    large = [each for each in scores if len(each.referable) >= FEWEST_REFERABLE]
    return min(_threshold_of(part, sensitivity) for part in [scores, *([each] for each in large)])


def measure_rates(scores: Sequence[ReferralScores], threshold: float) -> tuple[ReferralRates, ...]:
    """What a threshold finds of all data sets together (`data` ""), then of each; only the former where it is one."""
    parts = [("", list(scores)), *((each.data, [each]) for each in scores)] if scores else []
    return tuple(_rates_of(name, part, threshold) for name, part in parts)


def rounded_up(threshold: float) -> float:
    """A threshold with the four decimals of the scores that are compared with it, never above one that reached it."""
    scale = 10.0**REFERABLE_DECIMALS
    return math.ceil(round(threshold * scale, 6)) / scale


def is_referable(referable: NDArray[np.float64], threshold: float | NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each P(grade >= 2) (N,), to the four decimals that are written, reaches the threshold."""
    return np.asarray(referable.round(REFERABLE_DECIMALS) >= threshold, bool)


def _scores_of(
    name: str, grades: NDArray[np.int64], referable: NDArray[np.float64], groups: NDArray[np.int64]
) -> ReferralScores:
    scores, is_positive = referable.round(REFERABLE_DECIMALS), grades >= REFERABLE_FROM
    order = np.lexsort((groups, scores))
    positive, negative = order[is_positive[order]], order[~is_positive[order]]
    return ReferralScores(
        data=name,
        referable=tuple(scores[positive].tolist()),
        others=tuple(scores[negative].tolist()),
        referable_groups=tuple(groups[positive].tolist()),
        other_groups=tuple(groups[negative].tolist()),
    )


def _threshold_of(scores: Sequence[ReferralScores], sensitivity: float) -> float:
    """The threshold of all these photographs together, rounded up: it never exceeds the last score that it calls."""
    positive, values = _columns(scores)
    chosen = choose_threshold(positive, values, "sensitivity", sensitivity)
    # Where all photographs are referable, none limits the threshold from below.
    lowest = float(np.sort(values)[::-1][math.ceil(round(sensitivity * len(values), 9)) - 1])
    return rounded_up(lowest if chosen is None else chosen)


def _columns(scores: Sequence[ReferralScores]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Whether each photograph is referable (N,), and its probability of it (N,)."""
    positive = [is_positive for each in scores for is_positive in _positive(each)]
    values = [score for each in scores for score in (*each.referable, *each.others)]
    return np.array(positive, bool), np.array(values, np.float64)


def _positive(scores: ReferralScores) -> list[bool]:
    return [True] * len(scores.referable) + [False] * len(scores.others)


def _rates_of(name: str, scores: Sequence[ReferralScores], threshold: float) -> ReferralRates:
    positive, values = _columns(scores)
    groups = np.array([group for each in scores for group in (*each.referable_groups, *each.other_groups)], np.int64)
    resamples, called = resample(groups), is_referable(values, threshold)
    return ReferralRates(
        data=name,
        num_referable=int(positive.sum()),
        num_others=int((~positive).sum()),
        sensitivity=estimate_proportion(resamples, called, positive),
        specificity=estimate_proportion(resamples, ~called, ~positive),
    )


def _estimate(values: dict[str, Any]) -> Estimate:
    numbers = (None if values[name] is None else parse_proportion(values[name]) for name in ("value", "low", "high"))
    value, low, high = numbers
    return Estimate(value=value, low=low, high=high, no_interval=str(values["no_interval"]))
