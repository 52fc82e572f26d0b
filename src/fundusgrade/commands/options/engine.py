"""Options of runs in parts: an engine that distributes photographs, and folders and URLs to write to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fundusgrade.commands.options.panels import SEVERAL_RUNS
from fundusgrade.options import Engine
from fundusgrade.outputs import check_folder

if TYPE_CHECKING:
    from fundusgrade.grading.engine import PartsOutput

EngineOption = Annotated[
    Engine | None,
    typer.Option(
        "--engine",
        metavar="NAME",
        help="Grade with the workers of an engine, ray, on this machine or a cluster; --workers is then the number of "
        "threads of each (default: this process).",
        rich_help_panel=SEVERAL_RUNS,
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDRESS",
        help="Cluster of --engine: auto on one of its machines, HOST:PORT or ray://HOST:PORT (default: one that is "
        "started on this machine).",
        rich_help_panel=SEVERAL_RUNS,
    ),
]


def parts_output(out: Path | None, engine: Engine | None, address: str | None, *, of_all: bool) -> PartsOutput | None:
    """Where rows go in parts: with an engine, to a folder, or to a URL; None for other files and standard output.

    `of_all` says that something is made of the file of all rows. Raises BadParameter for options that do not fit
    together.
    """
    from fundusgrade.photographs.remote import is_url

    if address is not None and engine is None:
        raise typer.BadParameter("--address is that of an engine: add --engine ray")
    if out is None:
        if engine is not None:
            raise typer.BadParameter("--engine needs a place for the rows: name a folder, a file or a URL with --out")
        return None
    is_folder = out.is_dir() or (out.suffix == "" and not os.path.lexists(out))
    if engine is None and not is_folder and not is_url(out):
        return None
    from fundusgrade.grading.engine import PartsOutput
    from fundusgrade.grading.rows import row_format

    if not is_folder:
        row_format(out)
    output = PartsOutput.of(out)
    if of_all and output.local_file is None:
        raise typer.BadParameter("--by-patient and --report need one file on this machine: name it with --csv")
    return output


def check_parts_output(
    output: PartsOutput, out: Path, read: Sequence[Path | None], *, resume: bool, overwrite: bool
) -> None:
    """Raise StoreError where the output may not be written; called before anything is computed."""
    if output.file is None:
        check_folder(out, [*read, *{path.parent for path in read if path is not None}])
    output.check(resume=resume, overwrite=overwrite)
