"""Predictive values at a stated prevalence, from sensitivity and specificity.

A data set holds more disease than a screening program does, so its own predictive values hold nowhere else. Those of
a program follow from sensitivity, specificity and its prevalence by Bayes' rule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fundusgrade.errors import MetricsError
from fundusgrade.metrics.estimates import UNDEFINED, Estimate

PREVALENCE = 0.10
"""Stated prevalence of referable disease where none is given.

A round number for a screened population, not a measurement: of people with diabetes some 22 % have any retinopathy and
6 % one that threatens sight (Teo et al., Ophthalmology 2021), and referable disease lies between.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictiveValues:
    """Positive and negative predictive value at a prevalence, each 0 to 1."""

    prevalence: float
    positive: Estimate
    negative: Estimate


def predictive_values(sensitivity: Estimate, specificity: Estimate, prevalence: float) -> PredictiveValues:
    """Predictive values with intervals; undefined where sensitivity or specificity is, or nobody would be called so.

    The odds of disease after a result are those before it times the likelihood ratio. Intervals are those of the
    likelihood ratios, recovered from the bounds of sensitivity and specificity (MOVER for ratios: Donner and Zou,
    Statistical Methods in Medical Research 2012). Raises MetricsError where the prevalence is not between 0 and 1.
    """
    if not 0 < prevalence < 1:
        raise MetricsError(f"the prevalence is {prevalence}; expected a proportion between 0 and 1, such as 0.1")
    odds = prevalence / (1 - prevalence)
    return PredictiveValues(
        prevalence=prevalence,
        positive=_proportion_of_odds(odds, sensitivity, _complement(specificity)),
        negative=_proportion_of_odds(1 / odds, specificity, _complement(sensitivity)),
    )


def _complement(of: Estimate) -> Estimate:
    """1 less a proportion, whose bounds change places."""
    if of.value is None:
        return of
    return Estimate(
        value=1 - of.value,
        low=None if of.high is None else 1 - of.high,
        high=None if of.low is None else 1 - of.low,
        no_interval=of.no_interval,
    )


def _proportion_of_odds(odds: float, right: Estimate, wrong: Estimate) -> Estimate:
    """The proportion of right results among those of one kind: its odds are `odds` times right / wrong."""
    if right.value is None or wrong.value is None or right.value == wrong.value == 0:
        return UNDEFINED
    value = _to_proportion(odds * _ratio(right.value, wrong.value))
    if right.low is None or right.high is None or wrong.low is None or wrong.high is None:
        return Estimate(value=value, low=None, high=None, no_interval=right.no_interval or wrong.no_interval)
    low = _bound(right.value, right.low, wrong.value, wrong.high, sign=-1)
    high = _bound(right.value, right.high, wrong.value, wrong.low, sign=1)
    return Estimate(value=value, low=_to_proportion(odds * low), high=_to_proportion(odds * high))


def _bound(numerator: float, its_bound: float, denominator: float, other_bound: float, *, sign: int) -> float:
    """A bound of a ratio of two independent proportions: the lower for `sign` -1, the upper for 1."""
    product = numerator * denominator
    divisor = other_bound * (2 * denominator - other_bound)
    reach = math.sqrt(max(product**2 - its_bound * (2 * numerator - its_bound) * divisor, 0.0))
    if divisor == 0:  # the denominator may be 0, or its upper bound is twice its value
        return math.inf if sign > 0 else its_bound * (2 * numerator - its_bound) / (2 * product)
    return max((product + sign * reach) / divisor, 0.0)


def _ratio(numerator: float, denominator: float) -> float:
    return math.inf if denominator == 0 else numerator / denominator


def _to_proportion(odds: float) -> float:
    return 1.0 if math.isinf(odds) else odds / (1 + odds)
