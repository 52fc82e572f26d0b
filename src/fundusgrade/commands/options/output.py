"""Options of what a command writes."""

from __future__ import annotations

from typing import Annotated

import typer

from fundusgrade.commands.options.panels import OUTPUT

OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace files that are there already, if fundusgrade wrote them.",
        rich_help_panel=OUTPUT,
    ),
]
