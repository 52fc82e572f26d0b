"""A training run as TensorBoard shows it: one file of events for a run, a point for every epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from rich.console import Console

from fundusgrade.errors import TrainingError
from fundusgrade.terminal import progress_bar
from fundusgrade.training.history import EpochRecord

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TrainingProgress:
    """Shows a training run: a bar for the epoch under way, a row for each one that is done."""

    def __init__(self, console: Console, num_epochs: int) -> None:
        self._console = console
        self._num_epochs = num_epochs
        self._progress = progress_bar(console, unit="steps")
        self._task = self._progress.add_task("training", total=None, rate="")

    def __enter__(self) -> TrainingProgress:
        self._progress.start()
        self._console.print("epoch  train loss  val. loss   kappa  accuracy  images/s  seconds", highlight=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def batch_done(self, epoch: int, step: int, num_steps: int, num_images: int) -> None:
        """Move the bar."""
        if step == 1:
            self._progress.reset(self._task, total=num_steps, description=f"epoch {epoch}/{self._num_epochs}")
        elapsed = self._progress.tasks[0].elapsed or 0.0
        rate = f"{num_images / elapsed:.1f} images/s" if elapsed > 0 else ""
        self._progress.update(self._task, completed=step, rate=rate)

    def epoch_done(self, record: EpochRecord, is_best: bool) -> None:
        """Print the epoch's row; a star marks the best so far."""
        kappa = "  none" if record.validation_kappa is None else f"{record.validation_kappa:6.3f}"
        accuracy = "   none" if record.validation_accuracy is None else f"{record.validation_accuracy:7.1%}"
        self._console.print(
            f"{record.epoch:5d}  {record.train_loss:10.4f}  {record.validation_loss:9.4f}  {kappa}   {accuracy}  "
            f"{record.images_per_second:8.1f}  {record.seconds:7.1f}{'  *' if is_best else ''}",
            highlight=False,
        )


_NAMES = {
    "loss/training": "train_loss",
    "loss/validation": "validation_loss",
    "validation/kappa": "validation_kappa",
    "validation/accuracy": "validation_accuracy",
    "training/learning_rate": "learning_rate",
    "training/images_per_second": "images_per_second",
}


class EventLog:
    """Writes each epoch's figures, and lets another observer watch too."""

    def __init__(self, writer: SummaryWriter, other: TrainingObserver) -> None:
        self._writer = writer
        self._other = other

    def batch_done(self, epoch: int, step: int, num_steps: int, num_images: int) -> None:
        """Only the other one wants to know."""
        self._other.batch_done(epoch, step, num_steps, num_images)

    def epoch_done(self, record: EpochRecord, is_best: bool) -> None:
        """Write the epoch's figures; one that is undefined has no point."""
        for name, field in _NAMES.items():
            if (value := getattr(record, field)) is not None:
                self._writer.add_scalar(name, value, record.epoch)
        self._writer.flush()
        self._other.epoch_done(record, is_best)


def check_event_log(folder: Path | None) -> None:
    """Raises TrainingError where events are wanted, but TensorBoard is not installed."""
    if folder is not None:
        _summary_writer()


@contextlib.contextmanager
def log_events(
    observer: TrainingObserver, folder: Path | None, name: str, *, resume: bool
) -> Iterator[TrainingObserver]:
    """An observer that also writes events to folder/name; the observer itself where there is no folder.

    A run that is resumed adds to its points; another one of this name makes TensorBoard forget those that are there.
    Raises TrainingError where TensorBoard is not installed or the folder cannot be written.
    """
    if folder is None:
        yield observer
        return
    try:
        writer = _summary_writer()(str(folder / name), purge_step=None if resume else 1)
    except OSError as error:
        raise TrainingError(
            f"--tensorboard {folder}: {error.strerror or error}; expected a folder that can be written"
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


class TrainingObserver(Protocol):
    """Whoever wants to watch: a progress bar, a test."""

    def batch_done(self, epoch: int, step: int, num_steps: int, num_images: int) -> None: ...
    def epoch_done(self, record: EpochRecord, is_best: bool) -> None: ...
