"""A run overwrites nothing without --overwrite, and what it leaves in the store is complete."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from fundusgrade import files, store
from fundusgrade.data import splits
from fundusgrade.errors import DeviceError, StoreError, TrainingError
from fundusgrade.grades import RESEARCH_USE
from fundusgrade.networks.checkpoint import load_checkpoint
from fundusgrade.options import DeviceName, Precision
from fundusgrade.photographs.images import read_image
from fundusgrade.training import loop, runs
from fundusgrade.training.loop import TrainResult
from fundusgrade.training.observers import TrainingProgress
from fundusgrade.training.options import TrainOptions
from fundusgrade.training.runs import FinishedRun, RunPlan, RunRequest, plan_run, record_launch, run_training
from fundusgrade.training.state import STATE_FILE
from fundusgrade.training.validation import ValidationScores
from tests.prepared import prepared_dataset
from tests.worker_for_tests import HAS_LEARNED

QUICK = TrainOptions(arch="cnn", epochs=2, batch_size=8)


@pytest.fixture(autouse=True)
def _toy(home: Path) -> None:
    prepared_dataset(home / "datasets" / "toy")


def plan(
    *, name: str | None = None, options: TrainOptions = QUICK, resume: bool = False, overwrite: bool = False
) -> RunPlan:
    return plan_run(RunRequest(name=name, options=options, resume=resume, overwrite=overwrite))


def run(a_plan: RunPlan, printed: io.StringIO | None = None) -> FinishedRun:
    console = Console(file=printed or io.StringIO(), width=200)
    return run_training(a_plan, device=DeviceName.CPU, precision=Precision.FLOAT32, console=console)


def interrupt_in(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Press Ctrl-C at the second step of an epoch."""

    def batch_done(self: TrainingProgress, at_epoch: int, step: int, num_steps: int, num_images: int) -> None:
        if (at_epoch, step) == (epoch, 2):
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingProgress, "batch_done", batch_done)


def script_kappas(monkeypatch: pytest.MonkeyPatch, kappas: Iterable[float | None]) -> None:
    """Let validation find these kappas, epoch by epoch."""
    remaining = iter(kappas)
    monkeypatch.setattr(loop, "validate", lambda *_: ValidationScores(loss=1.0, kappa=next(remaining), accuracy=0.5))


def test_a_plan_finds_the_only_data_set_and_names_the_model_after_both(home: Path) -> None:
    found = plan()
    assert (found.name, found.directory) == ("toy-cnn", home / "runs" / "toy-cnn")
    assert found.dataset.name == "toy"
    assert found.options == QUICK.filled()
    assert not found.directory.exists()


def test_a_name_that_is_no_folder_s_is_refused() -> None:
    with pytest.raises(StoreError, match="is not a valid name"):
        plan(name="../elsewhere")


