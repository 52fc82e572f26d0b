"""A clinic's model refers the patients of its certificate, keeps the parent's grades, and says where it comes from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fundusgrade import store
from fundusgrade.data.dataset import PreparedDataset, load_dataset
from fundusgrade.data.leakage import TrainingFingerprints, collect_fingerprints, find_overlap
from fundusgrade.data.manifest import ManifestRow, write_manifest
from fundusgrade.errors import CheckpointError, DatasetError, StoreError, TrainingError
from fundusgrade.grades import Grade
from fundusgrade.grading.datasets import score_rows
from fundusgrade.grading.grader import Grader
from fundusgrade.metrics.classification import probability_from_grade
from fundusgrade.metrics.local_calibration import score_patients
from fundusgrade.metrics.predictions import ScoredPhotographs
from fundusgrade.networks.checkpoint import load_checkpoint, save_checkpoint
from fundusgrade.networks.model_card import model_card
from fundusgrade.networks.torch_runtime import on_pytorch
from fundusgrade.photographs.recipe import Method, PreprocessRecipe
from fundusgrade.training.clinic import CalibrationRequest, calibrate_for_clinic, find_participants
from tests.models_for_tests import SIZE_PX, install_model
from tests.prepared import memory_row, prepared_dataset
from tests.training.short_runs import FLOAT32

RECIPE = PreprocessRecipe(method=Method.NATURAL, size_px=SIZE_PX)
REQUEST = CalibrationRequest(model="tiny", data=("clinic",), name="my-clinic", sensitivity=0.8, camera="a camera")


@pytest.fixture
def clinic(home: Path) -> PreparedDataset:
    """Forty patients with two eyes, sixteen of them referable, and a model with random weights and fingerprints."""
    directory = home / "datasets" / "clinic"
    dataset = prepared_dataset(
        directory, num_train=80, num_validation=0, recipe=RECIPE, grades=(0, 0, 1, 0, 2, 3, 4, 1, 0, 1)
    )
    rows = [replace(row, patient=f"p{number // 2}", group=number // 2) for number, row in enumerate(dataset.rows)]
    write_manifest(directory, rows)
    path = install_model()
    give_fingerprints(path, [memory_row(1, grade=Grade.NONE, group=1)], dataset)
    return load_dataset(directory)


def give_fingerprints(path: Path, rows: list[ManifestRow], dataset: PreparedDataset) -> TrainingFingerprints:
    """Make a model one that was trained on these photographs."""
    checkpoint, fingerprints = load_checkpoint(path), collect_fingerprints(dataset, rows)
    save_checkpoint(path, checkpoint.network, checkpoint.description, fingerprints=fingerprints)
    return fingerprints


def graded(model: str, dataset: PreparedDataset) -> ScoredPhotographs:
    checkpoint = load_checkpoint(store.resolve_model(model))
    return score_rows(Grader(on_pytorch(checkpoint, FLOAT32)), dataset, dataset.rows)


def test_the_stored_point_refers_exactly_the_patients_of_the_certificate(clinic: PreparedDataset) -> None:
    certificate = calibrate_for_clinic(REQUEST, FLOAT32).calibration.certificate
    patients = score_patients(graded("my-clinic", clinic))
    point = load_checkpoint(store.resolve_model("my-clinic")).description.operating_point
    assert point is not None and point.threshold == certificate.threshold and point.sensitivity == 0.8
    referred = patients.scores >= point.threshold
    assert patients.is_referable.sum() == certificate.num_referable == 16
    assert (patients.is_referable & ~referred).sum() == certificate.num_missed
    assert (~patients.is_referable & referred).sum() == certificate.num_others_referred
    assert certificate.lower_bound >= 0.8


def test_probabilities_are_recalibrated_and_grades_stay_unless_they_are_asked_for(clinic: PreparedDataset) -> None:
    found = calibrate_for_clinic(REQUEST, FLOAT32)
    calibrate_for_clinic(replace(REQUEST, name="regraded", changes_grades=True), FLOAT32)
    before, after, regraded = (graded(name, clinic) for name in ("tiny", "my-clinic", "regraded"))
    expected = found.calibration.recalibration.apply(before.probabilities)
    np.testing.assert_allclose(after.probabilities, expected, atol=1e-6)
    assert np.abs(after.probabilities - before.probabilities).max() > 0.05
    assert (after.predicted == before.predicted).all()
    assert (regraded.predicted == regraded.probabilities.argmax(axis=1)).all()
    assert (regraded.predicted != before.predicted).any()


def test_a_single_photograph_gets_the_probabilities_and_the_grade_of_the_data_set(clinic: PreparedDataset) -> None:
    calibrate_for_clinic(REQUEST, FLOAT32)
    photographs = [np.full((200, 200, 3), 0, np.uint8) for _ in range(2)]
    axis = np.arange(200) - 99.5
    for number, photograph in enumerate(photographs):
        photograph[axis**2 + axis[:, None] ** 2 < 90**2] = (200 - 60 * number, 80, 40)
    parent, own = (
        Grader(on_pytorch(load_checkpoint(store.resolve_model(name)), FLOAT32)) for name in ("tiny", "my-clinic")
    )
    for before, after in zip(parent.grade_images(photographs), own.grade_images(photographs), strict=True):
        assert after.grade == before.grade  # type: ignore[union-attr]
        assert after.before_recalibration == before.probabilities  # type: ignore[union-attr]
        assert "before recalibration" in after.decided_by  # type: ignore[union-attr]
        calibration = own.description.local_calibration
        assert calibration is not None
        expected = calibration.recalibration.apply(np.array([before.probabilities]))[0]  # type: ignore[union-attr]
        assert after.probabilities == pytest.approx(tuple(expected))  # type: ignore[union-attr]


def test_the_model_says_of_which_model_on_which_patients_with_which_camera(clinic: PreparedDataset) -> None:
    parent = load_checkpoint(store.resolve_model("tiny")).description
    found = calibrate_for_clinic(REQUEST, FLOAT32)
    stored = load_checkpoint(found.path).description
    calibration = stored.local_calibration
    assert calibration == found.calibration
    assert (calibration.parent, calibration.parent_sha256) == ("tiny", parent.weights_sha256)
    assert (calibration.data_name, calibration.data_hash, calibration.camera) == ("clinic", clinic.hash, "a camera")
    assert (calibration.scores.num_photographs, calibration.scores.num_patients) == (80, 40)
    card = (found.path.parent / "README.md").read_text()
    assert card == model_card(stored)
    assert "on 80 photographs of 40 patients of clinic, camera a camera" in card
    assert "a sensitivity of 0.8 is certified at a confidence of 0.9" in card
    assert f"from p = {calibration.certificate.threshold:.4f}, certified on the patients of a clinic" in card


def test_scores_after_are_cross_validated(clinic: PreparedDataset) -> None:
    found = calibrate_for_clinic(REQUEST, FLOAT32)
    in_sample = found.calibration.recalibration.apply(found.before.probabilities)
    difference = np.abs(probability_from_grade(in_sample - found.after.probabilities, 2))
    assert 1e-4 < difference.max() < 0.3, "other folds fit similar, but other recalibrations"


def test_a_sensitivity_that_the_patients_cannot_certify_writes_no_model(clinic: PreparedDataset) -> None:
    with pytest.raises(TrainingError, match=r"needs 6 more referable patients \(16 of 22\).*--sensitivity 0\.86"):
        calibrate_for_clinic(replace(REQUEST, sensitivity=0.9), FLOAT32)
    assert not store.model_directory("my-clinic").exists()


def test_patients_on_whom_the_model_was_trained_are_refused(clinic: PreparedDataset) -> None:
    give_fingerprints(store.resolve_model("tiny"), [clinic.rows[4]], clinic)
    with pytest.raises(DatasetError, match=r"2 of 80 photographs of 'clinic'.*0004\.jpg, 0005\.jpg"):
        calibrate_for_clinic(REQUEST, FLOAT32)


def test_the_clinics_photographs_count_as_used_for_the_new_model(clinic: PreparedDataset) -> None:
    found = calibrate_for_clinic(REQUEST, FLOAT32)
    fingerprints = load_checkpoint(found.path).fingerprints
    assert len(fingerprints.files) == 81
    assert len(find_overlap(fingerprints, clinic, clinic.rows).sources) == 80


def test_a_model_of_a_clinic_is_neither_calibrated_again_nor_replaced_unasked(clinic: PreparedDataset) -> None:
    calibrate_for_clinic(REQUEST, FLOAT32)
    with pytest.raises(StoreError, match="--overwrite"):
        calibrate_for_clinic(REQUEST, FLOAT32)
    with pytest.raises(TrainingError, match=r"calibrated for a clinic already, on 'clinic'.*'tiny'"):
        calibrate_for_clinic(replace(REQUEST, model="my-clinic", name="again"), FLOAT32)


def test_test_time_augmentation_would_leave_the_certificate_behind(clinic: PreparedDataset) -> None:
    found = calibrate_for_clinic(REQUEST, FLOAT32)
    with pytest.raises(CheckpointError, match="--tta"):
        Grader(on_pytorch(load_checkpoint(found.path), FLOAT32), tta=True)


def test_patients_take_part_only_with_all_their_photographs(clinic: PreparedDataset) -> None:
    rows = list(clinic.rows)
    rows[3] = replace(rows[3], error="no retina found", image="")
    rows[10] = replace(rows[10], grade=None, error="grade '' is not one of 0-4")
    found = find_participants(replace(clinic, rows=tuple(rows)))
    assert {row.group for row in clinic.rows} - {row.group for row in found.rows} == {1, 5}
    assert (found.num_unreadable, found.num_unlabeled) == (1, 1)
    with pytest.raises(DatasetError, match=r"have no patient, such as 0000\.jpg"):
        find_participants(replace(clinic, rows=(replace(rows[0], patient=None), *rows[1:])))
    with pytest.raises(DatasetError, match="grade all photographs of a patient"):
        find_participants(replace(clinic, rows=(rows[2], rows[3])))
