"""Options of what a command writes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from fundusgrade.commands.options.panels import OUTPUT
from fundusgrade.terminal import message

OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace files that are there already, if fundusgrade wrote them.",
        rich_help_panel=OUTPUT,
    ),
]
YesOption = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask before something is removed.", rich_help_panel=OUTPUT)
]


def check_confirmed(what: Sequence[str], *, yes: bool) -> None:
    """Ask before these things are removed, unless `YesOption` is given; where nobody can be asked it is needed.

    Raises BadParameter without an answer, and Abort where the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"nothing is removed without asking or --yes: {'; '.join(what)}")
    for each in what:
        message(f"to be removed: {each}")
    typer.confirm("Remove?", abort=True, err=True)
