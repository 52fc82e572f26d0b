"""The history of a training run: one record per epoch, and its curves."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fundusgrade.errors import MetricsError
from fundusgrade.plots import BLUE, VERMILION, new_figure, save_figure

METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """One line of metrics.jsonl. Validation scores are those of the averaged weights, as `validate` computes them.

    `learning_rate` is that of the last step; `seconds` and `images_per_second` do not include validation.
    """

    epoch: int
    train_loss: float
    validation_loss: float
    validation_kappa: float | None
    validation_accuracy: float | None
    learning_rate: float
    seconds: float
    images_per_second: float


def read_history(path: Path) -> tuple[EpochRecord, ...]:
    """The epochs of a metrics.jsonl; none where there is no such file, or it does not hold epoch records."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return tuple(EpochRecord(**json.loads(line)) for line in lines if line)
    except (OSError, ValueError, TypeError):
        return ()


def best_epoch(records: Sequence[EpochRecord]) -> int:
    """The epoch of highest validation kappa; of equals the one of lowest validation loss. 0 before the first."""
    return max(records, key=_validation_rank).epoch if records else 0


def _validation_rank(record: EpochRecord) -> tuple[float, float]:
    """A sort key that rises with kappa, then with falling loss; an undefined kappa is lower than any."""
    return (-2.0 if record.validation_kappa is None else record.validation_kappa, -record.validation_loss)


def draw_training_curves(records: Sequence[EpochRecord], best_epoch: int, path: Path) -> None:
    """Plot loss and kappa over the epochs into a PNG, with the best epoch marked; an undefined kappa leaves a gap.

    Raises MetricsError without records, StoreError where the file cannot be written.
    """
    from matplotlib.ticker import MaxNLocator

    if not records:
        raise MetricsError("no training curves to draw: the run completed no epoch")
    epochs = [record.epoch for record in records]
    kappas = [math.nan if record.validation_kappa is None else record.validation_kappa for record in records]
    figure = new_figure(width_inches=9, height_inches=4)
    loss_panel, kappa_panel = figure.subplots(1, 2)
    training = {"color": BLUE, "linestyle": "-", "marker": "o", "markersize": 4, "label": "Training"}
    validation = {"color": VERMILION, "linestyle": "--", "marker": "s", "markersize": 4, "label": "Validation"}
    loss_panel.plot(epochs, [record.train_loss for record in records], **training)
    loss_panel.plot(epochs, [record.validation_loss for record in records], **validation)
    loss_panel.set_ylabel("Loss")
    kappa_panel.plot(epochs, kappas, **validation)
    kappa_panel.set_ylabel("Quadratic weighted kappa")
    for panel in (loss_panel, kappa_panel):
        panel.axvline(best_epoch, color="black", linestyle=":", label=f"Best epoch ({best_epoch})")
        panel.set_xlabel("Epoch")
        panel.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.grid(alpha=0.3)
        panel.legend()
    save_figure(figure, path)
