"""95 % intervals of scores by the bootstrap: whole groups of photographs are resampled, the score computed on each.

Groups (patients, copies) are drawn with replacement from all groups, whatever their grades, as a study draws patients
from a population: the number of each grade varies between resamples (Field and Welsh, JRSS B 2007). Resamples within
grades would give the variation among studies with these very numbers of each grade: intervals of 550 photographs would
cover the true kappa in 88 % instead of 94 % (benchmarks/coverage.py).

A resample in which a score is undefined (the F1 of a grade that it lacks) does not count; a score has no bounds if more
than one of ten are. Proportions, F1 and means over grades have bounds nevertheless, see `estimate_proportion`.

A resample is a row of weights: how often each photograph was drawn. Scores are computed from weights, for all resamples
at once. Bounds are those of the bias-corrected and accelerated bootstrap; plain percentiles of an area under the curve
near 1, or of a rare grade, covered the true score too rarely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fundusgrade.metrics.estimates import UNDEFINED, Estimate, mean_of_defined, ratio

TAILS = (0.025, 0.975)

MIN_VALUES = 6
"""Resamples of fewer photographs give intervals that cover the true mean far too rarely."""

NO_VARIATION = "the same in all resamples"
FEW_VALUES = f"fewer than {MIN_VALUES} photographs"
RARELY_DEFINED = "undefined in more than one resample of ten"
"""Reasons why a score has no interval."""

# A score that is undefined in more than one resample of ten gets no interval.
_MIN_DEFINED_FRACTION = 0.9
# Weights are float32: scores that differ by less are the same.
_ROUNDING = 1e-6
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Resamples:
    """Weights (1 + R, N) of N photographs: the first row is all ones, then come R resamples; groups are (N,).

    A score of all rows is (1 + R,): of the photographs themselves, then of each resample. `group_weights` (1 + R, G)
    are the weights of each group once.
    """

    weights: NDArray[np.float32]
    groups: NDArray[np.int64]
    group_weights: NDArray[np.float32]

    def subset(self, mask: NDArray[np.bool_]) -> Resamples:
        """The weights of the photographs in the mask (N,)."""
        return from_weights(self.weights[:, mask], self.groups[mask])

    def totals(self, columns: NDArray[np.generic]) -> NDArray[np.float64]:
        """Weighted sums (1 + R, K) of columns (N, K)."""
        # Sums of weights keep seven digits in float32; measured numbers are summed in float64.
        precision = np.float32 if columns.dtype.kind == "b" else np.float64
        return np.asarray(self.weights @ columns.astype(precision), np.float64)

    def means(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weighted means (1 + R,) over the photographs whose values (N,) are not NaN; NaN where there are none."""
        defined = ~np.isnan(values)
        totals = self.totals(np.stack([np.nan_to_num(values), defined.astype(np.float64)], axis=1))
        return ratio(totals[:, 0], totals[:, 1])


def resample(groups: NDArray[np.int64], *, num_resamples: int = 1000, seed: int = 0) -> Resamples:
    """The photographs of groups (N,) themselves, then seeded resamples of their groups."""
    weights = draw_weights(groups, num_resamples=num_resamples, seed=seed)
    return from_weights(np.concatenate([np.ones((1, len(groups)), np.float32), weights]), groups)


def from_weights(weights: NDArray[np.float32], groups: NDArray[np.int64]) -> Resamples:
    """Resamples of given weights (1 + R, N), equal within groups (N,)."""
    _, firsts = np.unique(groups, return_index=True)
    return Resamples(weights=weights, groups=groups, group_weights=weights[:, firsts])


def draw_weights(groups: NDArray[np.int64], *, num_resamples: int = 1000, seed: int = 0) -> NDArray[np.float32]:
    """How often each of N photographs of groups (N,) is drawn: (R, N), seeded.

    Of n groups n - 1 are drawn, each counting n / (n - 1) times: drawing n would make intervals of few groups too
    narrow (Rao and Wu, JASA 1988). A group that is the only one is always drawn.
    """
    names, group = np.unique(groups, return_inverse=True)
    num_groups, num_picks = len(names), max(len(names) - 1, 1)
    if not num_groups:
        return np.zeros((num_resamples, 0), np.float32)
    picks = np.random.default_rng(seed).integers(0, num_groups, (num_resamples, num_picks))
    cells = (picks + np.arange(num_resamples)[:, None] * num_groups).ravel()
    counts = np.bincount(cells, minlength=num_resamples * num_groups).reshape(num_resamples, num_groups)
    return (counts * (num_groups / num_picks)).astype(np.float32)[:, group]


