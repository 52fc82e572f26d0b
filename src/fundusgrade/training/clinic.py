"""A model for a clinic: calibrated on graded photographs of the clinic's own patients, stored under its own name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fundusgrade import store
from fundusgrade.data.concatenation import open_dataset
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.leakage import TrainingFingerprints, collect_fingerprints, find_overlap
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.data.relabel import Relabeled, relabel
from fundusgrade.errors import DatasetError, TrainingError
from fundusgrade.files import now
from fundusgrade.grades import REFERABLE_FROM
from fundusgrade.grading.datasets import score_rows
from fundusgrade.grading.grader import Grader
from fundusgrade.metrics.certification import Certificate, not_certifiable, num_misses_allowed
from fundusgrade.metrics.classification import probability_from_grade
from fundusgrade.metrics.conformal import measure_conformity
from fundusgrade.metrics.drift import reference_scores
from fundusgrade.metrics.local_calibration import (
    certify_patients,
    cross_recalibrated,
    recalibrate_referable,
    recalibrated,
)
from fundusgrade.metrics.predictions import ScoredPhotographs
from fundusgrade.metrics.recalibration import Recalibration
from fundusgrade.metrics.referral import OperatingPoint, referral_scores
from fundusgrade.networks.checkpoint import Checkpoint, load_checkpoint
from fundusgrade.networks.description import CheckpointDescription
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.local_calibration import LocalCalibration
from fundusgrade.networks.model_folder import save_derived_model
from fundusgrade.networks.torch_runtime import on_pytorch

_NUM_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRequest:
    """A model by name or path, the clinic's data sets, and the name of the model to write.

    `labels` is a `reviewed.csv` whose grades take the place of those of the data sets.
    `sensitivity` is to be certified with the probability `confidence`, both 0 to 1. `camera` is a note that is stored.
    With `changes_grades` the recalibrated probabilities decide the grades too.
    """

    model: str
    data: tuple[str, ...]
    name: str
    sensitivity: float = 0.90
    confidence: float = 0.90
    labels: Path | None = None
    camera: str = ""
    changes_grades: bool = False
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Participants:
    """The photographs of the patients who take part, and how many patients are left out, by reason.

    `num_unreadable` patients have a photograph without an image, `num_unlabeled` one without a grade.
    """

    rows: tuple[ManifestRow, ...]
    num_unreadable: int
    num_unlabeled: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibrated:
    """The file of the new model, its calibration, the patients, and their photographs before and after.

    `after` is cross-validated: each photograph with a recalibration that was fitted without its patient.
    `relabeled` says how a reader's labels were used, None without any.
    `training_is_known` where the model says which photographs it was trained on, so that leakage was looked for.
    """

    path: Path
    calibration: LocalCalibration
    participants: Participants
    before: ScoredPhotographs
    after: ScoredPhotographs
    training_is_known: bool
    relabeled: Relabeled | None = None


def calibrate_for_clinic(request: CalibrationRequest, choice: DeviceChoice) -> Calibrated:
    """Write a model whose sensitivity is certified on a clinic's patients, with recalibrated probabilities.

    Raises TrainingError where the sensitivity is not certifiable, or the model is calibrated for a clinic already,
    DatasetError where patients are not known or were used to train the model, and MetricsError for a sensitivity or
    confidence that is none.
    """
    source = store.resolve_model(request.model)
    target = store.folder_of_new_model(request.name, overwrite=request.overwrite, inputs=[source])
    parent, dataset = load_checkpoint(source), open_dataset(request.data)
    relabeled = None if request.labels is None else relabel(dataset, request.labels)
    dataset = dataset if relabeled is None else relabeled.dataset
    check_not_calibrated(parent.description)
    participants = find_participants(dataset)
    _check_unseen(parent, dataset, participants.rows)
    _check_certifiable(request, participants.rows)
    before = score_rows(Grader(on_pytorch(parent, choice)), dataset, participants.rows)
    thresholds, changes_grades = parent.description.thresholds, request.changes_grades
    recalibration = recalibrate_referable(before)
    fitted = recalibrated(before, recalibration, thresholds, grades=changes_grades)
    after = cross_recalibrated(before, thresholds, grades=changes_grades)
    certificate = certify_patients(fitted, sensitivity=request.sensitivity, confidence=request.confidence)
    assert isinstance(certificate, Certificate), "there are enough referable patients"
    precision = choice.precision.value
    description = _describe(request, parent.description, dataset, fitted, recalibration, certificate, precision)
    if changes_grades:
        conformity = measure_conformity(after.probabilities, after.grades, after.predicted)
        description = replace(description, conformity=conformity)
    fingerprints = _used(parent.fingerprints, collect_fingerprints(dataset, participants.rows))
    path = save_derived_model(target, parent, description, fingerprints)
    assert description.local_calibration is not None, "it has just been described"
    return Calibrated(
        path=path,
        calibration=description.local_calibration,
        participants=participants,
        before=before,
        after=after,
        training_is_known=parent.fingerprints.is_known,
        relabeled=relabeled,
    )


def _describe(
    request: CalibrationRequest,
    parent: CheckpointDescription,
    dataset: PreparedDataset,
    fitted: ScoredPhotographs,
    recalibration: Recalibration,
    certificate: Certificate,
    precision: str,
) -> CheckpointDescription:
    """The description of the new model, from photographs with recalibrated probabilities."""
    referable = probability_from_grade(fitted.probabilities, REFERABLE_FROM)
    scores = referral_scores([dataset.name] * len(fitted), fitted.grades, referable, fitted.groups)
    calibration = LocalCalibration(
        parent=parent.name,
        parent_sha256=parent.weights_sha256,
        created=now(),
        data_name=dataset.name,
        data_hash=dataset.hash,
        camera=request.camera,
        precision=precision,
        recalibration=recalibration,
        changes_grades=request.changes_grades,
        certificate=certificate,
        scores=reference_scores(referable, fitted.groups),
    )
    point = OperatingPoint(threshold=certificate.threshold, chosen_on=scores).at_threshold(certificate.threshold)
    return replace(
        parent,
        name=request.name,
        local_calibration=calibration,
        operating_point=replace(point, sensitivity=certificate.sensitivity),
    )


def _used(parent: TrainingFingerprints, of_clinic: TrainingFingerprints) -> TrainingFingerprints:
    """The photographs that the new model was made with: the clinic's too, so that it is not evaluated on them.

    Where the parent's own are not known, the list would be incomplete, and is left out.
    """
    return parent.joined(of_clinic) if parent.is_known else parent


def check_not_calibrated(description: CheckpointDescription) -> None:
    """Raise TrainingError where a model has a clinic's calibration: what is fitted belongs to the model without it."""
    calibration = description.local_calibration
    if calibration is not None:
        raise TrainingError(
            f"{description.name!r} is calibrated for a clinic already, on {calibration.data_name!r}; name the model "
            f"that it was made of, {calibration.parent!r}"
        )


