"""A clinic's own calibration, stored with a model: of which model, on which patients, and what it certifies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fundusgrade.metrics.certification import Certificate
from fundusgrade.metrics.drift import ReferenceScores
from fundusgrade.metrics.estimates import parse_proportion
from fundusgrade.metrics.recalibration import Recalibration

ASSUMPTIONS = (
    "future referable patients resemble those of the data set: same camera, operators and population, equally severe. "
    "That the disease becomes rarer or commoner does not matter",
    "the patients were not chosen by the model's answers, nor by their disease: consecutive patients, or all "
    "referable ones of a period",
    "the grades of the data set are right: the sensitivity is that of finding what its readers call referable",
    "a patient is referred where any photograph reaches the threshold, or is ungradable for the model or for people: "
    "patients with a photograph that people could not grade took no part",
    "the model is used as it is: without test-time augmentation, and with the stored threshold. A sensitivity that "
    "was asked for after others had been tried on the same patients is certified with less confidence",
)
"""What the certificate of a calibration holds under, each as the end of "It holds if"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCalibration:
    """What `fundusgrade calibrate` made of a model on the photographs of one clinic.

    `parent` and `parent_sha256` are the name of the model that it was made of and the SHA-256 of its weights, `created`
    the time in ISO 8601, `data_name` and `data_hash` the clinic's data set and the SHA-256 of its manifest, `camera`
    the user's note of the camera, `precision` the arithmetic of the scores, as in the provenance of rows.
    `recalibration` changes the probabilities; grades, and sets of grades, follow from them only where `changes_grades`.
    `scores` are the recalibrated probabilities of referable DR of the photographs.
    """

    parent: str
    parent_sha256: str
    created: str
    data_name: str
    data_hash: str
    camera: str
    precision: str
    recalibration: Recalibration
    changes_grades: bool
    certificate: Certificate
    scores: ReferenceScores

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> LocalCalibration:
        """A calibration from `dataclasses.asdict`'s output. Raises KeyError, TypeError or ValueError for others."""
        return cls(
            parent=str(values["parent"]),
            parent_sha256=str(values["parent_sha256"]),
            created=str(values["created"]),
            data_name=str(values["data_name"]),
            data_hash=str(values["data_hash"]),
            camera=str(values["camera"]),
            precision=str(values["precision"]),
            recalibration=_recalibration(values["recalibration"]),
            changes_grades=bool(values["changes_grades"]),
            certificate=_certificate(values["certificate"]),
            scores=_scores(values["scores"]),
        )

    def describe(self) -> str:
        """In words, where the calibration comes from: "made of NAME (HASH) on 150 patients of my-clinic, DATE"."""
        camera = f", camera {self.camera}" if self.camera else ""
        return (
            f"made of {self.parent} (weights {self.parent_sha256[:12]}) on {self.scores.num_photographs} photographs "
            f"of {self.scores.num_patients} patients of {self.data_name}{camera}, {self.created[:10]}"
        )


def _recalibration(values: dict[str, Any]) -> Recalibration:
    slope, intercept = float(values["slope"]), float(values["intercept"])
    if not (0 < slope < math.inf and math.isfinite(intercept)):
        raise ValueError(f"slope {slope} and intercept {intercept} are no recalibration; expected a slope above 0")
    return Recalibration(slope=slope, intercept=intercept)


def _certificate(values: dict[str, Any]) -> Certificate:
    return Certificate(
        threshold=parse_proportion(values["threshold"]),
        sensitivity=parse_proportion(values["sensitivity"]),
        confidence=parse_proportion(values["confidence"]),
        num_referable=_count(values["num_referable"]),
        num_missed=_count(values["num_missed"]),
        num_others=_count(values["num_others"]),
        num_others_referred=_count(values["num_others_referred"]),
    )


def _scores(values: dict[str, Any]) -> ReferenceScores:
    quantiles = tuple(parse_proportion(each) for each in values["quantiles"])
    if not quantiles or list(quantiles) != sorted(quantiles):
        raise ValueError(f"the quantiles of {len(quantiles)} scores are not rising numbers")
    return ReferenceScores(
        quantiles=quantiles,
        num_photographs=_count(values["num_photographs"]),
        num_patients=_count(values["num_patients"]),
        design_effect=max(float(values["design_effect"]), 1.0),
    )


def _count(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no number of photographs or patients")
    return value
