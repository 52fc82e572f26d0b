"""Training learns, keeps its best epoch, and a run that was stopped ends as if it had not been."""

from __future__ import annotations

import functools
import itertools
import json
import math
import shutil
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fundusgrade import store
from fundusgrade.commands.app import app
from fundusgrade.data.dataset import PreparedDataset, load_dataset
from fundusgrade.data.join import concatenate_datasets
from fundusgrade.data.leakage import find_overlap
from fundusgrade.data.manifest import write_manifest
from fundusgrade.errors import DatasetError, TrainingError, WeightsUnavailableError
from fundusgrade.metrics.classification import decide_grades, evaluate_predictions
from fundusgrade.metrics.conformal import conformity_scores
from fundusgrade.networks.build import build_network, network_spec
from fundusgrade.networks.checkpoint import load_checkpoint
from fundusgrade.networks.device import DeviceChoice, choose_device
from fundusgrade.networks.heads import MIDPOINTS, UNCALIBRATED, Calibration
from fundusgrade.networks.inference import predict_outputs, predict_probabilities, to_memory_format, to_probabilities
from fundusgrade.networks.tensors import load_images
from fundusgrade.options import ClassWeights, Decision, DeviceName, Head, Loss, Precision, Recipe
from fundusgrade.training import loop, validation
from fundusgrade.training.batches import load_splits, training_batches
from fundusgrade.training.history import METRICS_FILE, EpochRecord, read_history
from fundusgrade.training.loop import TrainResult, train, train_step
from fundusgrade.training.losses import class_weights, graded_loss
from fundusgrade.training.mosaic import TRAIN_BATCH_FILE
from fundusgrade.training.optimizer import learning_rate_factor
from fundusgrade.training.options import TrainOptions
from fundusgrade.training.state import STATE_FILE, RunState, load_state, start_run
from fundusgrade.training.validation import log_loss
from tests.prepared import prepared_dataset
from tests.training.observing import CtrlC, Quiet
from tests.worker_for_tests import keep_the_last, run_processes

FLOAT32 = choose_device(DeviceName.CPU, Precision.FLOAT32)
BFLOAT16 = choose_device(DeviceName.CPU, Precision.BFLOAT16)
QUICK = TrainOptions(arch="cnn", epochs=3, batch_size=8)
# Validation scores the network alone: nothing is fitted afterwards.
UNFITTED = replace(QUICK, calibrate=False)


