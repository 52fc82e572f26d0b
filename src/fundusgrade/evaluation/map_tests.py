"""Tests that need only a heat map and its case: concentration, perturbation, and agreement with lesions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusgrade.evaluation.baselines import BASELINES, baseline_map
from fundusgrade.evaluation.cases import ModelCase
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
from fundusgrade.evaluation.perturbation import FRACTIONS, PerturbationInput, measure_curves, measure_road

# The fraction at which deletion and insertion are also reported by themselves.
_EARLY = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class MapMeasure:
    """One value of one map, with the names of its test and measure (`findings.Measurement`); None where undefined."""

    test: str
    measure: str
    value: float | None


def concentration_measures(model_case: ModelCase, values: NDArray[np.float32]) -> list[MapMeasure]:
    """How concentrated heat (S, S) is, as it is and at one resolution for all networks."""
    measures, radius_px = [], model_case.grader.recipe.radius_px
    for test, heat in ((CONCENTRATION, values), (CONCENTRATION_ONE_RESOLUTION, coarsened(values))):
        concentration = measure_concentration(heat, model_case.preprocessed.mask, radius_px, model_case.landmarks)
        measures += _measures(
            test,
            {
                "area with half the heat": concentration.half_area,
                "entropy": concentration.entropy,
                "peaks": concentration.num_peaks,
                "distance to the disc": concentration.disc_distance,
                "distance to the fovea": concentration.fovea_distance,
            },
        )
    return measures


def perturbation_measures(model_case: ModelCase, values: NDArray[np.float32]) -> list[MapMeasure]:
    """Deletion, insertion and ROAD in the order of heat (S, S)."""
    grader = model_case.grader
    test = PerturbationInput(
        network=grader.pytorch.network,
        image=model_case.preprocessed.image,
        outline=model_case.outline,
        heat=values,
        target=model_case.target,
        choice=grader.pytorch.choice,
    )
    curves, road = measure_curves(test), measure_road(test)
    early = FRACTIONS.index(_EARLY)
    return _measures(
        PERTURBATION,
        {
            "deletion": curves.deletion_area,
            "insertion": curves.insertion_area,
            "deletion at 2 %": curves.deletion[early],
            "insertion at 2 %": curves.insertion[early],
            ROAD: road,
        },
    )


def lesion_measures(model_case: ModelCase, values: NDArray[np.float32]) -> list[MapMeasure]:
    """How well heat (S, S) agrees with the lesions of the case, all together and by kind; empty without masks."""
    measures = []
    for lesions in model_case.coverages:
        agreement = measure_agreement(values, model_case.preprocessed.mask, lesions.coverage)
        peak = agreement.peak_on_lesion
        measures += _measures(
            lesions.test,
            {
                "heat on lesions": agreement.heat_fraction,
                LESION_LIFT: agreement.lift,
                "average precision": agreement.average_precision,
                "average precision by chance": agreement.area_fraction,
                PEAK_ON_LESION: None if peak is None else float(peak),
            },
        )
    return measures


def baseline_maps(model_case: ModelCase) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The name and map of each baseline; the optic disc is left out where it is not known."""
    landmarks, radius_px = model_case.landmarks, model_case.grader.recipe.radius_px
    preprocessed, natural, seed = model_case.preprocessed, model_case.natural, model_case.case.number
    for name in BASELINES:
        values = baseline_map(name, preprocessed, natural, landmarks, radius_px, seed=seed)
        if values is not None:
            yield name, values


def _measures(test: str, values: dict[str, float | None]) -> list[MapMeasure]:
    return [MapMeasure(test=test, measure=measure, value=value) for measure, value in values.items()]
