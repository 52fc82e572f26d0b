"""Two processes end with the weights and figures of one, also where one of them is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from fundusgrade import files, store
from fundusgrade.commands.app import app
from fundusgrade.errors import TrainingError
from fundusgrade.metrics.predictions import read_predictions
from fundusgrade.networks.checkpoint import load_checkpoint
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.tensors import LabeledImages
from fundusgrade.options import Head, Loss, Precision
from fundusgrade.training import batch_norm, distributed
from fundusgrade.training.batch_norm import SynchronizedBatchNorm, synchronize_batch_norm
from fundusgrade.training.batches import Batch, training_batches
from fundusgrade.training.distributed import SINGLE_PROCESS, ProcessGroup
from fundusgrade.training.losses import graded_loss
from fundusgrade.training.mosaic import TRAIN_BATCH_FILE
from fundusgrade.training.state import RunState
from tests.models_for_tests import install_dataset, photographs_of
from tests.worker_for_tests import ROOT, TIMEOUT_SECONDS, Finished, keep_the_last, run_processes

WORKER = ROOT / "tests" / "worker_for_tests.py"
BASIC = [
    *("--no-pretrained", "--device", "cpu", "--precision", "float32"),
    *("--batch-size", "5", "--mixup", "0.2", "--learning-rate", "0.0001"),
]
"""Of five images one process has two, the other three."""

# Biases before a normalization have no gradient but rounding, which Adam makes steps of; so its steps are small here.
ROUNDING = 3e-5
EFFICIENTNET = ["--arch", "test_efficientnet", "--epochs", "3"]


def torchrun(home: Path, *words: str, restarts: int, killed_at: str) -> subprocess.CompletedProcess[str]:
    """`torchrun --nproc-per-node=2 fundusgrade train WORDS`; one process is killed at a step."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    own = {"FUNDUSGRADE_HOME": str(home), "OMP_NUM_THREADS": "1", "COLUMNS": "200", "FUNDUSGRADE_TEST_KILL": killed_at}
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return subprocess.run(
        [*command, f"--max-restarts={restarts}", str(WORKER), "train", *BASIC, *words],
        env={**os.environ, **own, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )


def two_processes(home: Path, folder: Path, *words: str, killed_at: str = "") -> Finished:
    return run_processes(["train", *BASIC, *words], home, folder, size=2, killed_at=killed_at)


def in_this_process(home: Path, *words: str) -> None:
    """The same command in this process."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(files.HOME_VARIABLE, str(home))
        patched.setattr(RunState, "best_epoch", keep_the_last())
        app(["train", *BASIC, *words], standalone_mode=False)


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a run of one process and the same one of two, which took 3 epochs of 2 steps."""
    home = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(files.HOME_VARIABLE, str(home))
        install_dataset("toy")
    in_this_process(home, *EFFICIENTNET, "--name", "one")
    done = two_processes(home, home, *EFFICIENTNET, "--name", "two")
    assert done.codes == [0, 0], done.stderr
    assert done.stdout.count("model two: ") == done.stderr.count("epoch  train loss") == 1
    assert "2 processes" in done.stderr
    warnings = [line for line in done.stderr.splitlines() if "Warning" in line]
    assert all("split has only one photograph" in line for line in warnings), "none of PyTorch"
    return home


def weights_of(home: Path, name: str) -> dict[str, Tensor]:
    tensors = safetensors.torch.load_file(home / "models" / name / store.MODEL_FILE)
    return {key: tensor.double() for key, tensor in tensors.items()}


def temperature_of(home: Path, name: str) -> float:
    return load_checkpoint(home / "models" / name / store.MODEL_FILE).description.network.calibration.temperature


def history_of(home: Path, name: str) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (home / "models" / name / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line.keys() - {"seconds", "images_per_second"}} for line in lines]


def assert_alike(home: Path, one: str, other: str, tolerance: float) -> None:
    """The same weights, statistics and history, apart from rounding."""
    first, second = weights_of(home, one), weights_of(home, other)
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        assert torch.allclose(tensor, second[key], rtol=tolerance, atol=tolerance), key
    histories = history_of(home, one), history_of(home, other)
    for a, b in zip(*histories, strict=True):
        # Losses amplify differences of weights; a photograph counted twice, or not, would change them by percents.
        assert a == pytest.approx(b, rel=max(1e-4, 3 * tolerance))