class Notebook(Quiet):
    """Keeps what is in the run's directory after each epoch."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.models: list[dict[str, Tensor]] = []
        self.bests: list[bool] = []

    def epoch_done(self, record: EpochRecord, is_best: bool) -> None:
        self.models.append(safetensors.torch.load_file(self.directory / store.MODEL_FILE))
        self.bests.append(is_best)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return prepared_dataset(tmp_path_factory.mktemp("data") / "toy")


def scripted(monkeypatch: pytest.MonkeyPatch, kappas: list[float | None]) -> None:
    """Let validation find these kappas."""
    waiting = iter(kappas)
    monkeypatch.setattr(
        validation, "evaluate_predictions", lambda *_: SimpleNamespace(kappa=next(waiting), accuracy=0.5)
    )


def weights_in(directory: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(directory / store.MODEL_FILE)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def lasting(record: dict[str, object]) -> dict[str, object]:
    """A line of metrics.jsonl without what a clock measured."""
    return {name: value for name, value in record.items() if name not in {"seconds", "images_per_second"}}


def metrics_in(directory: Path) -> list[dict[str, object]]:
    lines = (directory / METRICS_FILE).read_text(encoding="utf-8").splitlines()
    return [lasting(json.loads(line)) for line in lines]


def test_class_weights_equal_those_by_hand() -> None:
    grades = torch.tensor([0] * 8 + [1] * 4 + [2] * 2 + [4] * 2)  # grade 3 is absent
    inverse = class_weights(grades, ClassWeights.INVERSE)
    assert inverse.tolist() == pytest.approx([16 / (4 * 8), 16 / (4 * 4), 16 / (4 * 2), 0, 16 / (4 * 2)])
    root = class_weights(grades, ClassWeights.SQRT)
    scale = 16 / (math.sqrt(8) + math.sqrt(4) + 2 * math.sqrt(2))
    expected = [scale / math.sqrt(8), scale / math.sqrt(4), scale / math.sqrt(2), 0, scale / math.sqrt(2)]
    assert root.tolist() == pytest.approx(expected)
    assert class_weights(grades, ClassWeights.NONE).tolist() == pytest.approx([1, 1, 1, 0, 1])


@pytest.mark.parametrize("kind", list(ClassWeights))
def test_class_weights_have_mean_one_over_the_photographs(kind: ClassWeights) -> None:
    grades = torch.randint(0, 5, (101,), generator=torch.Generator().manual_seed(0))
    assert float(class_weights(grades, kind)[grades].mean()) == pytest.approx(1)


def test_the_learning_rate_warms_up_and_falls_as_a_cosine() -> None:
    factors = [learning_rate_factor(step, 100, 10) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == pytest.approx(1)
    assert factors[55] == pytest.approx((1 + 0.01) / 2)
    assert learning_rate_factor(100, 100, 10) == pytest.approx(0.01)
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))
    assert min(factors) >= 0.01


def test_the_learning_rate_without_warm_up_or_beyond_the_end() -> None:
    assert learning_rate_factor(0, 10, 0) == 1
    assert learning_rate_factor(50, 10, 0) == pytest.approx(0.01)
    assert learning_rate_factor(9, 10, 10) == 1
    assert learning_rate_factor(10, 10, 10) == pytest.approx(1)


@pytest.mark.parametrize(
    ("arch", "epochs", "layer_decay"), [("cnn", 40, 1.0), ("resnet50", 12, 1.0), ("vit_small_patch14_dinov2", 12, 0.75)]
)
def test_options_not_given_are_the_architecture_s(arch: str, epochs: int, layer_decay: float) -> None:
    filled = TrainOptions(arch=arch).filled()
    assert (filled.epochs, filled.layer_decay) == (epochs, layer_decay)
    assert None not in (filled.learning_rate, filled.patience)
    given = TrainOptions(arch=arch, epochs=2, learning_rate=0.5, layer_decay=0.9, patience=3)
    names = ("epochs", "learning_rate", "layer_decay", "patience")
    assert [getattr(given.filled(), name) for name in names] == [2, 0.5, 0.9, 3]
    assert given.filled().filled() == given.filled()


@pytest.mark.parametrize("choice", [FLOAT32, BFLOAT16], ids=["float32", "bfloat16"])
def test_training_learns_what_can_be_learned(tmp_path: Path, choice: DeviceChoice) -> None:
    dataset = prepared_dataset(tmp_path / "toy", num_train=60, num_validation=25)
    options = TrainOptions(arch="cnn", epochs=8, batch_size=8, learning_rate=5e-3, ema_decay=0.8)
    result = train(dataset, options, choice, tmp_path / "run", observer=Quiet())
    kappas = [record.validation_kappa or 0.0 for record in result.history]
    assert max(kappas) > 0.8
    assert result.best_epoch == 1 + int(np.argmax(kappas))
    assert result.history[-1].train_loss < 0.7 * result.history[0].train_loss


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
    """One step of one batch: the loss is that of the untouched network on the augmented, weighted pictures."""
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


def test_several_data_sets_count_alike_in_the_loss(tmp_path: Path) -> None:
    first = prepared_dataset(tmp_path / "first", grades=(0, 0, 0, 0, 2))
    second = prepared_dataset(tmp_path / "second", grades=(0, 2), seed=9)
    both = concatenate_datasets([first, second])
    rows = both.graded_rows("train")
    options = replace(QUICK, class_weights=ClassWeights.NONE).filled()
    weights = load_splits(both, options, FLOAT32, rows=None)[0].weights
    assert weights is not None
    for name in (first.name, second.name):
        share = sum(float(weight) for weight, row in zip(weights, rows, strict=True) if row.origin == name)
        assert share == pytest.approx(len(rows) / 2, rel=1e-5)
    train(both, replace(QUICK, epochs=1), FLOAT32, tmp_path / "run", observer=Quiet())
    assert load_checkpoint(tmp_path / "run" / store.MODEL_FILE).description.provenance.data_name == both.name


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


def test_the_averaged_weights_are_those_of_pytorch_to_the_bit(toy: PreparedDataset) -> None:
    """PyTorch's average of the first step is its weights; each later step moves it by 1 - decay of the difference."""
    options = replace(QUICK, arch="test_efficientnet", pretrained=False, ema_decay=0.7).filled()
    run = start_run(toy, options, FLOAT32, resume=False)
    average = get_ema_multi_avg_fn(options.ema_decay)  # type: ignore[no-untyped-call]
    reference = AveragedModel(run.network, multi_avg_fn=average, use_buffers=True)
    training, _ = load_splits(toy, options, FLOAT32, rows=run.network.spec.rows)
    batches = training_batches(training, 8, seed=0, epoch=1, device=torch.device("cpu"))
    for step, batch in enumerate(batches, start=1):
        train_step(run, batch, options, FLOAT32)
        run.average.update(run.network, step=step)
        reference.update_parameters(run.network)
    expected = {name: t for name, t in reference.module.state_dict().items() if t.is_floating_point()}
    assert step == 5
    assert equal({name: run.averaged_network.state_dict()[name] for name in expected}, expected)
    assert not equal({name: run.network.state_dict()[name] for name in expected}, expected)


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
    train_step(run, next(batches), options, choice)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            train_step(run, batch, options, choice)
    finally:
        torch.cuda.set_sync_debug_mode("default")


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


