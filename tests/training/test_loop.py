"""Training learns, keeps its best epoch, and stops where it should."""

from __future__ import annotations

import functools
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from fundusgrade import store
from fundusgrade.data.concatenation import concatenate_datasets
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.errors import DatasetError, TrainingError, WeightsUnavailableError
from fundusgrade.networks.build import build_network, network_spec
from fundusgrade.networks.checkpoint import load_checkpoint
from fundusgrade.networks.device import DeviceChoice, choose_device
from fundusgrade.networks.inference import to_memory_format
from fundusgrade.networks.tensors import load_images
from fundusgrade.options import ClassWeights, DeviceName, Loss
from fundusgrade.training import loop, validation
from fundusgrade.training.batches import load_splits, training_batches
from fundusgrade.training.history import METRICS_FILE, EpochRecord, read_history
from fundusgrade.training.loop import TrainResult, train, train_step
from fundusgrade.training.losses import class_weights, graded_loss
from fundusgrade.training.mosaic import TRAIN_BATCH_FILE
from fundusgrade.training.options import TrainOptions
from fundusgrade.training.state import STATE_FILE, start_run
from tests.prepared import prepared_dataset
from tests.training.short_runs import BFLOAT16, FLOAT32, QUICK, UNFITTED, CtrlC, Quiet, equal, metrics_in, weights_in


