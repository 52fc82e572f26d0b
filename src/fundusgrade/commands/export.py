"""The command `export`: a model for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fundusgrade.options import ExportFormat, Split
from fundusgrade.terminal import message, show


def export(
    model: Annotated[str | None, typer.Argument(help="Model, by name or path; the shipped one if not given.")] = None,
    format: Annotated[ExportFormat, typer.Option(help="A graph for a runtime, or timm's layout.")] = ExportFormat.ONNX,
    int8: Annotated[bool, typer.Option("--int8", help="8-bit arithmetic, scaled on training photographs.")] = False,
    data: Annotated[str | None, typer.Option(help="Data set to check on; the model's own if not given.")] = None,
    split: Annotated[Split, typer.Option(help="Which photographs to check on.")] = Split.TEST,
    limit: Annotated[int, typer.Option(min=0, help="Photographs to check on; 0 for all.")] = 0,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Grade with export and original.")] = True,
    out: Annotated[Path | None, typer.Option(help="File (.onnx, .xml) or folder; named after the model.")] = None,
) -> None:
    """Write a model for ONNX Runtime, OpenVINO or timm's hub, and check that it still grades alike."""
    from fundusgrade.networks.export import ExportRequest, export_model
    from fundusgrade.reports.tables import export_table

    wanted = ExportRequest(
        format=format, model=model, int8=int8, data=data, split=split, limit=limit, check=check, out=out
    )
    exported = export_model(wanted)
    if exported.check is not None:
        show(export_table(exported.check))
        if exported.check.loses_much:
            loss = f"the export loses {exported.check.kappa_loss:.4f} of kappa; use the original, or leave out --int8"
            message(loss, lead="[bold red]Warning:[/] ")
    message(f"written: {', '.join(map(str, exported.paths))}")