def percentile_interval(scores: NDArray[np.float64], tails: tuple[float, float] = TAILS) -> tuple[float, float] | None:
    """Quantiles of the scores of resamples (R,), NaN where undefined; None where too few resamples define the score."""
    defined = scores[~np.isnan(scores)]
    if len(defined) == 0 or len(defined) < _MIN_DEFINED_FRACTION * len(scores):
        return None
    low, high = np.quantile(defined, tails)
    return float(low), float(high)


def estimate(scores: NDArray[np.float64], resamples: Resamples) -> Estimate:
    """The score and its interval from scores (1 + R,), NaN where undefined: of the photographs, then of each resample.

    Without bounds where no resample differs from another: the variance is then unknown.
    """
    if np.isnan(scores[0]):
        return UNDEFINED
    value, resampled = float(scores[0]), scores[1:]
    defined = ~np.isnan(resampled)
    if not defined.any() or defined.sum() < _MIN_DEFINED_FRACTION * len(resampled):
        return Estimate(value=value, low=None, high=None, no_interval=RARELY_DEFINED)
    if np.ptp(resampled[defined]) < _ROUNDING:
        return Estimate(value=value, low=None, high=None, no_interval=NO_VARIATION)
    tails = measure_correction(value, resampled[defined], resamples.group_weights[1:][defined]).corrected()
    low, high = percentile_interval(resampled, tails) or (None, None)
    return Estimate(value=value, low=low, high=high)


