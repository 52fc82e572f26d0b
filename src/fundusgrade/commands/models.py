"""The commands `models ...`: list, show, rename, remove, import, export, path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from fundusgrade.commands.options.names import complete_models, complete_own_models
from fundusgrade.commands.options.output import OverwriteOption, YesOption, check_confirmed
from fundusgrade.commands.options.panels import OUTPUT
from fundusgrade.terminal import Verbosity, message, show, show_details, verbosity

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Model, by name or path.", autocompletion=complete_models)
]
OwnModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Model of the store, by name.", autocompletion=complete_own_models)
]


def list_models() -> None:
    """List the trained models and the models that are shipped with fundusgrade."""
    from fundusgrade import store
    from fundusgrade.reports.listings import models_table

    found = store.list_models()
    is_wide = verbosity() is Verbosity.VERBOSE or not sys.stdout.isatty()
    show(models_table(found, default=store.DEFAULT_MODEL, with_hashes=is_wide))
    if not found:
        message("no model yet; train one with `fundusgrade train`")


def show_model(model: ModelArgument) -> None:
    """Show what a model is: network, training data, options, scores, decision rule, operating point, checks."""
    from fundusgrade import store
    from fundusgrade.networks.checkpoint_file import read_description
    from fundusgrade.reports.details import model_details

    path = store.resolve_model(model)
    places = {each.path: "shipped" if each.shipped else "store" for each in store.list_models()}
    where = places.get(path, "file")
    show_details(model_details(read_description(path), path, where=where))


def rename_model(
    model: OwnModelArgument, name: Annotated[str, typer.Argument(metavar="NAME", help="The new name.")]
) -> None:
    """Rename a model of the store; its file and card then hold the new name too, and its weights stay."""
    from fundusgrade.networks import model_files

    model_files.rename_model(model, name)
    message(f"the model {model} is called {name} now")


def remove_models(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODELS", help="Models of the store, by name.", autocompletion=complete_own_models),
    ],
    yes: YesOption = False,
) -> None:
    """Remove models from the store, with their cards and curves; shipped models cannot be removed."""
    from fundusgrade.networks import model_files

    folders = [model_files.own_file(name).parent for name in models]
    check_confirmed([f"the model {name}, {folder}" for name, folder in zip(models, folders, strict=True)], yes=yes)
    for name in models:
        model_files.remove_model(name)
        message(f"removed the model {name}")


def import_model(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="A .zip file or folder of `models export`, or a .safetensors file."),
    ],
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name in the store (default: the model's own).", rich_help_panel=OUTPUT),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model of this name in the store.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Take a model from a file or folder into the store, after its hashes were verified."""
    from fundusgrade.networks import model_files

    installed, found = model_files.import_model(path, name, overwrite=overwrite)
    if found.left_out:
        message(f"left out, because they are not of a model: {', '.join(found.left_out)}")
    message(f"imported the model {installed.parent.name}: {installed}")


def export_model(
    model: ModelArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="File (.zip) or new folder for everything, or .safetensors file for weights and description only "
            "(default: MODEL.zip).",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a model to one file or folder that another installation of fundusgrade imports.

    For ONNX, OpenVINO and timm see `fundusgrade export`.
    """
    from fundusgrade.networks import model_files

    out = out or Path(f"{Path(model).stem}.zip")
    model_files.export_model_files(model, out, overwrite=overwrite)
    message(f"written: {out}; import it elsewhere with `fundusgrade models import {out.name}`")


def path_of_model(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="Model, by name (default: the shipped model).", autocompletion=complete_models
        ),
    ] = None,
) -> None:
    """Print the path of a model's file."""
    from fundusgrade import store

    typer.echo(store.resolve_model(model))


COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_models,
    "show": show_model,
    "rename": rename_model,
    "remove": remove_models,
    "import": import_model,
    "export": export_model,
    "path": path_of_model,
}