class Recorder(Quiet):
    """Keeps the saved model after each epoch, and whether the epoch was the best."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.models: list[dict[str, Tensor]] = []
        self.bests: list[bool] = []

    def epoch_done(self, record: EpochRecord, is_best: bool) -> None:
        self.models.append(safetensors.torch.load_file(self.directory / store.MODEL_FILE))
        self.bests.append(is_best)


def scripted(monkeypatch: pytest.MonkeyPatch, kappas: list[float | None], losses: list[float] | None = None) -> None:
    """Let validation find these kappas and losses; without losses they are all equal."""
    remaining, remaining_losses = iter(kappas), iter(losses or [1.0] * len(kappas))
    monkeypatch.setattr(
        validation, "evaluate_predictions", lambda *_, **__: SimpleNamespace(kappa=next(remaining), accuracy=0.5)
    )
    monkeypatch.setattr(validation, "log_loss", lambda *_: next(remaining_losses))


@pytest.mark.parametrize("choice", [FLOAT32, BFLOAT16], ids=["float32", "bfloat16"])
def test_training_learns_what_can_be_learned(tmp_path: Path, choice: DeviceChoice) -> None:
    dataset = prepared_dataset(tmp_path / "toy", num_train=60, num_validation=25)
    options = TrainOptions(arch="cnn", epochs=8, batch_size=8, learning_rate=5e-3, ema_decay=0.8)
    result = train(dataset, options, choice, tmp_path / "run", observer=Quiet())
    kappas = [record.validation_kappa or 0.0 for record in result.history]
    assert max(kappas) > 0.8
    assert kappas[result.best_epoch - 1] == max(kappas)
    assert result.history[-1].train_loss < 0.7 * result.history[0].train_loss


def test_metrics_jsonl_is_the_history(tmp_path: Path, toy: PreparedDataset) -> None:
    result = train(toy, QUICK, FLOAT32, tmp_path, observer=Quiet())
    lines = [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text(encoding="utf-8").splitlines()]
    assert lines == [asdict(record) for record in result.history]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert result.outcome == "finished"
    assert read_history(tmp_path / METRICS_FILE) == result.history
    (tmp_path / METRICS_FILE).write_text('{"epoch": 1}\n')
    assert read_history(tmp_path / METRICS_FILE) == read_history(tmp_path / "none") == ()


def test_the_same_seed_gives_the_same_weights_and_another_one_others(tmp_path: Path, toy: PreparedDataset) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(toy, replace(QUICK, epochs=1, seed=seed), FLOAT32, tmp_path / name, observer=Quiet())
    assert equal(weights_in(tmp_path / "a"), weights_in(tmp_path / "b"))
    assert not equal(weights_in(tmp_path / "a"), weights_in(tmp_path / "c"))


@pytest.mark.parametrize("loss", list(Loss))
def test_the_loss_of_an_epoch_is_that_of_its_batches(tmp_path: Path, loss: Loss) -> None:
    """One step of one batch: the loss is that of the untouched network on the augmented, weighted images."""
    dataset = prepared_dataset(tmp_path / "toy", grades=(0, 0, 0, 0, 2))
    options = replace(QUICK, epochs=1, batch_size=64, loss=loss, class_weights=ClassWeights.SQRT).filled()
    assert options.head is not None
    result = train(dataset, options, FLOAT32, tmp_path / "run", observer=Quiet())
    torch.manual_seed(options.seed)
    network = build_network(network_spec("cnn", 32, band_rows=dataset.recipe.band_rows, head=options.head))
    images = load_images(dataset, dataset.graded_rows("train"))
    weights = class_weights(images.grades, ClassWeights.SQRT)[images.grades]
    (batch,) = training_batches(replace(images, weights=weights), 64, seed=0, epoch=1, device=torch.device("cpu"))
    torch.manual_seed(options.seed * 1_000_003 + 1)
    with torch.no_grad():
        outputs = network.train().outputs(to_memory_format(network, batch.images))
    expected = graded_loss(options.head, loss, outputs, batch.grades, batch.weights)
    assert result.history[0].train_loss == pytest.approx(float(expected), rel=1e-4)


def test_several_data_sets_have_equal_weight_in_the_loss(tmp_path: Path) -> None:
    first = prepared_dataset(tmp_path / "first", grades=(0, 0, 0, 0, 2))
    second = prepared_dataset(tmp_path / "second", grades=(0, 2), seed=9)
    both = concatenate_datasets([first, second])
    rows = both.graded_rows("train")
    options = replace(QUICK, class_weights=ClassWeights.NONE).filled()
    weights = load_splits(both, options, FLOAT32, rows=None)[0].weights
    assert weights is not None
    for name in (first.name, second.name):
        total = sum(float(weight) for weight, row in zip(weights, rows, strict=True) if row.origin == name)
        assert total == pytest.approx(len(rows) / 2, rel=1e-5)
    train(both, replace(QUICK, epochs=1), FLOAT32, tmp_path / "run", observer=Quiet())
    assert load_checkpoint(tmp_path / "run" / store.MODEL_FILE).description.provenance.data_name == both.name


def test_a_compiled_network_trains_as_any_other(
    tmp_path: Path, toy: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the backend that captures and differentiates graphs as any other, but leaves out the slow C++ compiler."""
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend="aot_eager"))
    options = replace(QUICK, epochs=1)
    for name, choice in (("plain", FLOAT32), ("compiled", replace(FLOAT32, compiled=True))):
        train(toy, options, choice, tmp_path / name, observer=Quiet())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0, "the network was compiled"
    plain, compiled = (safetensors.torch.load_file(tmp_path / name / STATE_FILE) for name in ("plain", "compiled"))
    assert plain.keys() == compiled.keys()
    assert all(torch.allclose(tensor, compiled[name], rtol=1e-2, atol=1e-3) for name, tensor in plain.items())
    assert metrics_in(tmp_path / "compiled")[0]["train_loss"] == pytest.approx(
        metrics_in(tmp_path / "plain")[0]["train_loss"], rel=1e-3
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("arch", ["cnn", "test_vit"])
def test_a_step_does_not_wait_for_the_gpu(toy: PreparedDataset, arch: str) -> None:
    choice = choose_device(DeviceName.CUDA)
    options = replace(QUICK, arch=arch, pretrained=False).filled()
    run = start_run(toy, options, choice, resume=False)
    images, _ = load_splits(toy, options, choice, rows=run.network.spec.rows)
    assert images.pixels.is_cuda
    batches = training_batches(images, 8, seed=0, epoch=1, device=choice.device, mixup=0.2)
    train_step(run, next(batches), options, choice, 1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step, batch in enumerate(batches, start=2):
            train_step(run, batch, options, choice, step)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_an_interrupt_in_the_first_epoch_leaves_nothing_but_the_mosaic(tmp_path: Path, toy: PreparedDataset) -> None:
    result = train(toy, QUICK, FLOAT32, tmp_path / "run", observer=CtrlC(1, 2))
    expected = TrainResult(directory=tmp_path / "run", history=(), best_epoch=0, outcome="interrupted")
    assert result == expected
    assert [path.name for path in (tmp_path / "run").iterdir()] == [TRAIN_BATCH_FILE]


@pytest.mark.parametrize("function", ["save_best_model", "save_state"])
def test_an_epoch_interrupted_while_it_is_saved_does_not_count(
    tmp_path: Path, toy: PreparedDataset, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    whole = tmp_path / "whole"
    train(toy, QUICK, FLOAT32, whole, observer=Quiet())

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop, function, interrupt)
        first = train(toy, QUICK, FLOAT32, tmp_path / "first", observer=Quiet())
    assert (first.best_epoch, first.history) == (0, ())

    later = tmp_path / "later"
    train(toy, QUICK, FLOAT32, later, observer=CtrlC(2, 1))
    scripted_kappa = 2.0  # so that the second epoch is the best and is saved
    with monkeypatch.context() as patched:
        patched.setattr(loop, function, interrupt)
        scripted(patched, [scripted_kappa] * 2)
        second = train(toy, QUICK, FLOAT32, later, observer=Quiet(), resume=True)
    assert (second.outcome, len(second.history), second.best_epoch) == ("interrupted", 1, 1)
    train(toy, QUICK, FLOAT32, later, observer=Quiet(), resume=True)
    assert metrics_in(later) == metrics_in(whole)
    assert equal(*(safetensors.torch.load_file(folder / STATE_FILE) for folder in (later, whole)))


def test_the_best_epoch_is_kept_and_not_the_last(
    tmp_path: Path, toy: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [0.2, 0.6, 0.3, 0.6])
    recorder = Recorder(tmp_path)
    result = train(toy, replace(UNFITTED, epochs=4), FLOAT32, tmp_path, observer=recorder)
    assert (result.best_epoch, recorder.bests) == (2, [True, True, False, False])
    final = weights_in(tmp_path)
    assert equal(final, recorder.models[1])
    assert not equal(final, recorder.models[0])
    state = safetensors.torch.load_file(tmp_path / STATE_FILE)
    last = {name.removeprefix("average.module."): t for name, t in state.items() if name.startswith("average.module.")}
    assert last.keys() == final.keys() - {name for name in final if name.startswith("seen.")}
    assert not equal({name: final[name] for name in last}, last)
    recorded = load_checkpoint(tmp_path / store.MODEL_FILE).description.provenance.metrics
    assert (recorded["best_epoch"], recorded["validation_kappa"]) == (2, 0.6)


def test_of_epochs_of_equal_kappa_the_one_of_lowest_loss_is_kept_also_after_resuming(
    tmp_path: Path, toy: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, kappas, losses = replace(UNFITTED, epochs=4), [0.5, 0.5, 0.5, 0.4], [1.2, 1.1, 1.1, 0.9]
    scripted(monkeypatch, kappas, losses)
    recorder = Recorder(tmp_path / "whole")
    whole = train(toy, options, FLOAT32, tmp_path / "whole", observer=recorder)
    assert (whole.best_epoch, recorder.bests) == (2, [True, True, False, False])
    scripted(monkeypatch, kappas, losses)
    train(toy, options, FLOAT32, tmp_path / "parted", observer=CtrlC(2, 1))
    resumed = train(toy, options, FLOAT32, tmp_path / "parted", observer=Quiet(), resume=True)
    assert resumed.best_epoch == 2
    assert equal(weights_in(tmp_path / "parted"), weights_in(tmp_path / "whole"))


def test_an_undefined_kappa_is_worse_than_any(
    tmp_path: Path, toy: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [None, -0.5, None])
    result = train(toy, UNFITTED, FLOAT32, tmp_path, observer=Quiet())
    assert result.best_epoch == 2
    assert [record.validation_kappa for record in result.history] == [None, -0.5, None]


def test_training_stops_when_kappa_no_longer_rises(
    tmp_path: Path, toy: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [0.4, 0.5, 0.5, 0.1, 0.9])
    result = train(toy, replace(UNFITTED, epochs=5, patience=2), FLOAT32, tmp_path, observer=Quiet())
    assert (len(result.history), result.best_epoch) == (4, 2)
    assert result.outcome == "stopped early: no better kappa for 2 epochs"
    again = train(toy, replace(UNFITTED, epochs=5, patience=2), FLOAT32, tmp_path, observer=Quiet(), resume=True)
    assert again == result


def test_a_loss_that_is_not_finite_is_an_error(tmp_path: Path, toy: PreparedDataset) -> None:
    options = replace(QUICK, learning_rate=1e38)
    with pytest.raises(TrainingError, match=r"loss of epoch 1 is nan.*--overwrite and a lower --learning-rate"):
        train(toy, options, FLOAT32, tmp_path / "run", observer=Quiet())
    assert [path.name for path in (tmp_path / "run").iterdir()] == [TRAIN_BATCH_FILE]


def test_an_unknown_architecture_is_reported_before_images_are_read(tmp_path: Path) -> None:
    dataset = prepared_dataset(tmp_path / "toy")
    shutil.rmtree(dataset.directory)
    with pytest.raises(WeightsUnavailableError, match="--arch resnet5"):
        train(dataset, replace(QUICK, arch="resnet5"), FLOAT32, tmp_path / "run", observer=Quiet())


def test_data_without_validation_split_is_an_error(tmp_path: Path) -> None:
    dataset = prepared_dataset(tmp_path / "toy", num_validation=0)
    with pytest.raises(DatasetError, match="no graded photographs in this split"):
        train(dataset, QUICK, FLOAT32, tmp_path / "run", observer=Quiet())
