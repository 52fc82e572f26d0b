"""Results of tests of explanations: means over photographs with intervals, and paired differences.

Copies and photographs of one patient are resampled together, as for all other scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from fundusgrade.evaluation.baselines import BASELINES, RANDOMIZED, is_baseline
from fundusgrade.metrics.bootstrap import FEW_VALUES, MIN_VALUES, Resamples, estimate_mean, estimate_proportion
from fundusgrade.metrics.comparison import bootstrap_p, correct_by_holm
from fundusgrade.metrics.estimates import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One value of one map: of which photograph, model, method (or baseline), test and measure; None where undefined.

    `test` is "perturbation", "concentration", "randomization", "stability", "lesions" or a kind of lesion.
    """

    photograph: int
    model: str
    method: str
    test: str
    measure: str
    value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The mean of a measure over the photographs where it is defined."""

    model: str
    method: str
    test: str
    measure: str
    mean: Estimate
    num_photographs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A measure of the first less that of the second, on the same photographs.

    First and second are two models with the method `within`, or a method and a baseline with the model `within`.
    p-values are corrected by Holm over all differences of one test and measure.
    """

    test: str
    measure: str
    within: str
    first: str
    second: str
    difference: Estimate
    p: float | None
    num_photographs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All results of tests on one data set for one target."""

    data: str
    target: str
    num_photographs: int
    findings: tuple[Finding, ...]
    between_models: tuple[Difference, ...]
    over_baselines: tuple[Difference, ...]


# Names of tests and measures, by which findings are looked up.
PERTURBATION = "perturbation"
ROAD = "ROAD"
LESIONS = "lesions"
LESION_LIFT = "heat on lesions / their area"
PEAK_ON_LESION = "peak on lesion"
CONCENTRATION = "concentration"
CONCENTRATION_ONE_RESOLUTION = "concentration, one resolution"

BINARY_MEASURES = frozenset({PEAK_ON_LESION})
"""Measures that are yes or no for each photograph."""

COMPARED_BETWEEN_MODELS = (CONCENTRATION, CONCENTRATION_ONE_RESOLUTION)
COMPARED_WITH_BASELINES = {LESIONS: LESION_LIFT, PERTURBATION: ROAD}
"""The measure of a test in which methods are compared with baselines."""

_Key = tuple[str, str, str, str]
_Columns = dict[_Key, NDArray[np.float64]]


def summarize(measurements: Sequence[Measurement], resamples: Resamples, *, data: str, target: str) -> Findings:
    """Means, differences between models and over baselines of what was measured on the N resampled photographs."""
    columns = _columns(measurements, resamples.weights.shape[1])
    findings = [_finding(key, values, resamples) for key, values in columns.items()]
    return Findings(
        data=data,
        target=target,
        num_photographs=len({measurement.photograph for measurement in measurements}),
        findings=tuple(findings),
        between_models=_corrected(_model_differences(columns, resamples)),
        over_baselines=_corrected(_baseline_differences(columns, resamples)),
    )


def _columns(measurements: Sequence[Measurement], num_photographs: int) -> _Columns:
    """Values (N,) of each model, method, test and measure; NaN where undefined."""
    columns: _Columns = {}
    for measurement in measurements:
        key = (measurement.model, measurement.method, measurement.test, measurement.measure)
        column = columns.setdefault(key, np.full(num_photographs, np.nan))
        column[measurement.photograph] = np.nan if measurement.value is None else measurement.value
    return columns


def _finding(key: _Key, values: NDArray[np.float64], resamples: Resamples) -> Finding:
    model, method, test, measure = key
    defined = ~np.isnan(values)
    if measure in BINARY_MEASURES:
        mean = estimate_proportion(resamples, np.nan_to_num(values) > 0, defined)
        mean = mean if defined.sum() >= MIN_VALUES else mean.without_interval(FEW_VALUES)
    else:
        mean = estimate_mean(values, resamples)
    return Finding(
        model=model, method=method, test=test, measure=measure, mean=mean, num_photographs=int(defined.sum())
    )


def _model_differences(columns: _Columns, resamples: Resamples) -> list[Difference]:
    differences = []
    compared = {key[1:]: None for key in columns if key[2] in COMPARED_BETWEEN_MODELS and not is_baseline(key[1])}
    for method, test, measure in compared:
        models = [key[0] for key in columns if key[1:] == (method, test, measure)]
        for first, second in combinations(models, 2):
            pair = (columns[first, method, test, measure], columns[second, method, test, measure])
            differences.append(_difference(test, measure, method, (first, second), pair, resamples))
    return differences


def _baseline_differences(columns: _Columns, resamples: Resamples) -> list[Difference]:
    differences = []
    for (model, method, test, measure), values in columns.items():
        if is_baseline(method) or COMPARED_WITH_BASELINES.get(test) != measure:
            continue
        for baseline in (*BASELINES, f"{method}{RANDOMIZED}"):
            other = columns.get((model, baseline, test, measure))
            if other is not None:
                names = (method, baseline)
                differences.append(_difference(test, measure, model, names, (values, other), resamples))
    return differences


def _difference(
    test: str,
    measure: str,
    within: str,
    names: tuple[str, str],
    values: tuple[NDArray[np.float64], NDArray[np.float64]],
    resamples: Resamples,
) -> Difference:
    differences = values[0] - values[1]
    mean = estimate_mean(differences, resamples)
    return Difference(
        test=test,
        measure=measure,
        within=within,
        first=names[0],
        second=names[1],
        difference=mean,
        p=bootstrap_p(mean, resamples.means(differences)[1:], resamples),
        num_photographs=int((~np.isnan(differences)).sum()),
    )


def _corrected(differences: Sequence[Difference]) -> tuple[Difference, ...]:
    """The same with p-values corrected over all differences of one test and measure."""
    families: dict[tuple[str, str], list[int]] = {}
    for index, difference in enumerate(differences):
        families.setdefault((difference.test, difference.measure), []).append(index)
    corrected = list(differences)
    for indices in families.values():
        for index, p in zip(indices, correct_by_holm([differences[i].p for i in indices]), strict=True):
            corrected[index] = replace(differences[index], p=p)
    return tuple(corrected)
