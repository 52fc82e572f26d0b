"""How sure is a score? Whole groups of photographs are drawn again and again, and the score is computed on every draw.

Groups (patients, copies) are drawn with replacement within strata, so that every draw keeps the mix of grades (Davison
and Hinkley 1997, section 3.2). A draw is a row of weights: how often each photograph was drawn. All scores are computed
from weights, for all draws at once. Bounds are those of the bias-corrected and accelerated bootstrap; plain percentiles
of an area under the curve near 1, or of a small stratum, held the truth too rarely (benchmarks/coverage.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fundusgrade.grades import NUM_GRADES

TAILS = (0.025, 0.975)
# A score that is undefined in more than one draw of ten has no honest interval.
_LEAST_DEFINED = 0.9
# Weights are float32: scores that differ by less are the same.
_ROUNDING = 1e-6
_NORMAL = NormalDist()


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
        # Sums of weights keep seven digits in float32; measured numbers are summed in float64.
        precision = np.float32 if columns.dtype.kind == "b" else np.float64
        return np.asarray(self.weights @ columns.astype(precision), np.float64)


def resample(
    grades: NDArray[np.int64], groups: NDArray[np.int64], *, num_resamples: int = 1000, seed: int = 0
) -> Resample:
    """The photographs as they are, and the draws of `draw_weights`."""
    draws = draw_weights(grades, groups, num_resamples=num_resamples, seed=seed)
    return of_weights(np.concatenate([np.ones((1, len(grades)), np.float32), draws]), groups)


def of_weights(weights: NDArray[np.float32], groups: NDArray[np.int64]) -> Resample:
    """A resample of weights (1 + D, N), equal within groups (N,)."""
    _, firsts = np.unique(groups, return_index=True)
    return Resample(weights=weights, groups=groups, group_weights=weights[:, firsts])


def draw_weights(
    grades: NDArray[np.int64], groups: NDArray[np.int64], *, num_resamples: int = 1000, seed: int = 0
) -> NDArray[np.float32]:
    """How often each of N photographs with grades (N,) and groups (N,) is drawn: (D, N), seeded.

    The stratum of a group is its highest grade. Of the n groups of a stratum n - 1 are drawn, each counting n / (n - 1)
    times: drawing n would make scores of rare grades look surer than they are (Rao and Wu, JASA 1988). A stratum of one
    group is always drawn.
    """
    _, group = np.unique(groups, return_inverse=True)
    strata = np.full(group.max(initial=-1) + 1, -1, np.int64)
    np.maximum.at(strata, group, grades)
    rng = np.random.default_rng(seed)
    drawn = np.zeros((num_resamples, len(strata)), np.float32)
    for stratum in range(NUM_GRADES):
        members = np.flatnonzero(strata == stratum)
        if len(members):
            drawn[:, members] = _draw_stratum(len(members), num_resamples, rng)
    return drawn[:, group]


def _draw_stratum(num_groups: int, num_resamples: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Weights (D, G) of the groups of one stratum."""
    num_picks = max(num_groups - 1, 1)
    picks = rng.integers(0, num_groups, (num_resamples, num_picks))
    cells = (picks + np.arange(num_resamples)[:, None] * num_groups).ravel()
    counts = np.bincount(cells, minlength=num_resamples * num_groups).reshape(num_resamples, num_groups)
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
    if not defined.any() or np.ptp(draws[defined]) < _ROUNDING:
        return Estimate(value=value, low=None, high=None)
    tails = measure_correction(value, draws[defined], sample.group_weights[1:][defined]).corrected()
    low, high = percentile_interval(draws, tails) or (None, None)
    return Estimate(value=value, low=low, high=high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What makes the interval of a biased or skewed score differ from plain percentiles: BCa (Efron, JASA 1987).

    Where few groups or outliers decide how wide the interval is, that width is `unsure` too: quantiles are Student's
    rather than normal (Satterthwaite 1946; Hesterberg, American Statistician 2015).
    """

    bias: float
    skew: float
    unsure: float

    def corrected(self, tails: tuple[float, float] = TAILS) -> tuple[float, float]:
        """The shares of draws that bound the interval with these tails."""
        normals = map(_NORMAL.inv_cdf, tails)
        reached = [self.bias + normal * (1 + (normal**2 + 1) * self.unsure / 8) for normal in normals]
        # Very few groups may be so skewed that the bound would turn around.
        low, high = (_NORMAL.cdf(self.bias + each / max(1 - self.skew * each, 0.1)) for each in reached)
        return low, high


def measure_correction(value: float, draws: NDArray[np.float64], group_weights: NDArray[np.float32]) -> Correction:
    """The correction of a score with these draws (D,), none of them NaN.

    The influence of each group is the covariance of its weight (D, G) with the score, so that no group has to be left
    out (Efron, JRSS B 2014).
    """
    below = ((draws < value - _ROUNDING).sum() + (draws <= value + _ROUNDING).sum()) / (2 * len(draws))
    standard = ((draws - draws.mean()) / (draws.std() * len(draws))).astype(np.float32)
    influence = (standard @ group_weights).astype(np.float64)
    # The relative variance of the variance, which is 2 / degrees of freedom, less what the number of draws adds to it.
    noise = (6 + 3 * len(influence) / len(draws)) / len(draws)
    return Correction(
        bias=_NORMAL.inv_cdf(min(max(below, 0.5 / len(draws)), 1 - 0.5 / len(draws))),
        skew=float((influence**3).sum()) / 6,
        unsure=min(max(float((influence**4).sum()) - 1 / len(influence) - noise, 0.0), 0.5),
    )


def estimate_share(sample: Resample, hits: NDArray[np.bool_], among: NDArray[np.bool_]) -> Estimate:
    """The share of the photographs `among` (N,) that are `hits` (N,), with its interval.

    A share of few photographs jumps from draw to draw. Its bounds are Wilson's (JASA 1927) for the number of
    independent photographs that vary as much as the draws do (Dean and Pagano, Journal of Survey Statistics and
    Methodology 2015). Where all or none are hits no draw can differ: the bound is then exact (Clopper and Pearson,
    Biometrika 1934) for as many groups that were all alike.
    """
    counts = sample.totals(np.stack([hits & among, among], axis=1))
    shares = ratio(counts[:, 0], counts[:, 1])
    if np.isnan(shares[0]):
        return UNDEFINED
    value, defined = float(shares[0]), shares[1:][~np.isnan(shares[1:])]
    if value in (0.0, 1.0):
        bound = TAILS[0] ** (1 / len(np.unique(sample.groups[among])))
        low, high = (bound, 1.0) if value else (0.0, 1 - bound)
        return Estimate(value=value, low=low, high=high)
    if len(defined) < _LEAST_DEFINED * (len(shares) - 1) or not defined.size or np.ptp(defined) < _ROUNDING:
        return Estimate(value=value, low=None, high=None)
    low, high = _wilson_bounds(value, value * (1 - value) / float(defined.var()))
    return Estimate(value=value, low=low, high=high)


def _wilson_bounds(share: float, count: float) -> tuple[float, float]:
    normal = _NORMAL.inv_cdf(TAILS[1])
    center = share + normal**2 / (2 * count)
    reach = normal * (share * (1 - share) / count + normal**2 / (4 * count**2)) ** 0.5
    return (center - reach) / (1 + normal**2 / count), (center + reach) / (1 + normal**2 / count)


def ratio(parts: NDArray[np.float64], wholes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Elementwise parts / wholes; NaN where the whole is 0."""
    undefined = np.full(np.broadcast(parts, wholes).shape, np.nan)
    return np.asarray(np.divide(parts, wholes, out=undefined, where=wholes != 0), np.float64)