# Which process computes which images


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [8, 9, 13, 32])
def test_every_image_is_with_one_process_and_with_its_partner(count: int, size: int) -> None:
    parts = [ProcessGroup(rank=rank, size=size).batch_indices(count) for rank in range(size)]
    assert sorted(torch.cat(parts).tolist()) == list(range(count))
    for part in parts:
        assert part.tolist() == sorted(part.tolist())
        assert (count - 1 - part).flip(0).tolist() == part.tolist()
    assert max(map(len, parts)) - min(map(len, parts)) <= 2


@pytest.mark.parametrize("count", [0, 1, 7, 20])
def test_slices_of_the_ranks_follow_each_other(count: int) -> None:
    parts = [list(range(count))[ProcessGroup(rank=rank, size=3).rank_slice(count)] for rank in range(3)]
    assert [number for part in parts for number in part] == list(range(count))


def noise(count: int) -> LabeledImages:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2 * count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return LabeledImages(
        stored=pixels,
        indices=torch.randperm(2 * count, generator=generator)[:count],
        grades=torch.arange(count) % 5,
        fill=128,
        weights=torch.rand(count, generator=generator),
    )


def batches_of(images: LabeledImages, group: ProcessGroup) -> list[Batch]:
    cpu = torch.device("cpu")
    return list(training_batches(images, 9, seed=3, epoch=2, device=cpu, mixup=0.4, group=group))


@pytest.mark.parametrize("is_degraded", [False, True])
@pytest.mark.parametrize("rows", [None, (8, 24)])
def test_parts_of_a_batch_are_the_batch_bit_for_bit(is_degraded: bool, rows: tuple[int, int] | None) -> None:
    images = noise(20)
    if is_degraded:
        images = replace(images, degraded=255 - images.pixels)
    whole = batches_of(images, SINGLE_PROCESS)
    parts = [batches_of(replace(images, rows=rows), ProcessGroup(rank=rank, size=2)) for rank in range(2)]
    assert len(whole) == len(parts[0]) == len(parts[1]) == 2
    for batch, *own_parts in zip(whole, *parts, strict=True):
        top, bottom = rows or (0, 32)
        for rank, part in enumerate(own_parts):
            own = ProcessGroup(rank=rank, size=2).batch_indices(9)
            assert torch.equal(part.images, batch.images[own][:, :, top:bottom])
            assert torch.equal(part.grades, batch.grades[own])
            assert torch.equal(part.weights, batch.weights[own])
            assert torch.equal(part.mixup_partners()[0], batch.mixup_partners()[0][own])
            assert part.mixup_weight == batch.mixup_weight < 1
        assert batch.loss_scale == 1


def test_the_mean_of_the_parts_losses_is_the_loss_of_the_batch() -> None:
    images = noise(20)
    outputs = torch.randn(9, 5, generator=torch.Generator().manual_seed(1))
    parts = [batches_of(images, ProcessGroup(rank=rank, size=2))[0] for rank in range(2)]
    (whole, _) = batches_of(images, SINGLE_PROCESS)

    def loss_of(batch: Batch, own: Tensor) -> Tensor:
        return batch.loss_scale * graded_loss(
            Head.SOFTMAX, Loss.CROSS_ENTROPY, outputs[own], batch.grades, batch.weights
        )

    losses = [loss_of(part, ProcessGroup(rank=rank, size=2).batch_indices(9)) for rank, part in enumerate(parts)]
    assert float(sum(losses)) / 2 == pytest.approx(float(loss_of(whole, torch.arange(9))), rel=1e-6)


# Statistics


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, timm.layers.BatchNormAct2d])
def test_synchronized_statistics_of_one_process_are_those_of_the_layer_it_replaces(kind: type[nn.BatchNorm2d]) -> None:
    torch.manual_seed(0)
    norm = kind(6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(5, 6, 4, 3) * 3 + 10
    target = torch.randn_like(x)

    def outcome(module: nn.Module) -> dict[str, Tensor]:
        module.zero_grad()
        given = x.clone().requires_grad_()
        out = module.train()(given)
        ((out - target) ** 2).mean().backward()
        found = {"out": out.detach(), "x": given.grad, "weight": module.weight.grad, "bias": module.bias.grad}
        found = {name: tensor.clone() for name, tensor in found.items()}
        found |= {f"buffer {name}": tensor.clone() for name, tensor in module.named_buffers()}
        return {**found, "evaluated": module.eval()(x).detach()}

    state = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    expected = outcome(norm)
    norm.load_state_dict(state)
    shared = SynchronizedBatchNorm(norm)
    assert list(shared.state_dict()) == list(state)
    found = outcome(shared)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, rtol=1e-4, atol=1e-5), name


