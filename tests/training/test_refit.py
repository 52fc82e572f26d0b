"""A model calibrated on out-of-fold outputs has its own weights, and a rule fitted to what the folds' networks say."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console

from fundusgrade import files, store
from fundusgrade.data.dataset import PreparedDataset, load_dataset
from fundusgrade.data.manifest import write_manifest
from fundusgrade.errors import StoreError, TrainingError
from fundusgrade.metrics.predictions import fold_name
from fundusgrade.networks.checkpoint import load_checkpoint
from fundusgrade.networks.inference import predict_outputs
from fundusgrade.networks.tensors import load_images
from fundusgrade.options import DecideFor, Decision, DeviceName, Precision
from fundusgrade.training import decision, runs
from fundusgrade.training.cross_validation import cross_validate
from fundusgrade.training.decision import RatedOutputs, fit_rule
from fundusgrade.training.loop import TrainResult
from fundusgrade.training.options import TrainOptions
from fundusgrade.training.refit import RefitRequest, refit_model
from fundusgrade.training.runs import RunRequest, plan_run, run_training
from tests.prepared import prepared_dataset
from tests.training.short_runs import FLOAT32
from tests.worker_for_tests import always_learned

OPTIONS = TrainOptions(arch="cnn", epochs=1, batch_size=8, num_folds=2)
REQUEST = RefitRequest(model="toy-cnn", folds="folds", name="new")


@pytest.fixture
def toy(home: Path, monkeypatch: pytest.MonkeyPatch) -> PreparedDataset:
    """A data set, a model of it, and a cross-validation in the store."""
    monkeypatch.setattr(runs, "draw_training_curves", lambda *_: None)
    monkeypatch.setattr(TrainResult, "has_learned", always_learned())
    dataset = prepared_dataset(home / "datasets" / "toy", num_train=24, num_validation=12)
    rows = [replace(row, sha256=files.hash_text(row.source), group=number) for number, row in enumerate(dataset.rows)]
    rows[0] = replace(rows[0], split="test")
    write_manifest(dataset.directory, rows)
    console, cpu = Console(file=io.StringIO()), DeviceName.CPU
    run_training(plan_run(RunRequest(options=OPTIONS)), device=cpu, precision=Precision.FLOAT32, console=console)
    folds = RunRequest(options=OPTIONS, name="folds")
    cross_validate(folds, device=cpu, precision=Precision.FLOAT32, console=console)
    return load_dataset(dataset.directory)


def test_the_rule_is_fitted_to_outputs_of_networks_that_did_not_train_on_the_photograph(toy: PreparedDataset) -> None:
    found = refit_model(replace(REQUEST, decision=Decision.THRESHOLDS), FLOAT32)
    before, after = (load_checkpoint(store.resolve_model(name)) for name in ("toy-cnn", "new"))
    outputs, grades = [], []
    for fold in (1, 2):
        rows = [row for row in toy.with_fold(fold, 2).graded_rows("test") if row.source != toy.rows[0].source]
        images = load_images(toy, rows)
        network = load_checkpoint(store.resolve_model(fold_name("folds", fold))).network
        outputs.append(predict_outputs(network, images.pixels, FLOAT32))
        grades.append(images.grades.numpy())
    rated = RatedOutputs(outputs=torch.cat(outputs), grades=np.concatenate(grades), groups=np.arange(35))
    num_training = np.bincount([int(row.grade or 0) for row in toy.graded_rows("train")], minlength=5)
    options = replace(OPTIONS, decision=Decision.THRESHOLDS).filled()
    rule = fit_rule(before.network.spec, rated, num_training, options)
    fitted = after.network.spec.calibration
    assert fitted.slopes == pytest.approx(rule.calibration.slopes, rel=1e-4)
    assert fitted.intercepts == pytest.approx(rule.calibration.intercepts, abs=1e-4)
    assert after.description.thresholds == pytest.approx(rule.thresholds, abs=0.05)
    assert len(after.description.conformity.sets) == 35
    point = after.description.operating_point
    assert point is not None and sum(scores.num_photographs for scores in (*point.chosen_on, *point.held_out)) == 35
    assert {scores.data for scores in point.chosen_on} == {"toy"}
    assert after.description.provenance.options["calibrated_on"] == "folds"
    assert "35 photographs out of fold" in found.summary and str(found.path) in found.summary
    weights = before.network.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in after.network.state_dict().items())


@pytest.mark.usefixtures("toy")
def test_what_does_not_fit_the_model_is_refused() -> None:
    with pytest.raises(TrainingError, match="no cross-validation 'none' in the store"):
        refit_model(replace(REQUEST, folds="none"), FLOAT32)
    with pytest.raises(StoreError, match="a model 'toy-cnn' is in the store"):
        refit_model(replace(REQUEST, name="toy-cnn"), FLOAT32)
    (store.model_directory(fold_name("folds", 2)) / store.MODEL_FILE).unlink()
    with pytest.raises(TrainingError, match="the fold 'folds-fold2' is not in the store"):
        refit_model(REQUEST, FLOAT32)


@pytest.mark.usefixtures("toy")
def test_thresholds_are_fitted_for_an_objective_and_it_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    objectives = []

    def spy(grades: NDArray[np.int64], expected: NDArray[np.float64], decide_for: DecideFor) -> tuple[float, ...]:
        objectives.append(decide_for)
        return (0.5, 1.5, 2.5, 3.5)

    monkeypatch.setattr(decision, "fit_thresholds", spy)
    refit_model(replace(REQUEST, decide_for=DecideFor.MACRO_F1), FLOAT32)
    refitted = load_checkpoint(store.resolve_model("new")).description
    assert set(objectives) == {DecideFor.MACRO_F1} and refitted.decide_for is DecideFor.MACRO_F1
    assert refitted.provenance.options["decision"] == "thresholds"
    objectives.clear()
    refit_model(replace(REQUEST, model="new", name="again"), FLOAT32)
    assert set(objectives) == {DecideFor.MACRO_F1}, "the model's own"
    refit_model(replace(REQUEST, model="new", name="plain", decision=Decision.MOST_PROBABLE), FLOAT32)
    plain = load_checkpoint(store.resolve_model("plain")).description
    assert plain.thresholds is None and plain.decide_for is None
    with pytest.raises(TrainingError, match="thresholds are decided for kappa, and the decision is by the most-prob"):
        refit_model(replace(REQUEST, name="x", decision=Decision.MOST_PROBABLE, decide_for=DecideFor.KAPPA), FLOAT32)
