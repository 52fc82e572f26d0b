"""The model of a run: it records where it comes from, and is calibrated and scored as it will grade."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from fundusgrade import store
from fundusgrade.data import splits
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.leakage import find_overlap
from fundusgrade.data.splits import held_out_half
from fundusgrade.metrics.classification import decide_grades, evaluate_predictions
from fundusgrade.metrics.conformal import NO_CONFORMITY, measure_conformity
from fundusgrade.metrics.referral import choose_operating_point, referral_scores
from fundusgrade.networks.build import build_network, network_spec
from fundusgrade.networks.checkpoint import load_checkpoint
from fundusgrade.networks.heads import UNCALIBRATED
from fundusgrade.networks.inference import predict_outputs, predict_probabilities
from fundusgrade.networks.tensors import load_images
from fundusgrade.options import Decision, Head, Recipe
from fundusgrade.training.calibration import fit_calibration
from fundusgrade.training.decision import RatedOutputs, fit_rule
from fundusgrade.training.loop import train
from fundusgrade.training.options import TrainOptions
from fundusgrade.training.validation import log_loss
from tests.prepared import prepared_dataset
from tests.training.short_runs import FLOAT32, QUICK, UNFITTED, Quiet


def test_what_is_recorded_is_what_the_saved_weights_give(tmp_path: Path, toy: PreparedDataset) -> None:
    options = replace(UNFITTED, decision=Decision.MOST_PROBABLE)
    result = train(toy, options, FLOAT32, tmp_path / "run", observer=Quiet())
    checkpoint = load_checkpoint(tmp_path / "run" / store.MODEL_FILE)
    validation = load_images(toy, toy.graded_rows("validation"))
    probabilities = predict_probabilities(checkpoint.network, validation.pixels, FLOAT32)
    evaluation = evaluate_predictions(validation.grades.numpy(), probabilities)
    best = result.history[result.best_epoch - 1]
    assert evaluation.kappa == best.validation_kappa
    assert evaluation.accuracy == best.validation_accuracy
    recorded = checkpoint.description.provenance.metrics
    assert recorded["validation_kappa"] == best.validation_kappa
    assert recorded["best_epoch"] == result.best_epoch


def test_the_checkpoint_says_where_it_comes_from(tmp_path: Path, toy: PreparedDataset) -> None:
    train(toy, replace(QUICK, epochs=1, seed=5), FLOAT32, tmp_path / "run", observer=Quiet())
    description = load_checkpoint(tmp_path / "run" / store.MODEL_FILE).description
    provenance = description.provenance
    assert (description.name, description.recipe) == ("run", toy.recipe)
    assert (provenance.data_name, provenance.data_hash, provenance.init) == ("toy", toy.hash, "random")
    assert provenance.options["seed"] == 5
    assert provenance.options["class_weights"] == "sqrt"
    assert (provenance.options["device"], provenance.options["precision"]) == ("cpu", "float32")
    assert provenance.versions["torch"] == torch.__version__


def test_a_start_from_a_file_is_recorded_without_its_folder(tmp_path: Path, toy: PreparedDataset) -> None:
    torch.manual_seed(1)  # not the run's own seed: weights that equal its random start count as not in the file
    source = build_network(network_spec("test_resnet", 32)).backbone.state_dict()
    headless = {name: tensor for name, tensor in source.items() if not name.startswith("fc.")}
    path = tmp_path / "elsewhere" / "start.safetensors"
    path.parent.mkdir()
    safetensors.torch.save_file(headless, path)
    options = TrainOptions(arch="test_resnet", init_weights=str(path), epochs=1, batch_size=20)
    train(toy, options, FLOAT32, tmp_path / "run", observer=Quiet())
    description = load_checkpoint(tmp_path / "run" / store.MODEL_FILE).description
    assert description.provenance.init == "start.safetensors"
    assert "elsewhere" not in description.to_json()


@pytest.mark.parametrize("head", list(Head))
@pytest.mark.parametrize("decision", list(Decision))
def test_the_saved_model_is_calibrated_and_scored_as_it_will_grade(
    tmp_path: Path, head: Head, decision: Decision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "FEWEST_TO_HALVE", 20)
    dataset = prepared_dataset(tmp_path / "toy", grades=(0, 0, 0, 0, 2, 0, 0, 4, 1, 3))
    options = replace(QUICK, epochs=1, head=head, decision=decision)
    train(dataset, options, FLOAT32, tmp_path / "run", observer=Quiet())
    checkpoint = load_checkpoint(tmp_path / "run" / store.MODEL_FILE)
    description, metrics = checkpoint.description, checkpoint.description.provenance.metrics
    rows = dataset.graded_rows("validation")
    everyone = load_images(dataset, rows)
    held_out = held_out_half(np.array([row.group for row in rows]), everyone.grades.numpy())
    assert 0 < held_out.sum() < len(rows)
    probabilities = predict_probabilities(checkpoint.network, everyone.pixels[held_out], FLOAT32)
    grades = everyone.grades.numpy()[held_out]
    scored = evaluate_predictions(grades, probabilities, description.thresholds)
    assert (metrics["validation_kappa"], metrics["validation_accuracy"]) == (scored.kappa, scored.accuracy)
    assert (description.thresholds is None) == (decision is Decision.MOST_PROBABLE)
    assert metrics["validation_loss"] == pytest.approx(log_loss(grades, probabilities))
    decided = decide_grades(probabilities, description.thresholds)
    assert description.conformity == measure_conformity(probabilities, grades, decided)
    # The operating point is chosen on the other half, and measured on this one.
    point, referable = (
        description.operating_point,
        predict_probabilities(checkpoint.network, everyone.pixels, FLOAT32)[:, 2:].sum(axis=1),
    )
    data, groups = [dataset.name] * len(rows), np.array([row.group for row in rows])
    parts = [
        referral_scores(data[: part.sum()], everyone.grades.numpy()[part], referable[part], groups[part])
        for part in (~held_out, held_out)
    ]
    assert point == choose_operating_point(*parts) and point is not None and point.sensitivity == 0.9
    # The rule is fitted on the other half: what it grades changes nothing in it.
    outputs = predict_outputs(checkpoint.network, everyone.pixels[~held_out], FLOAT32)
    rated = RatedOutputs(outputs=outputs, grades=everyone.grades.numpy()[~held_out], groups=np.zeros(0, np.int64))
    num_training = np.bincount([int(row.grade or 0) for row in dataset.graded_rows("train")], minlength=5)
    rule = fit_rule(checkpoint.network.spec, rated, num_training, options.filled())
    fitted = checkpoint.network.spec.calibration
    for name in ("temperature", "offsets", "cutpoints", "slopes", "intercepts"):
        assert getattr(fitted, name) == pytest.approx(getattr(rule.calibration, name), rel=1e-3, abs=1e-3)
    if description.thresholds is not None:
        assert description.thresholds == pytest.approx(rule.thresholds, abs=0.05)


def test_a_validation_split_too_small_to_halve_chooses_as_a_whole(tmp_path: Path, toy: PreparedDataset) -> None:
    result = train(toy, replace(QUICK, epochs=1), FLOAT32, tmp_path / "run", observer=Quiet())
    checkpoint = load_checkpoint(tmp_path / "run" / store.MODEL_FILE)
    description = checkpoint.description
    assert description.conformity == NO_CONFORMITY
    assert description.operating_point is not None and not description.operating_point.is_held_out
    assert description.provenance.metrics["validation_loss"] == result.history[0].validation_loss, "cross-fitted"
    images = load_images(toy, toy.graded_rows("validation"))
    outputs = predict_outputs(checkpoint.network, images.pixels, FLOAT32)
    fitted = fit_calibration(
        Head.CUMULATIVE, outputs, images.grades.numpy(), np.ones(5, np.int64), class_weight_power=0
    )
    assert description.network.calibration.slopes == pytest.approx(fitted.slopes, rel=1e-3)
    assert description.network.calibration.intercepts == pytest.approx(fitted.intercepts, abs=1e-3)


def test_the_reference_recipe_fits_nothing(tmp_path: Path, toy: PreparedDataset) -> None:
    train(toy, replace(QUICK, recipe=Recipe.REFERENCE, epochs=1), FLOAT32, tmp_path, observer=Quiet())
    description = load_checkpoint(tmp_path / store.MODEL_FILE).description
    assert description.network.calibration == UNCALIBRATED
    assert (description.thresholds, description.conformity) == (None, NO_CONFORMITY)
    assert description.operating_point is None
    recorded = description.provenance.options
    assert (recorded["loss"], recorded["class_weights"]) == ("cross-entropy", "inverse")


def test_a_model_has_fingerprints_of_training_and_validation_photographs(tmp_path: Path, toy: PreparedDataset) -> None:
    train(toy, replace(QUICK, epochs=1), FLOAT32, tmp_path, observer=Quiet())
    fingerprints = load_checkpoint(tmp_path / store.MODEL_FILE).fingerprints
    used = (*toy.graded_rows("train"), *toy.graded_rows("validation"))
    assert set(find_overlap(fingerprints, toy, used).sources) == {row.source for row in used}
    assert find_overlap(fingerprints, toy, toy.graded_rows("test")).files == ()