def test_an_interrupt_in_the_first_epoch_leaves_nothing(tmp_path: Path, toy: PreparedDataset) -> None:
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
    notebook = Notebook(tmp_path)
    result = train(toy, replace(UNFITTED, epochs=4), FLOAT32, tmp_path, observer=notebook)
    assert (result.best_epoch, notebook.bests) == (2, [True, True, False, False])
    final = weights_in(tmp_path)
    assert equal(final, notebook.models[1])
    assert not equal(final, notebook.models[0])
    state = safetensors.torch.load_file(tmp_path / STATE_FILE)
    last = {name.removeprefix("average.module."): t for name, t in state.items() if name.startswith("average.module.")}
    assert last.keys() == final.keys() - {name for name in final if name.startswith("seen.")}
    assert not equal({name: final[name] for name in last}, last)
    recorded = load_checkpoint(tmp_path / store.MODEL_FILE).description.provenance.metrics
    assert (recorded["best_epoch"], recorded["validation_kappa"]) == (2, 0.6)


@pytest.mark.parametrize("head", list(Head))
@pytest.mark.parametrize("decision", list(Decision))
def test_the_saved_model_is_calibrated_and_scored_as_it_will_grade(
    tmp_path: Path, head: Head, decision: Decision
) -> None:
    dataset = prepared_dataset(tmp_path / "toy", grades=(0, 0, 0, 0, 2, 0, 0, 4, 1, 3))
    options = replace(QUICK, epochs=1, head=head, decision=decision)
    train(dataset, options, FLOAT32, tmp_path / "run", observer=Quiet())
    checkpoint = load_checkpoint(tmp_path / "run" / store.MODEL_FILE)
    description, metrics = checkpoint.description, checkpoint.description.provenance.metrics
    validation = load_images(dataset, dataset.graded_rows("validation"))
    grades, pixels = validation.grades.numpy(), validation.pixels
    probabilities = predict_probabilities(checkpoint.network, pixels, FLOAT32)
    scored = evaluate_predictions(grades, probabilities, description.thresholds)
    assert (metrics["validation_kappa"], metrics["validation_accuracy"]) == (scored.kappa, scored.accuracy)
    assert (description.thresholds is None) == (decision is Decision.MOST_PROBABLE)
    assert metrics["validation_loss"] == pytest.approx(log_loss(grades, probabilities))
    decided = decide_grades(probabilities, description.thresholds)
    assert description.conformity == pytest.approx(sorted(conformity_scores(probabilities, grades, decided)), abs=1e-4)
    # Whatever decides, confidence is fitted: no other temperature has a smaller log loss, with the weak prior added.
    spec, outputs = checkpoint.network.spec, predict_outputs(checkpoint.network, pixels, FLOAT32)
    penalized = metrics["validation_loss"] + prior_of(spec.calibration) / len(grades)
    for factor in (0.8, 1.25):
        other = replace(spec.calibration, temperature=spec.calibration.temperature * factor)
        loss = log_loss(grades, to_probabilities(spec, outputs, other))
        assert loss + prior_of(other) / len(grades) > penalized - 1e-6


def prior_of(calibration: Calibration) -> float:
    """Minus the logarithm of the prior density of a calibration, up to a constant."""
    cutpoints = np.array(calibration.cutpoints) / calibration.temperature
    scales = np.array([1 / calibration.temperature])
    if calibration.cutpoints != MIDPOINTS:
        scales = np.concatenate([scales, np.diff(cutpoints)])
    return float((scales - 1 - np.log(scales)).sum() + (cutpoints[0] - 0.5) ** 2 / 2 * (len(scales) > 1))


