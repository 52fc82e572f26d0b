"""Fit of a clinic's own calibration: recalibrated probabilities, and a threshold whose sensitivity is certified.

The unit of a certificate is the patient: referable if any photograph is of grade 2 or worse, with the highest score of
all photographs, so that a patient is referred where any photograph reaches the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fundusgrade.data.splits import assign_folds
from fundusgrade.grades import REFERABLE_DECIMALS, REFERABLE_FROM, Grade
from fundusgrade.metrics.certification import Certificate, NotCertifiable, certify
from fundusgrade.metrics.classification import decide_grades, probability_from_grade
from fundusgrade.metrics.predictions import ScoredPhotographs
from fundusgrade.metrics.recalibration import Recalibration, fit_recalibration, log_odds
from fundusgrade.metrics.referral import rounded_up

_NUM_PARTS = 5
_PARTS_SEED = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatientScores:
    """The highest P(grade >= 2) of each of P patients (P,), to four decimals, and whether they are referable (P,)."""

    scores: NDArray[np.float64]
    is_referable: NDArray[np.bool_]


def score_patients(photographs: ScoredPhotographs) -> PatientScores:
    """The worst photograph of each patient, by its score and by its grade; patients are the groups of photographs."""
    names, patient = np.unique(photographs.groups, return_inverse=True)
    scores = np.zeros(len(names))
    is_referable = np.zeros(len(names), bool)
    referable = probability_from_grade(photographs.probabilities, REFERABLE_FROM).round(REFERABLE_DECIMALS)
    np.maximum.at(scores, patient, referable)
    np.logical_or.at(is_referable, patient, photographs.grades >= REFERABLE_FROM)
    return PatientScores(scores=scores, is_referable=is_referable)


def certify_patients(
    photographs: ScoredPhotographs, *, sensitivity: float, confidence: float
) -> Certificate | NotCertifiable:
    """The certificate of the patients; its threshold has the four decimals with which scores are compared.

    It is rounded up, which is never above the score of a patient whom it must refer. Raises MetricsError as `certify`.
    """
    patients = score_patients(photographs)
    found = certify(patients.scores, patients.is_referable, sensitivity=sensitivity, confidence=confidence)
    if isinstance(found, NotCertifiable):
        return found
    return replace(found, threshold=rounded_up(found.threshold))


def recalibrate_referable(photographs: ScoredPhotographs) -> Recalibration:
    """The recalibration by the probability of referable DR, which more photographs inform than that of a grade."""
    logits = log_odds(probability_from_grade(photographs.probabilities, REFERABLE_FROM))
    return fit_recalibration(logits, photographs.grades >= REFERABLE_FROM)


def recalibrated(
    photographs: ScoredPhotographs, recalibration: Recalibration, thresholds: tuple[float, ...] | None, *, grades: bool
) -> ScoredPhotographs:
    """The photographs with recalibrated probabilities; with the grades of these probabilities where `grades`."""
    probabilities = recalibration.apply(photographs.probabilities)
    predicted = decide_grades(probabilities, thresholds) if grades else photographs.predicted
    return replace(photographs, probabilities=probabilities, predicted=predicted)


def cross_recalibrated(
    photographs: ScoredPhotographs, thresholds: tuple[float, ...] | None, *, grades: bool
) -> ScoredPhotographs:
    """As `recalibrated`, each photograph by a recalibration that was fitted to the other four fifths of the patients.

    The same photographs give the same fifths.
    """
    parts = np.array(
        assign_folds(
            photographs.groups.tolist(),
            [Grade(grade) for grade in photographs.grades.tolist()],
            _NUM_PARTS,
            _PARTS_SEED,
        )
    )
    probabilities, predicted = photographs.probabilities.copy(), photographs.predicted.copy()
    for part in np.unique(parts):
        recalibration = recalibrate_referable(photographs.subset(parts != part))
        held_out = recalibrated(photographs.subset(parts == part), recalibration, thresholds, grades=grades)
        probabilities[parts == part], predicted[parts == part] = held_out.probabilities, held_out.predicted
    return replace(photographs, probabilities=probabilities, predicted=predicted)
