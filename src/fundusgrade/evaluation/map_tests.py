"""Tests that need only a heat map and its case: concentration, perturbation, and agreement with lesions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusgrade.evaluation.baselines import BASELINES, baseline_map
from fundusgrade.evaluation.cases import PreparedCase
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

# The fraction at which deletion and insertion are also reported by themselves.
_EARLY = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class MapMeasure:
    """One number of one map: the test, what it measures, and the value; None where it is undefined."""

    test: str
    measure: str
    value: float | None


def concentration_measures(prepared: PreparedCase, values: NDArray[np.float32]) -> list[MapMeasure]:
    """How concentrated heat (S, S) is, as it is and at one resolution for all networks."""
    found = []
    for test, heat in ((CONCENTRATION, values), (CONCENTRATION_ONE_RESOLUTION, coarsened(values))):
        numbers = measure_concentration(
            heat, prepared.preprocessed.mask, prepared.grader.recipe.radius_px, prepared.landmarks
        )
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


def perturbation_measures(prepared: PreparedCase, values: NDArray[np.float32]) -> list[MapMeasure]:
    """Deletion, insertion and ROAD in the order of heat (S, S)."""
    grader = prepared.grader
    test = MapTest(
        network=grader.network,
        image=prepared.preprocessed.image,
        outline=prepared.outline,
        heat=values,
        target=prepared.target,
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


def lesion_measures(prepared: PreparedCase, values: NDArray[np.float32]) -> list[MapMeasure]:
    """How well heat (S, S) agrees with the lesions of the case, all together and by kind; empty without masks."""
    found = []
    for lesions in prepared.coverages:
        agreement = measure_agreement(values, prepared.preprocessed.mask, lesions.coverage)
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


def baseline_maps(prepared: PreparedCase) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The name and map of each baseline; the optic disc is left out where it is not known."""
    radius_px = prepared.grader.recipe.radius_px
    for name in BASELINES:
        values = baseline_map(
            name, prepared.preprocessed, prepared.natural, prepared.landmarks, radius_px, seed=prepared.case.number
        )
        if values is not None:
            yield name, values


def _measures(test: str, values: dict[str, float | None]) -> list[MapMeasure]:
    return [MapMeasure(test=test, measure=measure, value=value) for measure, value in values.items()]