def test_the_reference_recipe_fits_nothing(tmp_path: Path, toy: PreparedDataset) -> None:
    train(toy, replace(QUICK, recipe=Recipe.REFERENCE, epochs=1), FLOAT32, tmp_path, observer=Quiet())
    description = load_checkpoint(tmp_path / store.MODEL_FILE).description
    assert description.network.calibration == UNCALIBRATED
    assert (description.thresholds, description.conformity) == (None, ())
    recorded = description.provenance.options
    assert (recorded["loss"], recorded["class_weights"]) == ("cross-entropy", "inverse")


def test_a_model_carries_marks_of_what_it_was_trained_and_chosen_on(tmp_path: Path, toy: PreparedDataset) -> None:
    train(toy, replace(QUICK, epochs=1), FLOAT32, tmp_path, observer=Quiet())
    fingerprints = load_checkpoint(tmp_path / store.MODEL_FILE).fingerprints
    seen = (*toy.graded_rows("train"), *toy.graded_rows("validation"))
    assert set(find_overlap(fingerprints, toy, seen).sources) == {row.source for row in seen}
    assert find_overlap(fingerprints, toy, toy.graded_rows("test")).files == ()


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


def test_other_options_cannot_resume_a_run(tmp_path: Path, toy: PreparedDataset) -> None:
    train(toy, QUICK, FLOAT32, tmp_path, observer=CtrlC(2, 1))
    other = replace(QUICK, seed=4, batch_size=10)
    with pytest.raises(TrainingError, match=r"batch_size was 8, is 10; seed was 0, is 4; give the same to resume"):
        train(toy, other, FLOAT32, tmp_path, observer=Quiet(), resume=True)


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


def test_a_loss_that_is_no_number_is_an_error(tmp_path: Path, toy: PreparedDataset) -> None:
    options = replace(QUICK, learning_rate=1e38)
    with pytest.raises(TrainingError, match=r"loss of epoch 1 is nan.*--overwrite and a lower --learning-rate"):
        train(toy, options, FLOAT32, tmp_path / "run", observer=Quiet())
    assert [path.name for path in (tmp_path / "run").iterdir()] == [TRAIN_BATCH_FILE]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 1}, "batch size must be at least 2"),
        ({"ema_decay": 1.0}, r"must be in \[0, 1\)"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 2**70}, "seed must be"),
    ],
)
def test_options_that_cannot_be_trained_with(
    tmp_path: Path, toy: PreparedDataset, change: dict[str, int | float], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        train(toy, replace(QUICK, **change), FLOAT32, tmp_path, observer=Quiet())


def test_an_unknown_architecture_is_told_before_images_are_read(tmp_path: Path) -> None:
    dataset = prepared_dataset(tmp_path / "toy")
    shutil.rmtree(dataset.directory)
    with pytest.raises(WeightsUnavailableError, match="--arch resnet5"):
        train(dataset, replace(QUICK, arch="resnet5"), FLOAT32, tmp_path / "run", observer=Quiet())


def test_data_without_validation_split_is_an_error(tmp_path: Path) -> None:
    dataset = prepared_dataset(tmp_path / "toy", num_validation=0)
    with pytest.raises(DatasetError, match="no graded photographs in this split"):
        train(dataset, QUICK, FLOAT32, tmp_path / "run", observer=Quiet())


def test_a_run_killed_within_an_epoch_resumes_to_the_same_weights(home: Path, tmp_path: Path) -> None:
    prepared_dataset(home / "datasets" / "toy")
    options = ("--arch", "cnn", "--epochs", "3", "--batch-size", "8", "--device", "cpu", "--precision", "float32")
    words = ["train", *options]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RunState, "best_epoch", keep_the_last())
        app([*words, "--name", "whole"], standalone_mode=False)
        killed = run_processes([*words, "--name", "killed"], home, tmp_path, size=1, death="2,3")
        assert killed.codes == [-signal.SIGKILL], killed.stderr
        run = home / "runs" / "killed"
        assert len(metrics_in(run)) == 1
        assert not (home / "models" / "killed").exists()
        app([*words, "--name", "killed", "--resume"], standalone_mode=False)
    assert equal(weights_in(home / "models" / "killed"), weights_in(home / "models" / "whole"))
    assert metrics_in(home / "models" / "killed") == metrics_in(home / "models" / "whole")
    assert not run.exists()
