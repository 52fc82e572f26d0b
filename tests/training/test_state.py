"""A run that was interrupted or killed resumes to the same weights as one that was not."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fundusgrade.commands.app import app
from fundusgrade.data.dataset import PreparedDataset, load_dataset
from fundusgrade.data.manifest import write_manifest
from fundusgrade.errors import TrainingError
from fundusgrade.networks.build import build_network, network_spec
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.options import FoldsBy
from fundusgrade.training.batches import load_splits, training_batches
from fundusgrade.training.loop import train, train_step
from fundusgrade.training.options import TrainOptions
from fundusgrade.training.state import STATE_FILE, RunState, load_state, start_run
from tests.prepared import prepared_dataset
from tests.training.short_runs import BFLOAT16, FLOAT32, QUICK, CtrlC, Quiet, equal, metrics_in, weights_in
from tests.worker_for_tests import keep_the_last, run_processes


@pytest.mark.parametrize(
    ("arch", "choice", "layer_decay"),
    [("cnn", FLOAT32, None), ("cnn", BFLOAT16, None), ("test_efficientnet", FLOAT32, None), ("test_vit", FLOAT32, 0.7)],
    ids=["cnn", "cnn-bfloat16", "efficientnet", "vit"],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, toy: PreparedDataset, arch: str, choice: DeviceChoice, layer_decay: float | None
) -> None:
    options = replace(QUICK, arch=arch, pretrained=False, layer_decay=layer_decay)
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    train(toy, options, choice, whole, observer=Quiet())
    stopped = train(toy, options, choice, parted, observer=CtrlC(2, 3))
    assert (stopped.outcome, len(stopped.history)) == ("interrupted", 1)
    torch.manual_seed(12345)  # a new process begins with other random numbers
    resumed = train(toy, options, choice, parted, observer=Quiet(), resume=True)
    assert resumed.outcome == "finished"
    assert equal(weights_in(parted), weights_in(whole))
    assert metrics_in(parted) == metrics_in(whole)
    # The last epoch need not be the best one: the state holds the weights and moments that training ended with.
    states = [safetensors.torch.load_file(folder / STATE_FILE) for folder in (parted, whole)]
    assert equal(*states)


def test_a_run_killed_within_an_epoch_resumes_to_the_same_weights(home: Path, tmp_path: Path) -> None:
    prepared_dataset(home / "datasets" / "toy")
    options = ("--arch", "cnn", "--epochs", "3", "--batch-size", "8", "--device", "cpu", "--precision", "float32")
    words = ["train", *options]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RunState, "best_epoch", keep_the_last())
        app([*words, "--name", "whole"], standalone_mode=False)
        killed = run_processes([*words, "--name", "killed"], home, tmp_path, size=1, killed_at="2,3")
        assert killed.codes == [-signal.SIGKILL], killed.stderr
        run = home / "runs" / "killed"
        assert len(metrics_in(run)) == 1
        assert not (home / "models" / "killed").exists()
        app([*words, "--name", "killed", "--resume"], standalone_mode=False)
    assert equal(weights_in(home / "models" / "killed"), weights_in(home / "models" / "whole"))
    assert metrics_in(home / "models" / "killed") == metrics_in(home / "models" / "whole")
    assert not run.exists()


def test_the_averaged_weights_are_those_of_pytorch_to_the_bit(toy: PreparedDataset) -> None:
    """PyTorch's average of the first step is its weights; each later step moves it by 1 - decay of the difference."""
    options = replace(QUICK, arch="test_efficientnet", pretrained=False, ema_decay=0.4).filled()
    run = start_run(toy, options, FLOAT32, resume=False)
    reference = AveragedModel(run.network, use_buffers=True)
    training, _ = load_splits(toy, options, FLOAT32, rows=run.network.spec.rows)
    batches = training_batches(training, 8, seed=0, epoch=1, device=torch.device("cpu"))
    for step, batch in enumerate(batches, start=1):
        train_step(run, batch, options, FLOAT32, step)
        decay = min(options.ema_decay, (1 + step) / (10 + step))
        reference.multi_avg_fn = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        reference.update_parameters(run.network)
    expected = {name: t for name, t in reference.module.state_dict().items() if t.is_floating_point()}
    assert step == 5
    assert equal({name: run.averaged_network.state_dict()[name] for name in expected}, expected)
    assert not equal({name: run.network.state_dict()[name] for name in expected}, expected)


def test_the_decay_of_the_average_warms_up(toy: PreparedDataset) -> None:
    average = start_run(toy, QUICK.filled(), FLOAT32, resume=False).average
    decays = [average.get_decay(step) for step in (1, 2, 10, 100, 890, 891, 10_000)]
    assert decays == pytest.approx([0, 3 / 12, 11 / 20, 101 / 110, 0.99, 0.99, 0.99])
    without = start_run(toy, replace(QUICK, ema_decay=0.0).filled(), FLOAT32, resume=False).average
    assert {without.get_decay(step) for step in (1, 2, 1000)} == {0.0}


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, toy: PreparedDataset) -> None:
    first = train(toy, QUICK, FLOAT32, tmp_path, observer=Quiet())
    before = weights_in(tmp_path)
    again = train(toy, QUICK, FLOAT32, tmp_path, observer=CtrlC(1, 1), resume=True)
    assert again.history == first.history
    assert again.outcome == "finished"
    assert equal(weights_in(tmp_path), before)