def _check_unseen(parent: Checkpoint, dataset: PreparedDataset, rows: Sequence[ManifestRow]) -> None:
    """Raise DatasetError where the model was trained on these patients: it would find them too easily."""
    overlap = find_overlap(parent.fingerprints, dataset, rows)
    if overlap.sources:
        named = ", ".join(overlap.sources[:_NUM_NAMED])
        raise DatasetError(
            f"{len(overlap.sources)} of {len(rows)} photographs of {dataset.name!r}, copies of them or other "
            f"photographs of their patients were used to train or select {parent.description.name!r}, such as {named}; "
            "its sensitivity among them says nothing about other patients: name other photographs with --data"
        )


def _check_certifiable(request: CalibrationRequest, rows: Sequence[ManifestRow]) -> None:
    """Raise TrainingError where there are too few referable patients: that is known before the network runs."""
    num_referable = len({row.group for row in rows if row.grade is not None and row.grade >= REFERABLE_FROM})
    sensitivity, confidence = request.sensitivity, request.confidence
    if num_misses_allowed(num_referable, sensitivity, confidence) is None:
        found = not_certifiable(num_referable, sensitivity=sensitivity, confidence=confidence)
        best = found.best_to_ask_for
        remedy = "grade more patients" + (f", or ask for --sensitivity {best:.2f}" if best > 0 else "")
        raise TrainingError(f"{found.describe()}; {remedy}")


def find_participants(dataset: PreparedDataset) -> Participants:
    """The photographs of all patients of whom every photograph has an image and a grade.

    Raises DatasetError where a photograph has no patient, or no patient is left.
    """
    without = [row.source for row in dataset.rows if row.patient is None]
    if without:
        raise DatasetError(
            f"{len(without)} photographs of {dataset.name!r} have no patient, such as "
            f"{', '.join(without[:_NUM_NAMED])}: a certificate is for patients; prepare the data set with a column of "
            "patients (`fundusgrade preprocess --patient-column`); if each photograph is of another patient, with a "
            "column of their file names"
        )
    of_patient: dict[int, list[ManifestRow]] = defaultdict(list)
    for row in dataset.rows:
        of_patient[row.group].append(row)
    # A photograph without a grade has an error too: that of its label.
    unlabeled = {group for group, rows in of_patient.items() if any(row.grade is None for row in rows)}
    unreadable = {group for group, rows in of_patient.items() if any(row.error is not None for row in rows)} - unlabeled
    left_out = unreadable | unlabeled
    rows = tuple(row for row in dataset.rows if row.group not in left_out)
    if not rows:
        raise DatasetError(
            f"{dataset.name!r} has no patient of whom every photograph has an image and a grade "
            f"({len(unreadable)} with a photograph that could not be prepared, {len(unlabeled)} with one without a "
            "grade); grade all photographs of a patient"
        )
    return Participants(rows=rows, num_unreadable=len(unreadable), num_unlabeled=len(unlabeled))
