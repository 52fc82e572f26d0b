"""Training runs side by side: their histories by name, and loss and kappa of all in one figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fundusgrade import store
from fundusgrade.errors import StoreError
from fundusgrade.plots import SERIES_COLORS, new_figure, save_figure
from fundusgrade.training.history import METRICS_FILE, EpochRecord, best_epoch, read_history

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "os^Dv*"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHistory:
    """The epochs of a finished or unfinished run, at least one; `path` is their file."""

    name: str
    path: Path
    records: tuple[EpochRecord, ...]

    @property
    def best(self) -> EpochRecord:
        """The epoch whose weights the model has."""
        return self.records[best_epoch(self.records) - 1]

    @property
    def minutes(self) -> float:
        """Minutes of training, without validation."""
        return sum(record.seconds for record in self.records) / 60


def find_history(name_or_path: str) -> RunHistory:
    """The history of a model of the store, an unfinished run or a folder. Raises StoreError where there is none."""
    folder = Path(name_or_path)
    candidates = [model.path.parent for model in store.list_models() if model.name == name_or_path]
    candidates += [run] if (run := store.home() / "runs" / name_or_path).is_dir() else []
    candidates += [folder if folder.is_dir() else folder.parent] if folder.exists() else []
    for candidate in candidates:
        if records := read_history(candidate / METRICS_FILE):
            return RunHistory(name=folder.name, path=candidate / METRICS_FILE, records=records)
    if not candidates:
        store.resolve_model(name_or_path)  # which says what there is
    raise StoreError(
        f"{name_or_path} has no history of its training: {METRICS_FILE} is missing or damaged in {candidates[0]}; "
        "compare models that `fundusgrade train` made, or runs in progress"
    )


def draw_compared_curves(runs: Sequence[RunHistory], path: Path) -> None:
    """Plot loss and validation kappa of all runs over the epochs into a PNG, the best epoch of each marked by a ring.

    Raises StoreError where the file cannot be written.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(width_inches=11, height_inches=4.6)
    loss_panel, kappa_panel = figure.subplots(1, 2)
    for number, run in enumerate(runs):
        _draw_run(loss_panel, kappa_panel, run, number)
    loss_panel.set_ylabel("Loss (thin: training, dashed: validation)")
    kappa_panel.set_ylabel("Quadratic weighted kappa on validation")
    for panel in (loss_panel, kappa_panel):
        panel.set_xlabel("Epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.grid(alpha=0.3)
    kappa_panel.legend(title="ring: best epoch", fontsize=9, title_fontsize=9)
    save_figure(figure, path)


def _draw_run(loss_panel: Axes, kappa_panel: Axes, run: RunHistory, number: int) -> None:
    style: dict[str, Any] = {"color": SERIES_COLORS[number % len(SERIES_COLORS)], "markersize": 4}
    marked = {**style, "marker": _MARKERS[number % len(_MARKERS)], "linestyle": "--"}
    epochs = [record.epoch for record in run.records]
    kappas = [math.nan if record.validation_kappa is None else record.validation_kappa for record in run.records]
    label = f"{run.name} ({run.best.epoch} of {len(epochs)})"
    loss_panel.plot(epochs, [record.train_loss for record in run.records], linewidth=1, **style)
    loss_panel.plot(epochs, [record.validation_loss for record in run.records], **marked)
    kappa_panel.plot(epochs, kappas, label=label, **marked)
    ring: dict[str, Any] = {"color": style["color"], "marker": "o", "markersize": 13, "fillstyle": "none"}
    loss_panel.plot([run.best.epoch], [run.best.validation_loss], **ring)
    kappa_panel.plot([run.best.epoch], [kappas[run.best.epoch - 1]], **ring)