def test_moments_come_back_in_the_layout_of_their_parameters(tmp_path: Path, toy: PreparedDataset) -> None:
    train(toy, replace(QUICK, epochs=1), FLOAT32, tmp_path, observer=Quiet())
    options = replace(QUICK, epochs=1).filled()
    run = start_run(toy, options, FLOAT32, resume=True)
    load_state(run, tmp_path / STATE_FILE, toy, options)
    assert any(not parameter.is_contiguous() for parameter in run.network.parameters())
    for parameter in run.network.parameters():
        assert run.optimizer.state[parameter]["exp_avg"].stride() == parameter.stride()
        assert run.optimizer.state[parameter]["exp_avg_sq"].stride() == parameter.stride()


def test_a_run_resumes_without_the_file_it_started_from(tmp_path: Path, toy: PreparedDataset) -> None:
    source = build_network(network_spec("test_resnet", 32)).backbone.state_dict()
    headless = {name: tensor for name, tensor in source.items() if not name.startswith("fc.")}
    safetensors.torch.save_file(headless, tmp_path / "start.safetensors")
    options = TrainOptions(arch="test_resnet", init_weights=str(tmp_path / "start.safetensors"), epochs=2, batch_size=8)
    train(toy, options, FLOAT32, tmp_path / "whole", observer=Quiet())
    train(toy, options, FLOAT32, tmp_path / "parted", observer=CtrlC(2, 1))
    (tmp_path / "start.safetensors").unlink()
    train(toy, options, FLOAT32, tmp_path / "parted", observer=Quiet(), resume=True)
    assert equal(weights_in(tmp_path / "parted"), weights_in(tmp_path / "whole"))


def test_other_options_cannot_resume_a_run(tmp_path: Path, toy: PreparedDataset) -> None:
    train(toy, QUICK, FLOAT32, tmp_path, observer=CtrlC(2, 1))
    other = replace(QUICK, seed=4, batch_size=10)
    with pytest.raises(TrainingError, match=r"batch_size was 8, is 10; seed was 0, is 4; give the same to resume"):
        train(toy, other, FLOAT32, tmp_path, observer=Quiet(), resume=True)


def test_a_run_of_a_version_that_recorded_fewer_options_resumes_with_their_defaults(
    tmp_path: Path, toy: PreparedDataset
) -> None:
    train(toy, QUICK, FLOAT32, tmp_path, observer=CtrlC(2, 1))
    with safe_open(tmp_path / STATE_FILE, framework="pt") as file:
        header = json.loads(file.metadata()["run"])
    del header["options"]["folds_by"], header["options"]["decide_for"]
    tensors = safetensors.torch.load_file(tmp_path / STATE_FILE)
    safetensors.torch.save_file(tensors, tmp_path / STATE_FILE, {"run": json.dumps(header)})
    with pytest.raises(TrainingError, match="folds_by was group, is source"):
        train(toy, replace(QUICK, folds_by=FoldsBy.SOURCE), FLOAT32, tmp_path, observer=Quiet(), resume=True)
    train(toy, QUICK, FLOAT32, tmp_path, observer=Quiet(), resume=True)


def test_other_data_cannot_resume_a_run(tmp_path: Path) -> None:
    dataset = prepared_dataset(tmp_path / "toy")
    train(dataset, QUICK, FLOAT32, tmp_path / "run", observer=CtrlC(2, 1))
    write_manifest(dataset.directory, dataset.rows[:-1])
    changed = load_dataset(dataset.directory)
    with pytest.raises(TrainingError, match=r"'toy' has changed since this run began; .*--overwrite"):
        train(changed, QUICK, FLOAT32, tmp_path / "run", observer=Quiet(), resume=True)


def test_another_precision_may_resume_a_run(tmp_path: Path, toy: PreparedDataset) -> None:
    train(toy, QUICK, BFLOAT16, tmp_path, observer=CtrlC(2, 1))
    assert train(toy, QUICK, FLOAT32, tmp_path, observer=Quiet(), resume=True).outcome == "finished"


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-40], lambda data: b"", lambda data: b"\x80\x04pickle" * 30],
    ids=["truncated", "empty", "pickle"],
)
def test_a_damaged_state_is_an_error(tmp_path: Path, toy: PreparedDataset, damage: Callable[[bytes], bytes]) -> None:
    train(toy, QUICK, FLOAT32, tmp_path, observer=CtrlC(2, 1))
    path = tmp_path / STATE_FILE
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(TrainingError, match=r"cannot be resumed .*start it again with --overwrite"):
        train(toy, QUICK, FLOAT32, tmp_path, observer=Quiet(), resume=True)


def test_a_state_of_another_network_is_an_error(tmp_path: Path, toy: PreparedDataset) -> None:
    train(toy, QUICK, FLOAT32, tmp_path, observer=CtrlC(2, 1))
    path = tmp_path / STATE_FILE
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = safetensors.torch.load_file(path)
    tensors.pop("network.backbone.classifier.bias")
    safetensors.torch.save_file(tensors, path, metadata)
    with pytest.raises(TrainingError, match="cannot be resumed"):
        train(toy, QUICK, FLOAT32, tmp_path, observer=Quiet(), resume=True)


def test_no_state_cannot_be_resumed(tmp_path: Path, toy: PreparedDataset) -> None:
    with pytest.raises(TrainingError, match="cannot be resumed"):
        train(toy, QUICK, FLOAT32, tmp_path, observer=Quiet(), resume=True)
