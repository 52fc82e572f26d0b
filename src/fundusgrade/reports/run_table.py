"""Training runs as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fundusgrade.metrics.estimates import describe_number
from fundusgrade.text import printable
from fundusgrade.training.compared_runs import RunHistory


def runs_table(runs: Sequence[RunHistory]) -> Table:
    """A row of each run: how long it trained, and its best epoch."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("run", overflow="fold")
    for column in ("epochs", "best epoch", "kappa", "accuracy", "val. loss", "train loss", "minutes"):
        table.add_column(column, justify="right")
    for run in runs:
        best = run.best
        scores = (best.validation_kappa, best.validation_accuracy, best.validation_loss, best.train_loss)
        # As Text, because square brackets in a name would be read as markup.
        table.add_row(
            Text(printable(run.name)),
            *(str(len(run.records)), str(best.epoch), *map(describe_number, scores)),
            f"{run.minutes:.1f}",
        )
    return table
