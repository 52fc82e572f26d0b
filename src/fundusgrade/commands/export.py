"""The command `export`: a model for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fundusgrade.commands.options.data import SPLITS_IN_WORDS
from fundusgrade.commands.options.names import complete_datasets, complete_models
from fundusgrade.commands.options.output import OverwriteOption
from fundusgrade.commands.options.panels import OUTPUT
from fundusgrade.options import ExportFormat, Split
from fundusgrade.terminal import WARNING, message, show

_CHECK = "Comparison with the original"


def export(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Model, by name or path (default: the shipped model).",
            autocompletion=complete_models,
        ),
    ] = None,
    format: Annotated[
        ExportFormat,
        typer.Option(
            metavar="FORMAT",
            help="File format: a graph for ONNX Runtime (onnx) or OpenVINO (openvino), or a folder in the layout of "
            "timm's hub (hub).",
            rich_help_panel=OUTPUT,
        ),
    ] = ExportFormat.ONNX,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="Quantize to 8-bit integers, with ranges measured on training images.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="File (.onnx, .xml) or folder to write (default: named after the model).",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Data set to check and quantize on, by name or folder (default: the model's training data).",
            autocompletion=complete_datasets,
            rich_help_panel=_CHECK,
        ),
    ] = None,
    split: Annotated[
        Split,
        typer.Option(metavar="SPLIT", help=f"Split to check on: {SPLITS_IN_WORDS}.", rich_help_panel=_CHECK),
    ] = Split.TEST,
    limit: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="NUMBER",
            help="Maximum number of images to check on, chosen at random; 0 for all.",
            rich_help_panel=_CHECK,
        ),
    ] = 0,
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check",
            help="Compare grades and probabilities of the export and the original.",
            rich_help_panel=_CHECK,
        ),
    ] = True,
    overwrite: OverwriteOption = False,
) -> None:
    """Export a model to ONNX, OpenVINO or timm's hub layout, and check that its predictions agree with the original.

    For a file that another installation of fundusgrade imports, see `fundusgrade models export`.
    """
    from fundusgrade.networks.export import ExportRequest, export_model
    from fundusgrade.reports.tables import export_table

    chosen = ExportRequest(
        format=format,
        model=model,
        int8=int8,
        data=data,
        split=split,
        limit=limit,
        check=check,
        out=out,
        overwrite=overwrite,
    )
    exported = export_model(chosen)
    if exported.check is not None:
        show(export_table(exported.check))
        if exported.check.loses_much:
            loss = f"the export loses {exported.check.kappa_loss:.4f} of kappa; use the original, or leave out --int8"
            message(loss, lead=WARNING)
    message(f"written: {', '.join(map(str, exported.paths))}")
