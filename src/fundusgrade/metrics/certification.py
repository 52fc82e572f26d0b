"""A threshold whose sensitivity is certified on graded patients: learn-then-test with a fixed sequence of thresholds.

Thresholds are tested from the lowest, at which everyone is referred, upwards, and the last one that passes before the
first that fails is taken; because the order is fixed beforehand, no correction for many tests is needed (Angelopoulos
et al., Learn then Test, Annals of Applied Statistics 2025). The hypothesis that the sensitivity is below the target is
rejected by the exact binomial p-value of the number of referable patients who are missed, which gives the bounds of
Clopper and Pearson (Biometrika 1934).

Misses only rise with the threshold, so that every threshold can be tested: the last one that passes is the score of the
referable patient after those who may be missed. The sensitivity there is at least the target with at least the stated
confidence over the draw of the patients, if future referable patients are drawn like them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusgrade.errors import MetricsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A threshold of the score, and what it did on the patients that it was chosen on; a score that reaches it refers.

    `sensitivity` is the certified one, 0 to 1, `confidence` the probability that it is reached; both are for referable
    patients of whom the `num_referable` are a random sample. `num_others` are the patients who are not referable.
    """

    threshold: float
    sensitivity: float
    confidence: float
    num_referable: int
    num_missed: int
    num_others: int
    num_others_referred: int

    @property
    def lower_bound(self) -> float:
        """The lower confidence bound of the sensitivity: the highest that could have been certified here."""
        return sensitivity_bound(self.num_missed, self.num_referable, self.confidence)

    def describe(self) -> str:
        """In words: what is certified from which threshold, and what it did on the patients that it was chosen on."""
        num_found = self.num_referable - self.num_missed
        return (
            f"a sensitivity of {self.sensitivity:g} is certified at a confidence of {self.confidence:g}, from a "
            f"probability of referable DR of {self.threshold:.4f}: it refers {num_found} of the {self.num_referable} "
            f"referable patients and {self.num_others_referred} of the {self.num_others} others"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NotCertifiable:
    """Too few referable patients for the sensitivity that was asked for: how many there are, and how many are needed.

    `best_sensitivity` is the highest that these patients can certify at this confidence: that of missing none of them.
    """

    sensitivity: float
    confidence: float
    num_referable: int
    num_needed: int
    best_sensitivity: float

    @property
    def best_to_ask_for(self) -> float:
        """The best sensitivity in hundredths, rounded down, so that it is certifiable."""
        return float(np.floor(100 * self.best_sensitivity + 1e-9) / 100)

    def describe(self) -> str:
        """In words: "not certifiable: needs 9 more referable patients (13 of 22) ...", with the best that is."""
        more = self.num_needed - self.num_referable
        lead = (
            f"a sensitivity of {self.sensitivity:g} is not certifiable at a confidence of {self.confidence:g}: needs "
            f"{more} more referable patient{'s' if more > 1 else ''} ({self.num_referable} of {self.num_needed})"
        )
        if not self.num_referable:
            return lead
        return f"{lead}; the best that {self.num_referable} can certify is {self.best_to_ask_for:.2f}"


def certify(
    scores: NDArray[np.float64], is_referable: NDArray[np.bool_], *, sensitivity: float, confidence: float
) -> Certificate | NotCertifiable:
    """The highest threshold whose sensitivity is certified, from scores (N,) of patients and their true state (N,).

    It lies halfway to the next lower score, so that none of these patients depends on rounding. Raises MetricsError
    where sensitivity or confidence are not between 0 and 1.
    """
    num_referable = int(is_referable.sum())
    num_allowed = num_misses_allowed(num_referable, sensitivity, confidence)
    if num_allowed is None:
        return not_certifiable(num_referable, sensitivity=sensitivity, confidence=confidence)
    limit = float(np.sort(scores[is_referable])[num_allowed])
    below = scores[scores < limit]
    threshold = (limit + float(below.max())) / 2 if below.size else limit / 2
    called = scores >= threshold
    return Certificate(
        threshold=threshold,
        sensitivity=sensitivity,
        confidence=confidence,
        num_referable=num_referable,
        num_missed=int((is_referable & ~called).sum()),
        num_others=int((~is_referable).sum()),
        num_others_referred=int((~is_referable & called).sum()),
    )


def not_certifiable(num_referable: int, *, sensitivity: float, confidence: float) -> NotCertifiable:
    """What so few referable patients lack, and what they can certify. Raises MetricsError as `num_misses_allowed`."""
    return NotCertifiable(
        sensitivity=sensitivity,
        confidence=confidence,
        num_referable=num_referable,
        num_needed=num_referable_needed(sensitivity, confidence),
        best_sensitivity=sensitivity_bound(0, num_referable, confidence),
    )


def misses_p_value(num_missed: int, num_referable: int, sensitivity: float) -> float:
    """Probability of at most so many misses where the sensitivity is just the target: of the hypothesis "below it"."""
    from scipy.special import bdtr

    return float(bdtr(num_missed, num_referable, 1 - sensitivity)) if num_referable else 1.0


def num_misses_allowed(num_referable: int, sensitivity: float, confidence: float) -> int | None:
    """How many of these referable patients may be missed at a certified threshold; None where even none is too many.

    Raises MetricsError where sensitivity or confidence are not between 0 and 1.
    """
    _check_between("sensitivity", sensitivity)
    _check_between("confidence", confidence)
    allowed = None
    for num_missed in range(num_referable):
        if misses_p_value(num_missed, num_referable, sensitivity) > _risk(confidence):
            break
        allowed = num_missed
    return allowed


def num_referable_needed(sensitivity: float, confidence: float) -> int:
    """The fewest referable patients that certify a sensitivity, all of them found; 22 for 0.90 at confidence 0.9.

    Raises MetricsError as `num_misses_allowed`.
    """
    _check_between("sensitivity", sensitivity)
    _check_between("confidence", confidence)
    needed = max(1, int(np.log(_risk(confidence)) / np.log(sensitivity)))
    while misses_p_value(0, needed, sensitivity) > _risk(confidence):
        needed += 1
    return needed


def sensitivity_bound(num_missed: int, num_referable: int, confidence: float) -> float:
    """The one-sided lower confidence bound of a sensitivity (Clopper and Pearson, 1934); 0 where all are missed."""
    from scipy.special import betaincinv

    num_found = num_referable - num_missed
    return float(betaincinv(num_found, num_missed + 1, _risk(confidence))) if num_found > 0 else 0.0


def _risk(confidence: float) -> float:
    # Rounded, because 1 - 0.9 is a little less than 0.1.
    return round(1 - confidence, 12)


def _check_between(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise MetricsError(f"The {name} to be certified is {value}: it must lie between 0 and 1, such as 0.9.")
