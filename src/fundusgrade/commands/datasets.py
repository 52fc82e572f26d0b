"""The commands `datasets ...`: list, show, rename, remove, import, export, path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from fundusgrade.commands.options.data import DataArgument
from fundusgrade.commands.options.names import complete_datasets
from fundusgrade.commands.options.output import OverwriteOption, YesOption, check_confirmed
from fundusgrade.commands.options.panels import OUTPUT
from fundusgrade.terminal import Verbosity, message, show, show_details, verbosity

OwnDataArgument = Annotated[
    str, typer.Argument(metavar="DATA", help="Data set of the store, by name.", autocompletion=complete_datasets)
]


def list_datasets() -> None:
    """List the prepared data sets."""
    from fundusgrade import store
    from fundusgrade.reports.listings import datasets_table

    found = store.list_datasets()
    is_wide = verbosity() is Verbosity.VERBOSE or not sys.stdout.isatty()
    show(datasets_table(found, with_hashes=is_wide))
    if not found:
        message("no data set yet; prepare one with `fundusgrade preprocess FOLDER`")


def show_dataset(data: DataArgument) -> None:
    """Show what a data set holds: photographs of each grade and split, duplicates, quality, reasons for failures."""
    from fundusgrade import store
    from fundusgrade.data.dataset import load_dataset
    from fundusgrade.reports.details import dataset_details

    dataset = load_dataset(store.resolve_dataset(data))
    show_details(dataset_details(dataset))


def rename_dataset(
    data: OwnDataArgument, name: Annotated[str, typer.Argument(metavar="NAME", help="The new name.")]
) -> None:
    """Rename a data set of the store; models that were trained on it still recognize its photographs and patients."""
    from fundusgrade.data import dataset_files

    dataset_files.rename_dataset(data, name)
    message(f"the data set {data} is called {name} now")


def remove_datasets(
    data: Annotated[
        list[str],
        typer.Argument(metavar="DATA", help="Data sets of the store, by name.", autocompletion=complete_datasets),
    ],
    yes: YesOption = False,
) -> None:
    """Remove prepared data sets from the store; the photographs that they were made of stay."""
    from fundusgrade.data import dataset_files

    folders = [dataset_files.own_folder(name) for name in data]
    check_confirmed([f"the data set {name}, {folder}" for name, folder in zip(data, folders, strict=True)], yes=yes)
    for name in data:
        dataset_files.remove_dataset(name)
        message(f"removed the data set {name}")


def import_dataset(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A .zip file or folder of `datasets export`.")],
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name in the store (default: its own).", rich_help_panel=OUTPUT),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a data set of this name in the store.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Take a prepared data set from a file or folder into the store, after it was found whole."""
    from fundusgrade.data import dataset_files

    dataset, found = dataset_files.import_dataset(path, name, overwrite=overwrite)
    if found.left_out:
        message(f"left out, because they are not of a data set: {', '.join(found.left_out)}")
    message(f"imported the data set {dataset.name}: {dataset.directory}")


def export_dataset(
    data: DataArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="File (.zip) or new folder to write (default: DATA.zip).", rich_help_panel=OUTPUT
        ),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a prepared data set to one file or folder that another installation of fundusgrade imports.

    It holds preprocessed images, labels, patients' identifiers and the names of the photographs, not these themselves.
    """
    from fundusgrade.data import dataset_files

    out = out or Path(f"{Path(data).name}.zip")
    num_images = dataset_files.export_dataset(data, out, overwrite=overwrite)
    message(f"written: {out}, {num_images} images; import it elsewhere with `fundusgrade datasets import {out.name}`")


def path_of_dataset(data: DataArgument) -> None:
    """Print the path of a data set's folder."""
    from fundusgrade import store

    typer.echo(store.resolve_dataset(data))


COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_datasets,
    "show": show_dataset,
    "rename": rename_dataset,
    "remove": remove_datasets,
    "import": import_dataset,
    "export": export_dataset,
    "path": path_of_dataset,
}
