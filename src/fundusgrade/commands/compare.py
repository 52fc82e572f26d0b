"""The command `compare`: training runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fundusgrade.commands.options.names import complete_models
from fundusgrade.commands.options.output import OverwriteOption
from fundusgrade.commands.options.panels import OUTPUT
from fundusgrade.outputs import check_outputs
from fundusgrade.terminal import message, show


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Models or unfinished runs, by name or by the path of their folder.",
            autocompletion=complete_models,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="PNG of loss and kappa by epoch, the best epoch of each run marked (default: none).",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Compare training runs: epochs, best epoch, loss, kappa and minutes, and their curves in one figure.

    Kappa and accuracy are those of the validation photographs that chose the epoch, which differ between data sets; to
    compare models on the same photographs, use `fundusgrade evaluate`.
    """
    from fundusgrade.reports.run_table import runs_table
    from fundusgrade.training.compared_runs import draw_compared_curves, find_history

    histories = [find_history(run) for run in dict.fromkeys(runs)]
    if out is not None:
        check_outputs([out], inputs=[history.path for history in histories], overwrite=overwrite, suffixes=(".png",))
        draw_compared_curves(histories, out)
    show(runs_table(histories))
    if out is not None:
        message(f"written: {out!s}")
