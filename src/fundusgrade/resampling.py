"""How sure is a score? Whole groups of photographs are drawn again and again, and the score is computed on every draw.

Groups (patients, copies) are drawn with replacement within strata, so that every draw keeps the mix of grades (Efron
and Tibshirani 1993; Davison and Hinkley 1997, section 3.8). A draw is a row of weights: how often each photograph was
drawn. All scores are computed from weights, for all draws at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fundusgrade.grades import NUM_GRADES

# A score that is undefined in more than one draw of ten has no honest interval.
_LEAST_DEFINED = 0.9
TAILS = (0.025, 0.975)
_NO_SPREAD = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A score and its 95 % interval; None where it is undefined."""

    value: float | None
    low: float | None
    high: float | None


UNDEFINED = Estimate(value=None, low=None, high=None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Resample:
    """Weights (1 + D, N) of N photographs: the first row is all ones, then come the draws; groups are (N,).

    A score of all rows is (1 + D,): what is measured, then what it might have been. `group_weights` (1 + D, G) are the
    weights of each group once.
    """

    weights: NDArray[np.float32]
    groups: NDArray[np.int64]
    group_weights: NDArray[np.float32]

    def chosen(self, which: NDArray[np.bool_]) -> Resample:
        """The weights of the photographs in the mask (N,) alone."""
        return of_weights(self.weights[:, which], self.groups[which])

    def totals(self, columns: NDArray[np.generic]) -> NDArray[np.float64]:
        """Weighted sums (1 + D, K) of columns (N, K)."""
        # Counts stay exact in float32: they are whole and far below 2 ** 24.
        exact = columns.dtype.kind == "b"
        return np.asarray(self.weights @ columns.astype(np.float32 if exact else np.float64), np.float64)


def resample(grades: NDArray[np.int64], groups: NDArray[np.int64], *, num_draws: int = 1000, seed: int = 0) -> Resample:
    """The photographs as they are, and the draws of `draw_weights`."""
    draws = draw_weights(grades, groups, num_draws=num_draws, seed=seed)
    return of_weights(np.concatenate([np.ones((1, len(grades)), np.float32), draws]), groups)


def of_weights(weights: NDArray[np.float32], groups: NDArray[np.int64]) -> Resample:
    """A resample of weights (1 + D, N), equal within groups (N,)."""
    _, firsts = np.unique(groups, return_index=True)
    return Resample(weights=weights, groups=groups, group_weights=weights[:, firsts])


def draw_weights(
    grades: NDArray[np.int64], groups: NDArray[np.int64], *, num_draws: int = 1000, seed: int = 0
) -> NDArray[np.float32]:
    """How often each of N photographs with grades (N,) and groups (N,) is drawn: (D, N), seeded.

    The stratum of a group is its highest grade; each draw takes as many groups of a stratum as there are.
    """
    _, group = np.unique(groups, return_inverse=True)
    strata = np.full(group.max(initial=-1) + 1, -1, np.int64)
    np.maximum.at(strata, group, grades)
    rng = np.random.default_rng(seed)
    drawn = np.zeros((num_draws, len(strata)), np.float32)
    for stratum in range(NUM_GRADES):
        members = np.flatnonzero(strata == stratum)
        if len(members):
            drawn[:, members] = _draw_stratum(len(members), num_draws, rng)
    return drawn[:, group]


def _draw_stratum(num_groups: int, num_draws: int, rng: np.random.Generator) -> NDArray[np.float32]:
    num_picks = max(num_groups - 1, 1)
    picks = rng.integers(0, num_groups, (num_draws, num_picks))
    cells = (picks + np.arange(num_draws)[:, None] * num_groups).ravel()
    counts = np.bincount(cells, minlength=num_draws * num_groups).reshape(num_draws, num_groups)
    return (counts * (num_groups / num_picks)).astype(np.float32)


def percentile_interval(draws: NDArray[np.float64], tails: tuple[float, float] = TAILS) -> tuple[float, float] | None:
    """Where the tails begin of draws (D,), NaN where undefined; None where too few draws define the score."""
    defined = draws[~np.isnan(draws)]
    if len(defined) == 0 or len(defined) < _LEAST_DEFINED * len(draws):
        return None
    low, high = np.quantile(defined, tails)
    return float(low), float(high)


def estimate(values: NDArray[np.float64], sample: Resample) -> Estimate:
    """The score and its interval from values (1 + D,), NaN where undefined: as measured, then of each draw.

    Without bounds where no draw differs from another: that says nothing about how sure the score is.
    """
    if np.isnan(values[0]):
        return UNDEFINED
    value, draws = float(values[0]), values[1:]
    defined = ~np.isnan(draws)
    if not defined.any() or np.ptp(draws[defined]) < _NO_SPREAD:
        return Estimate(value=value, low=None, high=None)
    tails = corrected_tails(value, draws[defined], sample.group_weights[1:][defined])
    low, high = percentile_interval(draws, tails) or (None, None)
    return Estimate(value=value, low=low, high=high)


def corrected_tails(
    value: float, draws: NDArray[np.float64], group_weights: NDArray[np.float32]
) -> tuple[float, float]:
    """The shares of draws (D,) that bound the interval of a biased or skewed score: BCa (Efron, JASA 1987).

    The skewness comes from the influence of each group, which is the covariance of its weight (D, G) with the score
    (Efron, JRSS B 2014): no group has to be left out.
    """
    normal = NormalDist()
    below = ((draws < value).sum() + (draws == value).sum() / 2) / len(draws)
    bias = normal.inv_cdf(min(max(below, 0.5 / len(draws)), 1 - 0.5 / len(draws)))
    influence = ((draws - draws.mean()) / (draws.std() * len(draws))).astype(np.float32) @ group_weights
    skew = float((influence.astype(np.float64) ** 3).sum()) / 6
    reached = [bias + normal.inv_cdf(tail) for tail in TAILS]
    low, high = (normal.cdf(bias + each / (1 - skew * each)) for each in reached)
    return low, high


def estimate_share(sample: Resample, hits: NDArray[np.bool_], among: NDArray[np.bool_]) -> Estimate:
    """The share of the photographs `among` (N,) that are `hits` (N,), with its interval."""
    counts = sample.totals(np.stack([hits & among, among], axis=1))
    found = estimate(ratio(counts[:, 0], counts[:, 1]), sample)
    if found.value in (0.0, 1.0):
        # No draw can differ from the sample: the exact bound of as many groups that were all alike takes its place.
        bound = 0.025 ** (1 / len(np.unique(sample.groups[among])))
        low, high = (bound, 1.0) if found.value else (0.0, 1 - bound)
        return Estimate(value=found.value, low=low, high=high)
    return found


def ratio(parts: NDArray[np.float64], wholes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Elementwise parts / wholes; NaN where the whole is 0."""
    undefined = np.full(np.broadcast(parts, wholes).shape, np.nan)
    return np.asarray(np.divide(parts, wholes, out=undefined, where=wholes != 0), np.float64)
