"""Tests that need only a heat map and its sample: concentration, perturbation, and agreement with lesions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusgrade.evaluation.baselines import BASELINES, baseline_map
from fundusgrade.evaluation.concentration import coarsened, measure_concentration
from fundusgrade.evaluation.findings import (
    CONCENTRATION,
    CONCENTRATION_ONE_RESOLUTION,
    LESION_LIFT,
    PEAK_ON_LESION,
    PERTURBATION,
    ROAD,
)
from fundusgrade.evaluation.lesion_agreement import measure_agreement
from fundusgrade.evaluation.perturbation import FRACTIONS, MapTest, measure_curves, measure_road
from fundusgrade.evaluation.samples import PreparedSample

# The fraction at which deletion and insertion are also reported by themselves.
_EARLY = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class MapMeasure:
    """One number of one map: the test, what it measures, and the value; None where it is undefined."""

    test: str
    measure: str
    value: float | None


def concentration_measures(sample: PreparedSample, values: NDArray[np.float32]) -> list[MapMeasure]:
    """How concentrated heat (S, S) is, as it is and at one resolution for all networks."""
    found = []
    for test, heat in ((CONCENTRATION, values), (CONCENTRATION_ONE_RESOLUTION, coarsened(values))):
        numbers = measure_concentration(heat, sample.prepared.mask, sample.grader.recipe.radius_px, sample.landmarks)
        found += _measures(
            test,
            {
                "area with half the heat": numbers.half_area,
                "entropy": numbers.entropy,
                "peaks": numbers.num_peaks,
                "distance to the disc": numbers.disc_distance,
                "distance to the fovea": numbers.fovea_distance,
            },
        )
    return found


def perturbation_measures(sample: PreparedSample, values: NDArray[np.float32]) -> list[MapMeasure]:
    """Deletion, insertion and ROAD in the order of heat (S, S)."""
    grader = sample.grader
    test = MapTest(
        network=grader.network,
        image=sample.prepared.image,
        outline=sample.outline,
        heat=values,
        target=sample.target,
        choice=grader.choice,
    )
    curves, road = measure_curves(test), measure_road(test)
    early = FRACTIONS.index(_EARLY)
    return _measures(
        PERTURBATION,
        {
            "deletion": curves.deletion_area,
            "insertion": curves.insertion_area,
            "left without 2 %": curves.deletion[early],
            "there with 2 %": curves.insertion[early],
            ROAD: road,
        },
    )


def lesion_measures(sample: PreparedSample, values: NDArray[np.float32]) -> list[MapMeasure]:
    """How well heat (S, S) agrees with the lesions of the sample, all together and by kind; empty without masks."""
    found = []
    for lesions in sample.coverages:
        agreement = measure_agreement(values, sample.prepared.mask, lesions.coverage)
        peak = agreement.peak_on_lesion
        found += _measures(
            lesions.test,
            {
                "heat on lesions": agreement.heat_fraction,
                LESION_LIFT: agreement.lift,
                "average precision": agreement.average_precision,
                "average precision by chance": agreement.area_fraction,
                PEAK_ON_LESION: None if peak is None else float(peak),
            },
        )
    return found


def baseline_maps(sample: PreparedSample) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The name and map of each baseline; the optic disc is left out where it is not known."""
    radius_px = sample.grader.recipe.radius_px
    for name in BASELINES:
        values = baseline_map(
            name, sample.prepared, sample.natural, sample.landmarks, radius_px, seed=sample.sample.number
        )
        if values is not None:
            yield name, values


def _measures(test: str, values: dict[str, float | None]) -> list[MapMeasure]:
    return [MapMeasure(test=test, measure=measure, value=value) for measure, value in values.items()]
