"""What tests of explanations found: means over photographs with intervals, and paired differences.

Photographs that are copies, or of one patient, are drawn together, as for all other scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from fundusgrade.evaluation.baselines import DECOYS, RANDOMIZED, is_decoy
from fundusgrade.metrics.bootstrap import Estimate, Resample, estimate, estimate_share, ratio
from fundusgrade.metrics.comparison import bootstrap_p, correct_by_holm


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One number of one map: which photograph, model, method (or decoy), test, and what it measures; None: undefined.

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

    First and second are models where the method is the same, methods or decoys where the model is. p-values are
    corrected by Holm over all differences of one test and kind.
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
    """Everything that was measured on one data set for one target."""

    data: str
    target: str
    num_photographs: int
    findings: tuple[Finding, ...]
    between_models: tuple[Difference, ...]
    over_decoys: tuple[Difference, ...]


IS_SHARE = frozenset({"peak on lesion"})
"""Measures that are yes or no for each photograph."""

# Draws of fewer photographs give intervals that hold the truth far too rarely.
_FEWEST = 6

COMPARED_BETWEEN_MODELS = ("concentration", "concentration, one resolution")
COMPARED_WITH_DECOYS = {"lesions": "heat on lesions / their area", "perturbation": "ROAD"}

_Key = tuple[str, str, str, str]
_Columns = dict[_Key, NDArray[np.float64]]


def summarize(measured: Sequence[Measured], sample: Resample, *, data: str, target: str) -> Findings:
    """Means, differences between models and over decoys of what was measured on the N photographs of a resample."""
    columns = _columns(measured, sample.weights.shape[1])
    findings = [_finding(key, values, sample) for key, values in columns.items()]
    return Findings(
        data=data,
        target=target,
        num_photographs=len({each.photograph for each in measured}),
        findings=tuple(findings),
        between_models=_corrected(_model_differences(columns, sample)),
        over_decoys=_corrected(_decoy_differences(columns, sample)),
    )


def _columns(measured: Sequence[Measured], num_photographs: int) -> _Columns:
    """Values (N,) of each model, method, test and measure; NaN where undefined."""
    columns: _Columns = {}
    for each in measured:
        key = (each.model, each.method, each.test, each.measure)
        column = columns.setdefault(key, np.full(num_photographs, np.nan))
        column[each.photograph] = np.nan if each.value is None else each.value
    return columns


def _finding(key: _Key, values: NDArray[np.float64], sample: Resample) -> Finding:
    model, method, test, measure = key
    defined = ~np.isnan(values)
    if measure in IS_SHARE:
        mean = estimate_share(sample, np.nan_to_num(values) > 0, defined)
    else:
        mean = estimate(_means(values, sample), sample)
    if defined.sum() < _FEWEST:
        mean = replace(mean, low=None, high=None)
    return Finding(
        model=model, method=method, test=test, measure=measure, mean=mean, num_photographs=int(defined.sum())
    )


def _means(values: NDArray[np.float64], sample: Resample) -> NDArray[np.float64]:
    """Means (1 + D,) over the photographs where values (N,) are defined."""
    defined = ~np.isnan(values)
    totals = sample.totals(np.stack([np.nan_to_num(values), defined.astype(np.float64)], axis=1))
    return ratio(totals[:, 0], totals[:, 1])


def _model_differences(columns: _Columns, sample: Resample) -> list[Difference]:
    found = []
    places = {key[1:]: None for key in columns if key[2] in COMPARED_BETWEEN_MODELS and not is_decoy(key[1])}
    for place in places:
        models = [key[0] for key in columns if key[1:] == place]
        for first, second in combinations(models, 2):
            pair = (columns[first, *place], columns[second, *place])
            found.append(_difference(place[1], place[2], place[0], (first, second), pair, sample))
    return found


def _decoy_differences(columns: _Columns, sample: Resample) -> list[Difference]:
    found = []
    for (model, method, test, measure), values in columns.items():
        if is_decoy(method) or COMPARED_WITH_DECOYS.get(test) != measure:
            continue
        for decoy in (*DECOYS, f"{method}{RANDOMIZED}"):
            other = columns.get((model, decoy, test, measure))
            if other is not None:
                found.append(_difference(test, measure, model, (method, decoy), (values, other), sample))
    return found


def _difference(
    test: str,
    measure: str,
    within: str,
    names: tuple[str, str],
    values: tuple[NDArray[np.float64], NDArray[np.float64]],
    sample: Resample,
) -> Difference:
    differences = values[0] - values[1]
    means, num_photographs = _means(differences, sample), int((~np.isnan(differences)).sum())
    found = estimate(means, sample)
    if num_photographs < _FEWEST:
        found = replace(found, low=None, high=None)
    return Difference(
        test=test,
        measure=measure,
        within=within,
        first=names[0],
        second=names[1],
        difference=found,
        p=bootstrap_p(found, means[1:], sample),
        num_photographs=num_photographs,
    )


def _corrected(differences: Sequence[Difference]) -> tuple[Difference, ...]:
    """The same with p-values corrected over all differences of one test and measure."""
    families: dict[tuple[str, str], list[int]] = {}
    for place, each in enumerate(differences):
        families.setdefault((each.test, each.measure), []).append(place)
    corrected = list(differences)
    for places in families.values():
        for place, p in zip(places, correct_by_holm([differences[i].p for i in places]), strict=True):
            corrected[place] = replace(differences[place], p=p)
    return tuple(corrected)
