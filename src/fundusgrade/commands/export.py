"""The command `export`: a model for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fundusgrade.commands.options import OverwriteOption
from fundusgrade.options import ExportFormat, Split
from fundusgrade.terminal import WARNING, message, show


def export(
    model: Annotated[str | None, typer.Argument(help="Model, by name or path (default: the shipped model).")] = None,
    format: Annotated[
        ExportFormat,
        typer.Option(
            help="File format: a graph for ONNX Runtime or OpenVINO, or a folder in the layout of timm's hub."
        ),
    ] = ExportFormat.ONNX,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantize to 8-bit integers, with ranges measured on training images.")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(help="Data set to check and quantize on, by name or folder (default: the model's training data)."),
    ] = None,
    split: Annotated[Split, typer.Option(help="Split to check on.")] = Split.TEST,
    limit: Annotated[
        int, typer.Option(min=0, help="Maximum number of images to check on, chosen at random; 0 for all.")
    ] = 0,
    check: Annotated[
        bool,
        typer.Option("--check/--no-check", help="Compare grades and probabilities of the export and the original."),
    ] = True,
    out: Annotated[
        Path | None, typer.Option(help="File (.onnx, .xml) or folder to write (default: named after the model).")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Export a model to ONNX, OpenVINO or timm's hub layout, and check that its predictions agree with the original."""
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