def test_a_finished_run_is_complete_in_the_store_and_cleared_away(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "FEWEST_TO_HALVE", 20)
    printed = io.StringIO()
    finished = run(plan(), printed)
    directory = home / "models" / "toy-cnn"
    assert finished.path == directory / "model.safetensors"
    assert not finished.interrupted
    assert sorted(path.name for path in directory.iterdir()) == sorted(set(store.MODEL_FILES) - {store.CONFIG_FILE})
    assert not (home / "runs" / "toy-cnn").exists()
    assert len((directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    described = json.loads((directory / "model.json").read_text(encoding="utf-8"))
    assert described["name"] == "toy-cnn"
    assert described["weights_sha256"] == load_checkpoint(directory / "model.safetensors").description.weights_sha256
    assert [model.name for model in store.list_models() if not model.shipped] == ["toy-cnn"]
    curves = read_image(directory / "curves.png")
    assert curves.shape[0] >= 200
    assert curves.std() > 5
    summary = finished.summary.splitlines()
    assert summary[0].startswith("finished after 2 epochs")
    assert summary[1].startswith("best epoch")
    assert " of the photographs that chose it, " in summary[1] and summary[1].endswith(" of those that chose nothing")
    assert summary[2] == f"model toy-cnn: {finished.path}"
    assert re.fullmatch(
        r"referable from p = 0\.\d{4}, chosen for a sensitivity of 0\.9 on \d+ validation photographs; on validation "
        r"photographs that chose nothing: toy: sensitivity .*, specificity .*",
        summary[3],
    )
    lines = printed.getvalue().splitlines()
    assert lines[0] == "device: cpu, float32: as requested; precision as requested"
    assert lines[1] == "network: cnn, cumulative head, cross-entropy loss, up to 2 epochs"
    assert lines[2] == (
        "data set toy, photographs (of grades 0 + 1 + 2 + 3 + 4): training 40 (8 + 8 + 8 + 8 + 8), "
        "validation 20 (4 + 4 + 4 + 4 + 4), test 0 (0 + 0 + 0 + 0 + 0)"
    )
    assert len(lines) == 7, "two of the heading, and two epochs"


def test_without_a_half_that_chose_nothing_the_summary_says_so() -> None:
    summary = run(plan()).summary.splitlines()
    assert summary[1].endswith(" of the photographs that chose it")
    assert summary[-1].startswith("no prediction sets: ") and "fewer than 100 photographs" in summary[-1]


@pytest.mark.parametrize("kappas", [(0.0, -0.1), (None, 0.0)])
def test_a_run_whose_kappa_was_never_above_chance_installs_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, kappas: tuple[float | None, ...]
) -> None:
    monkeypatch.setattr(TrainResult, "has_learned", HAS_LEARNED)
    script_kappas(monkeypatch, kappas)
    with pytest.raises(TrainingError, match=r"^toy-cnn: this model has learned nothing: .* 2 epochs.*--ema-decay 0"):
        run(plan())
    assert not (home / "models").exists()
    left = {path.name for path in (home / "runs" / "toy-cnn").iterdir()}
    assert {"metrics.jsonl", "curves.png", "train_batch.jpg"} <= left
    with pytest.raises(TrainingError, match="no unfinished run 'toy-cnn' to resume; start it without --resume"):
        plan(resume=True)
    script_kappas(monkeypatch, (0.0, 0.1))
    assert run(plan()).path is not None, "starting again needs no --overwrite: nothing of value is lost"


def test_an_interrupted_run_without_a_kappa_above_chance_installs_nothing_yet(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainResult, "has_learned", HAS_LEARNED)
    script_kappas(monkeypatch, (0.0, 0.5))
    with monkeypatch.context() as patched:
        interrupt_in(patched, epoch=2)
        stopped = run(plan())
    assert (stopped.path, stopped.interrupted) == (None, True)
    assert "no model is installed" in stopped.summary and "--resume" in stopped.summary
    assert not (home / "models").exists()
    script_kappas(monkeypatch, (0.5,))
    assert run(plan(resume=True)).path is not None


def test_a_run_with_one_grade_is_refused_before_it_starts(home: Path) -> None:
    prepared_dataset(home / "datasets" / "healthy", grades=(0,))
    with pytest.raises(TrainingError, match="all 40 photographs of the training split of healthy have grade 0"):
        run(plan_run(RunRequest(options=QUICK, data=("healthy",))))
    assert not (home / "runs").exists()


def test_the_card_in_the_store_is_about_this_run_and_not_this_machine(home: Path) -> None:
    run(plan())
    card = (home / "models" / "toy-cnn" / "README.md").read_text(encoding="utf-8")
    dataset = plan(name="other").dataset
    for expected in (RESEARCH_USE, dataset.hash, "epochs 2", "batch_size 8", "learning_rate 0.002", "seed 0"):
        assert expected in card
    for text in (card, (home / "models" / "toy-cnn" / "model.json").read_text(encoding="utf-8")):
        assert str(home) not in text
        assert str(Path.cwd()) not in text


def test_an_interrupted_run_is_installed_and_can_be_resumed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(plan(name="whole"))
    assert expected.path is not None
    with monkeypatch.context() as patched:
        interrupt_in(patched, epoch=2)
        stopped = run(plan())
    assert stopped.interrupted
    assert stopped.path is not None
    assert load_checkpoint(stopped.path).description.provenance.metrics["best_epoch"] == 1
    assert "interrupted after 1 epochs" in stopped.summary
    assert "--resume" in stopped.summary
    assert (home / "runs" / "toy-cnn" / STATE_FILE).is_file()

    finished = run(plan(resume=True))
    assert not finished.interrupted
    assert finished.path is not None
    hashes = [load_checkpoint(path).description.weights_sha256 for path in (finished.path, expected.path)]
    assert hashes[0] == hashes[1]
    assert not (home / "runs" / "toy-cnn").exists()


def test_an_interrupt_in_the_first_epoch_installs_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_in(monkeypatch, epoch=1)
    finished = run(plan())
    assert finished.path is None
    assert finished.interrupted
    assert "nothing saved" in finished.summary
    assert not (home / "models").exists()
    assert list((home / "runs").iterdir()) == []


def test_a_run_that_fails_before_its_first_epoch_is_complete_leaves_no_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise TrainingError("the loss is not finite")

    monkeypatch.setattr(runs, "train", fail)
    with pytest.raises(TrainingError, match="not finite"):
        run(plan())
    assert list((home / "runs").iterdir()) == []


def test_an_unfinished_run_is_not_lost_or_resumed_with_other_options(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        interrupt_in(patched, epoch=2)
        run(plan())
    with pytest.raises(TrainingError, match=r"'toy-cnn' is unfinished; add --resume .* or --overwrite"):
        plan()
    with pytest.raises(TrainingError, match="seed was 0, is 3"):
        run(plan(options=replace(QUICK, seed=3), resume=True))
    assert (home / "runs" / "toy-cnn" / STATE_FILE).is_file()


def test_overwriting_starts_over(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        interrupt_in(patched, epoch=2)
        run(plan())
    other = run(plan(options=replace(QUICK, seed=3), overwrite=True))
    assert other.path is not None
    assert load_checkpoint(other.path).description.provenance.options["seed"] == 3
    metrics = (home / "models" / "toy-cnn" / "metrics.jsonl").read_text(encoding="utf-8")
    assert len(metrics.splitlines()) == 2


def test_a_run_that_cannot_start_keeps_the_unfinished_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        interrupt_in(patched, epoch=2)
        run(plan())
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DeviceError):
        run_training(
            plan(overwrite=True), device=DeviceName.CUDA, precision=Precision.AUTO, console=Console(file=io.StringIO())
        )
    assert (home / "runs" / "toy-cnn" / STATE_FILE).is_file()


def test_a_model_in_the_store_is_replaced_only_with_overwrite() -> None:
    run(plan())
    with pytest.raises(StoreError, match="model 'toy-cnn' is in the store; give another --name, or --overwrite"):
        plan()
    assert plan(name="another").name == "another"
    assert plan(overwrite=True).name == "toy-cnn"


def test_nothing_can_be_resumed_where_no_run_was_started() -> None:
    with pytest.raises(TrainingError, match="no unfinished run 'toy-cnn' to resume; start it without --resume"):
        plan(resume=True)


def test_a_run_killed_before_its_model_was_installed_is_finished_by_resuming(home: Path) -> None:
    first = run(plan(name="kept"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(store, "install_model", _killed)
        with pytest.raises(SystemExit):
            run(plan())
    finished = run(plan(resume=True))
    assert first.path is not None
    assert finished.path is not None
    assert load_checkpoint(finished.path).description.weights_sha256 == (
        load_checkpoint(first.path).description.weights_sha256
    )
    shutil.rmtree(home / "models" / "kept")


def _killed(*args: object) -> None:
    raise SystemExit(9)


def test_a_torchrun_launch_resumes_only_its_own_run_automatically(monkeypatch: pytest.MonkeyPatch) -> None:
    directory = store.run_directory("net")
    files.write_atomically(directory / STATE_FILE, b"state")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job 7")
    with pytest.raises(TrainingError, match="--resume to resume it, or --overwrite"):
        plan(name="net")
    assert not plan(name="net", overwrite=True).resume
    record_launch(directory)
    assert plan(name="net").resume
    assert plan(name="net", overwrite=True).resume, "this launch has discarded the old run already"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job 8")
    with pytest.raises(TrainingError, match="--resume to resume it, or --overwrite"):
        plan(name="net")
    # Without an id of its own a launch is known by the agent that starts its processes.
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    record_launch(directory)
    assert plan(name="net").resume
    monkeypatch.setattr(os, "getppid", lambda: -1)
    with pytest.raises(TrainingError, match="--resume to resume it, or --overwrite"):
        plan(name="net")
