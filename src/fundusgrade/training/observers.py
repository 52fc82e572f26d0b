"""Observers of a training run: progress in the terminal, and an event log for TensorBoard."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from rich.console import Console

from fundusgrade.errors import TrainingError
from fundusgrade.terminal import progress_bar
from fundusgrade.text import error_text
from fundusgrade.training.history import EpochRecord

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TrainingObserver(Protocol):
    """An object that the training loop notifies after each batch and each epoch; steps and epochs count from 1."""

    def batch_done(self, epoch: int, step: int, num_steps: int, num_images: int) -> None: ...
    def epoch_done(self, record: EpochRecord, is_best: bool) -> None: ...


class TrainingProgress:
    """Prints a progress bar for the current epoch and a row for each completed one.

    The time left is for all epochs: early stopping makes it shorter.
    """

    def __init__(self, console: Console, num_epochs: int) -> None:
        self._console = console
        self._num_epochs = num_epochs
        self._started = time.monotonic()
        self._num_done = 0
        self._progress = progress_bar(console, unit="steps")
        self._task = self._progress.add_task("training", total=None, rate="")

    def __enter__(self) -> TrainingProgress:
        self._progress.start()
        self._started = time.monotonic()
        self._console.print(
            "scores of the validation photographs that choose the epoch, each graded by a rule fitted on others:\n"
            "epoch  train loss  val. loss   kappa  accuracy  images/s  seconds  time left",
            highlight=False,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def batch_done(self, epoch: int, step: int, num_steps: int, num_images: int) -> None:
        """Advance the bar."""
        if step == 1:
            self._progress.reset(self._task, total=num_steps, description=f"epoch {epoch}/{self._num_epochs}")
        elapsed = self._progress.tasks[0].elapsed or 0.0
        rate = f"{num_images / elapsed:.1f} images/s" if elapsed > 0 else ""
        self._progress.update(self._task, completed=step, rate=rate)

    def epoch_done(self, record: EpochRecord, is_best: bool) -> None:
        """Print the epoch's row, with a star where it is the best so far."""
        kappa = "  none" if record.validation_kappa is None else f"{record.validation_kappa:6.3f}"
        self._num_done += 1
        seconds_left = (time.monotonic() - self._started) / self._num_done * (self._num_epochs - record.epoch)
        accuracy = "   none" if record.validation_accuracy is None else f"{record.validation_accuracy:7.1%}"
        speed = f"{record.images_per_second:8.1f}  {record.seconds:7.1f}  {_format_duration(seconds_left):>9}"
        self._console.print(
            f"{record.epoch:5d}  {record.train_loss:10.4f}  {record.validation_loss:9.4f}  {kappa}   {accuracy}  "
            f"{speed}{'  *' if is_best else ''}",
            highlight=False,
        )


def _format_duration(seconds: float) -> str:
    """Hours, minutes and seconds, as 1:02:03."""
    return str(timedelta(seconds=round(seconds)))


_SCALARS = {
    "loss/training": "train_loss",
    "loss/validation": "validation_loss",
    "validation/kappa": "validation_kappa",
    "validation/accuracy": "validation_accuracy",
    "training/learning_rate": "learning_rate",
    "training/images_per_second": "images_per_second",
}


class EventLog:
    """Writes each epoch's figures as TensorBoard scalars, and passes every call on to another observer."""

    def __init__(self, writer: SummaryWriter, other: TrainingObserver) -> None:
        self._writer = writer
        self._other = other

    def batch_done(self, epoch: int, step: int, num_steps: int, num_images: int) -> None:
        """Pass on."""
        self._other.batch_done(epoch, step, num_steps, num_images)

    def epoch_done(self, record: EpochRecord, is_best: bool) -> None:
        """Write the epoch's figures, without those that are undefined."""
        for name, field in _SCALARS.items():
            if (value := getattr(record, field)) is not None:
                self._writer.add_scalar(name, value, record.epoch)
        self._writer.flush()
        self._other.epoch_done(record, is_best)


def check_event_log(folder: Path | None) -> None:
    """Raise TrainingError where an event log is requested, but TensorBoard is not installed."""
    if folder is not None:
        _summary_writer()


@contextlib.contextmanager
def log_events(
    observer: TrainingObserver, folder: Path | None, name: str, *, resume: bool
) -> Iterator[TrainingObserver]:
    """An observer that also writes events to folder/name; the observer itself where there is no folder.

    A resumed run continues its log; a new run of the same name replaces the earlier one in TensorBoard. Raises
    TrainingError where TensorBoard is not installed or the folder cannot be written.
    """
    if folder is None:
        yield observer
        return
    try:
        writer = _summary_writer()(str(folder / name), purge_step=None if resume else 1)
    except OSError as error:
        raise TrainingError(
            f"--tensorboard {folder}: {error_text(error)}; expected a folder that can be written"
        ) from error
    with writer:
        yield EventLog(writer, observer)


def _summary_writer() -> type[SummaryWriter]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TrainingError(
            "--tensorboard needs a package that is not installed; run pip install 'fundusgrade[tensorboard]', or leave "
            "the option out"
        ) from error
    return SummaryWriter