def test_synchronizing_statistics_keeps_the_names_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    network = timm.create_model("test_efficientnet")
    names, parameters = list(network.state_dict()), list(network.parameters())
    synchronize_batch_norm(network)
    assert not any(isinstance(module, SynchronizedBatchNorm) for module in network.modules())
    monkeypatch.setattr(batch_norm, "process_group", lambda: ProcessGroup(rank=0, size=2))
    synchronize_batch_norm(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert list(network.state_dict()) == names
    assert all(a is b for a, b in zip(network.parameters(), parameters, strict=True))


# Whole runs


def test_two_processes_end_as_one(shared_home: Path) -> None:
    assert_alike(shared_home, "one", "two", ROUNDING)
    assert not (shared_home / "runs" / "two").exists()
    mosaics = [(shared_home / "models" / name / TRAIN_BATCH_FILE).read_bytes() for name in ("one", "two")]
    assert mosaics[0] == mosaics[1]


def test_torchrun_restarts_a_run_whose_process_is_killed_to_the_same_weights(shared_home: Path) -> None:
    done = torchrun(shared_home, *EFFICIENTNET, "--name", "restarted", restarts=1, killed_at="2,1")
    assert done.returncode == 0, done.stderr
    # Which of the two processes torchrun reports depends on which ends first: the other notices within milliseconds.
    assert done.stderr.count("2 processes") == 2, "started, and again after the kill"
    assert done.stdout.count("model restarted: ") == 1
    assert_alike(shared_home, "two", "restarted", 0)


def test_a_run_whose_process_is_killed_says_so_and_is_resumed_by_one_process(shared_home: Path, tmp_path: Path) -> None:
    killed = two_processes(shared_home, tmp_path, *EFFICIENTNET, "--name", "killed", killed_at="2,1")
    assert killed.codes == [1, -signal.SIGKILL]
    assert "Error: another process of this run ended" in killed.stderr
    assert "same command and --resume" in killed.stderr
    assert "fundusgrade/training/" not in killed.stderr, "no traceback of ours"
    assert not (shared_home / "models" / "killed").exists()
    in_this_process(shared_home, *EFFICIENTNET, "--name", "killed", "--resume")
    assert_alike(shared_home, "one", "killed", ROUNDING)


def test_folds_of_degraded_images_are_trained_together_and_pooled_once(home: Path, tmp_path: Path) -> None:
    words = ["--arch", "test_vit", "--epochs", "1", "--folds", "2", "--degrade"]
    with photographs_of(install_dataset("toy")):
        in_this_process(home, *words, "--name", "one")
        done = two_processes(home, tmp_path, *words, "--name", "two")
    assert done.codes == [0, 0], done.stderr
    assert done.stdout.count("out of fold: 20 photographs") == 1
    one, two = (read_predictions(store.predictions_file(name)).test for name in ("one", "two"))
    assert one.sources == two.sources
    assert one.probabilities == pytest.approx(two.probabilities, abs=2e-5)
    for fold in (1, 2):
        assert_alike(home, f"one-fold{fold}", f"two-fold{fold}", 1e-6)
        fitted = [temperature_of(home, f"{name}-fold{fold}") for name in ("one", "two")]
        assert fitted[0] == pytest.approx(fitted[1], rel=1e-5), "as close as the weights allow"


def test_too_small_batches_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"batches of 5 photographs are too small for 3 processes.*per process, 6"):
        ProcessGroup(rank=0, size=3).check_batch_size(5)
    ProcessGroup(rank=0, size=3).check_batch_size(6)
    SINGLE_PROCESS.check_batch_size(1)


def test_one_process_of_a_machine_uses_its_first_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch refuses a device without a number there."""
    chosen: list[int] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(distributed, "_init_process_group", lambda backend: None)
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: None)
    for name, number in (("cuda", 0), ("cuda:3", 3)):
        choice = DeviceChoice(device=torch.device(name), precision=Precision.FLOAT32, reason="test")
        with distributed.joined_group(choice):
            pass
        assert chosen.pop() == number
