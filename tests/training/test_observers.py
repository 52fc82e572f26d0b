"""The terminal shows a row for each epoch, and TensorBoard what metrics.jsonl holds, at the right epochs."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from fundusgrade import store
from fundusgrade.errors import TrainingError
from fundusgrade.options import DeviceName, Precision
from fundusgrade.training import observers
from fundusgrade.training.history import METRICS_FILE, EpochRecord, read_history
from fundusgrade.training.observers import TrainingProgress, log_events
from fundusgrade.training.options import TrainOptions
from fundusgrade.training.runs import RunRequest, plan_run, run_training
from tests.prepared import prepared_dataset

REQUEST = RunRequest(name="toy", options=TrainOptions(arch="cnn", epochs=3, batch_size=8))


def run(request: RunRequest) -> None:
    console = Console(file=io.StringIO())
    run_training(plan_run(request), device=DeviceName.CPU, precision=Precision.FLOAT32, console=console)


def points_in(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def assert_shows(folder: Path, history: tuple[EpochRecord, ...]) -> None:
    points = points_in(folder)
    assert len(points) == 6
    assert points["loss/training"] == [(r.epoch, pytest.approx(r.train_loss)) for r in history]
    assert points["loss/validation"] == [(r.epoch, pytest.approx(r.validation_loss)) for r in history]
    assert points["validation/kappa"] == [(r.epoch, pytest.approx(r.validation_kappa)) for r in history]
    assert points["training/learning_rate"] == [(r.epoch, pytest.approx(r.learning_rate)) for r in history]


def test_a_resumed_run_continues_its_event_log_and_a_new_one_replaces_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared_dataset(home / "datasets" / "toy")
    request = replace(REQUEST, events=tmp_path / "logs")

    def interrupt(self: TrainingProgress, epoch: int, step: int, num_steps: int, num_images: int) -> None:
        if (epoch, step) == (3, 1):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TrainingProgress, "batch_done", interrupt)
        run(request)
    assert [step for step, _ in points_in(tmp_path / "logs" / "toy")["loss/training"]] == [1, 2]
    run(replace(request, resume=True))
    history = read_history(store.model_directory("toy") / METRICS_FILE)
    assert len(history) == 3
    assert_shows(tmp_path / "logs" / "toy", history)
    run(replace(request, options=replace(request.options, epochs=2, seed=1), overwrite=True))
    assert_shows(tmp_path / "logs" / "toy", read_history(store.model_directory("toy") / METRICS_FILE))


def test_a_missing_package_is_reported_before_training_starts(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared_dataset(home / "datasets" / "toy")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrainingError, match=r"pip install 'fundusgrade\[tensorboard\]'"):
        run(replace(REQUEST, events=tmp_path / "logs"))
    assert not (home / "models").exists()


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    observer = TrainingProgress(Console(file=io.StringIO()), 1)
    with (
        pytest.raises(TrainingError, match="expected a folder that can be written"),
        log_events(observer, tmp_path / "file", "toy", resume=False),
    ):
        pass


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_shows_a_row_for_each_epoch(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(observers.time, "monotonic", lambda: clock[0])
    printed = io.StringIO()
    console = Console(file=printed, width=160, force_terminal=is_terminal)
    record = EpochRecord(
        epoch=1,
        train_loss=1.5,
        validation_loss=1.25,
        validation_kappa=None,
        validation_accuracy=0.5,
        learning_rate=1e-3,
        seconds=10.0,
        images_per_second=123.4,
    )
    with TrainingProgress(console, 4) as progress:
        for step in (1, 2):
            progress.batch_done(1, step, 2, 8 * step)
        clock[0] += 1500
        progress.epoch_done(record, is_best=True)
        progress.batch_done(2, 1, 2, 8)
        clock[0] += 500
        progress.epoch_done(replace(record, epoch=2, validation_kappa=0.8125), is_best=False)
    text = printed.getvalue()
    assert "1.5000" in text
    assert "none" in text
    assert "50.0%" in text
    assert "0.812" in text
    assert text.count("  *") == 1
    assert "that choose the epoch" in text and "time left" in text
    assert "1:15:00" in text and "0:33:20" in text, "three epochs of 1,500 s, then two of 1,000 s"
    assert ("elapsed" in text) is is_terminal
