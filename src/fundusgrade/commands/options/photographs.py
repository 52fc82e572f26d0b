"""The photographs that a command takes, and what it reads besides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fundusgrade.commands.options.panels import PHOTOGRAPHS
from fundusgrade.errors import DatasetError, StoreError
from fundusgrade.terminal import message
from fundusgrade.text import error_text

if TYPE_CHECKING:
    from fundusgrade.photographs.sources import PhotographSource

PhotographsArgument = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="PHOTOGRAPHS", help="Photographs, folders of photographs and .zip archives, on this machine or at URLs."
    ),
]
ListOption = Annotated[
    Path | None,
    typer.Option(
        "--list",
        metavar="FILE",
        help="Text file with one path or URL of a photograph or folder per line (default: none).",
        rich_help_panel=PHOTOGRAPHS,
    ),
]


def find_photographs(named: Sequence[Path] | None, list_file: Path | None = None) -> list[PhotographSource]:
    """The photographs of `PhotographsArgument` and `ListOption`, in order; what folders hold besides is counted.

    Raises DatasetError where there are none.
    """
    from fundusgrade.photographs.sources import search_images
    from fundusgrade.reports.listings import skipped_line

    if not named and list_file is None:
        raise typer.BadParameter("name photographs, folders of photographs, or a --list")
    found = search_images([*(named or []), *(_read_list(list_file) if list_file is not None else [])])
    skipped = skipped_line(found.num_skipped)
    if not found.photographs:
        where = ", ".join(map(str, [*(named or []), *([list_file] if list_file else [])]))
        raise DatasetError(
            f"no photographs in {where}" + (f" ({skipped})" if skipped else "") + "; expected JPEG, PNG, TIFF, BMP, "
            "WebP, GIF, JPEG 2000, PPM, HEIC, AVIF or DICOM files, whatever they are called, or .zip archives of them"
        )
    if skipped:
        message(skipped)
    return list(found.photographs)


def input_files(
    found: Sequence[PhotographSource] = (), *others: Path | None, models: Sequence[str | None] = ()
) -> list[Path | None]:
    """Every file that a command reads, for `check_outputs`. Raises StoreError for an unknown model."""
    from fundusgrade import store

    return [*(each.path for each in found), *others, *map(store.resolve_model, models)]


def _read_list(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
    except OSError as error:
        raise StoreError(f"--list {path}: {error_text(error)}; expected a text file of paths") from error
    return [line.removesuffix("\r") for line in lines if line.strip()]