def estimate_mean(values: NDArray[np.float64], resamples: Resamples) -> Estimate:
    """The mean of the values (N,) that are not NaN, with its interval; without bounds for fewer than six."""
    mean = estimate(resamples.means(values), resamples)
    return mean if (~np.isnan(values)).sum() >= MIN_VALUES else mean.without_interval(FEW_VALUES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """Parameters of a bias-corrected and accelerated interval, BCa (Efron, JASA 1987), all 0 for plain percentiles.

    Where few groups or outliers determine the width of the interval, that width is uncertain too (`uncertainty`):
    quantiles are Student's rather than normal (Satterthwaite 1946; Hesterberg, American Statistician 2015).
    """

    bias: float
    skew: float
    uncertainty: float

    def corrected(self, tails: tuple[float, float] = TAILS) -> tuple[float, float]:
        """The quantiles of the resampled scores that bound the interval with these tails."""
        normals = map(_NORMAL.inv_cdf, tails)
        reached = [self.bias + normal * (1 + (normal**2 + 1) * self.uncertainty / 8) for normal in normals]
        # Very few groups may be so skewed that the bounds would change places.
        low, high = (_NORMAL.cdf(self.bias + normal / max(1 - self.skew * normal, 0.1)) for normal in reached)
        return low, high


def measure_correction(value: float, scores: NDArray[np.float64], group_weights: NDArray[np.float32]) -> Correction:
    """The correction of a score from the scores of resamples (R,), none of them NaN.

    The influence of each group is the covariance of its weight (R, G) with the score, so that no group has to be left
    out (Efron, JRSS B 2014).
    """
    below = ((scores < value - _ROUNDING).sum() + (scores <= value + _ROUNDING).sum()) / (2 * len(scores))
    standard = ((scores - scores.mean()) / (scores.std() * len(scores))).astype(np.float32)
    influence = (standard @ group_weights).astype(np.float64)
    # The relative variance of the variance, which is 2 / degrees of freedom, less what the number of resamples adds.
    noise = (6 + 3 * len(influence) / len(scores)) / len(scores)
    return Correction(
        bias=_NORMAL.inv_cdf(min(max(below, 0.5 / len(scores)), 1 - 0.5 / len(scores))),
        skew=float((influence**3).sum()) / 6,
        uncertainty=min(max(float((influence**4).sum()) - 1 / len(influence) - noise, 0.0), 0.5),
    )


def estimate_proportion(resamples: Resamples, hits: NDArray[np.bool_], among: NDArray[np.bool_]) -> Estimate:
    """The proportion of the photographs `among` (N,) that are `hits` (N,), with its interval; undefined among none.

    A proportion of few photographs has few possible values. Its bounds are Wilson's (JASA 1927) for the number of
    independent photographs that vary as much as the resamples do (Dean and Pagano, Journal of Survey Statistics and
    Methodology 2015), at most as many as there are; for the number of groups where the resamples cannot tell, because
    too many hold none of the photographs. Where all or none are hits no resample can differ: the bound is then exact
    (Clopper and Pearson, Biometrika 1934) for as many groups that were all alike.
    """
    counts = resamples.totals(np.stack([hits & among, among], axis=1))
    proportions = ratio(counts[:, 0], counts[:, 1])
    if np.isnan(proportions[0]):
        return UNDEFINED
    value, defined = float(proportions[0]), proportions[1:][~np.isnan(proportions[1:])]
    num_groups = len(np.unique(resamples.groups[among]))
    if value in (0.0, 1.0):
        bound = TAILS[0] ** (1 / num_groups)
        low, high = (bound, 1.0) if value else (0.0, 1 - bound)
        return Estimate(value=value, low=low, high=high)
    if len(defined) < _MIN_DEFINED_FRACTION * (len(proportions) - 1) or not defined.size or np.ptp(defined) < _ROUNDING:
        low, high = _wilson_bounds(value, num_groups)
    else:
        low, high = _wilson_bounds(value, min(value * (1 - value) / float(defined.var()), int(among.sum())))
    return Estimate(value=value, low=low, high=high)


def _wilson_bounds(proportion: float, count: float) -> tuple[float, float]:
    """Lower and upper bound, 0 to 1, of a proportion of `count` independent photographs."""
    normal = _NORMAL.inv_cdf(TAILS[1])
    center = proportion + normal**2 / (2 * count)
    reach = normal * (proportion * (1 - proportion) / count + normal**2 / (4 * count**2)) ** 0.5
    return (center - reach) / (1 + normal**2 / count), (center + reach) / (1 + normal**2 / count)


def estimate_average(estimates: Sequence[Estimate], scores: NDArray[np.float64]) -> Estimate:
    """The mean of K estimates, of those that are defined, from their scores (1 + R, K) as `estimate` takes them.

    The distances of the bounds of a mean from it are those of its parts, added like standard errors, with the
    correlations of the resamples (MOVER: Zou and Donner, Statistics in Medicine 2008). So the mean over grades has an
    interval that includes what is not known of rare grades, where resamples differ too little.
    """
    defined = [i for i, each in enumerate(estimates) if each.value is not None]
    if not defined:
        return UNDEFINED
    values, lows, highs = (
        np.array([getattr(estimates[i], name) for i in defined], np.float64) for name in ("value", "low", "high")
    )
    mean = float(values.mean())
    unknown = [estimates[i].no_interval for i in defined if not estimates[i].has_interval]
    if unknown:
        return Estimate(value=mean, low=None, high=None, no_interval=unknown[0])
    correlations = _correlations(scores[1:, defined])
    reaches = np.stack([values - lows, highs - values])
    variances = np.einsum("bi,ij,bj->b", reaches, correlations, reaches).clip(min=0)
    below, above = (np.sqrt(variances) / len(defined)).tolist()
    return Estimate(value=mean, low=mean - below, high=mean + above)


def _correlations(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlations (K, K) of scores (R, K); 0 between a score that does not vary and others, NaN do not count."""
    deviations = np.nan_to_num(scores - mean_of_defined(scores.T))
    variances = (deviations**2).sum(axis=0)
    varying = variances > _ROUNDING**2 * len(scores)
    standard = np.where(varying, deviations, 0.0) / np.sqrt(np.where(varying, variances, 1.0))
    correlations = standard.T @ standard
    np.fill_diagonal(correlations, 1.0)
    return np.asarray(correlations, np.float64)
