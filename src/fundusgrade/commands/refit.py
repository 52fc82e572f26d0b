"""The command `refit`: a model's calibration and decision rule from out-of-fold outputs."""

from __future__ import annotations

from typing import Annotated

import typer

from fundusgrade.commands.options import DeviceOption, PrecisionOption, checked_decision
from fundusgrade.options import DecideFor, Decision, DeviceName, Precision


def refit(
    model: Annotated[str, typer.Argument(help="Model to fit anew, by name or path.")],
    on: Annotated[
        str, typer.Option("--on", help="Cross-validation in the store (`train --folds`), with the model's options.")
    ],
    name: Annotated[str | None, typer.Option(help="Name of the new model (default: MODEL-refitted).")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Data set that the model was trained with, by name or folder (default: by its name)."),
    ] = None,
    decision: Annotated[
        Decision | None, typer.Option(help="Decision rule of the new model (default: that of the model).")
    ] = None,
    decide_for: Annotated[
        DecideFor | None,
        typer.Option(
            help="What thresholds are fitted for; implies `--decision thresholds` (default: that of the model, else "
            "balanced)."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model of the new name.")] = False,
    device: DeviceOption = DeviceName.AUTO,
    precision: PrecisionOption = Precision.AUTO,
) -> None:
    """Fit a model's calibration, thresholds and conformity scores anew, on out-of-fold outputs of a cross-validation.

    These are more photographs than a validation split has; the model's test split is left out. Its weights stay. For
    the photographs of a clinic see `fundusgrade calibrate`.
    """
    from pathlib import Path

    from fundusgrade.networks.device import choose_device
    from fundusgrade.training.refit import RefitRequest, refit_model

    request = RefitRequest(
        model=model,
        folds=on,
        name=name or f"{Path(model).stem if '/' in model else model}-refitted",
        data=tuple(data or ()),
        decision=checked_decision(decision, decide_for),
        decide_for=decide_for,
        overwrite=overwrite,
    )
    typer.echo(refit_model(request, choose_device(device, precision)).summary)
