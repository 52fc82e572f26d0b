"""A training run as TensorBoard shows it: one file of events for a run, a point for every epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fundusgrade.errors import TrainingError
from fundusgrade.run_state import EpochRecord
from fundusgrade.training import TrainingObserver

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

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
