"""What a person sees while something long runs: progress bars and one table row per epoch, on stderr."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from fundusgrade.run_state import EpochRecord


def progress_bar(console: Console, *, unit: str = "photographs") -> Progress:
    """A bar with count, rate and time left; it is silent where stderr is not a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit}, {{task.fields[rate]}}"),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        disable=console.quiet or not console.is_terminal,
        transient=True,
    )


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
