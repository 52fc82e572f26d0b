"""The operating point of a finished model is chosen as the end of training chooses it."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from fundusgrade import files, store
from fundusgrade.data import splits
from fundusgrade.data.manifest import write_manifest
from fundusgrade.errors import TrainingError
from fundusgrade.networks.checkpoint import load_checkpoint, replace_description
from fundusgrade.options import DeviceName, Precision
from fundusgrade.training import runs
from fundusgrade.training.loop import TrainResult
from fundusgrade.training.operating_point import add_operating_point
from fundusgrade.training.options import TrainOptions
from fundusgrade.training.runs import RunRequest, plan_run, run_training
from tests.prepared import prepared_dataset
from tests.training.short_runs import FLOAT32
from tests.worker_for_tests import always_learned

OPTIONS = TrainOptions(arch="cnn", epochs=1, batch_size=8)


@pytest.fixture
def trained(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model in the store of two data sets, whose validation split is halved."""
    monkeypatch.setattr(runs, "draw_training_curves", lambda *_: None)
    monkeypatch.setattr(TrainResult, "has_learned", always_learned())
    monkeypatch.setattr(splits, "FEWEST_TO_HALVE", 20)
    for name in ("first", "second"):
        dataset = prepared_dataset(home / "datasets" / name, num_train=10, num_validation=15)
        rows = [
            replace(row, sha256=files.hash_text(f"{name} {row.source}"), group=number)
            for number, row in enumerate(dataset.rows)
        ]
        write_manifest(dataset.directory, rows)
    request = RunRequest(options=OPTIONS, data=("first", "second"), name="both")
    run_training(
        plan_run(request), device=DeviceName.CPU, precision=Precision.FLOAT32, console=Console(file=io.StringIO())
    )
    return store.resolve_model("both")


def test_a_finished_model_gets_the_point_that_its_training_chose(trained: Path) -> None:
    before = load_checkpoint(trained)
    point = before.description.operating_point
    assert point is not None and point.is_held_out
    assert [each.data for each in point.rates] == ["", "first", "second"]
    replace_description(trained, replace(before.description, operating_point=None))
    assert add_operating_point("both", FLOAT32) == point
    after = load_checkpoint(trained)
    assert after.description == before.description
    weights = before.network.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in after.network.state_dict().items())
    other = add_operating_point("both", FLOAT32, sensitivity=0.5)
    assert other == point.at_sensitivity(0.5) == load_checkpoint(trained).description.operating_point


def test_data_that_did_not_train_the_model_are_refused(trained: Path) -> None:
    with pytest.raises(TrainingError, match=r"'first' is not the one that 'both' was trained with .* name the data"):
        add_operating_point("both", FLOAT32, data=["first"])
    assert load_checkpoint(trained).description.operating_point is not None
