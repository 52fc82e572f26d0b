"""The command `refit`: a model's calibration and decision rule from out-of-fold outputs."""

from __future__ import annotations

from typing import Annotated

import typer

from fundusgrade.commands.options.names import complete_datasets, complete_models, complete_predictions
from fundusgrade.commands.options.network import DeviceOption, PrecisionOption
from fundusgrade.commands.options.panels import DATA, OUTPUT
from fundusgrade.commands.options.referral import DecideForOption, DecisionOption, checked_decision
from fundusgrade.commands.settings import Settings
from fundusgrade.options import DeviceName, Precision


def refit(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Model to fit anew, by name or path.", autocompletion=complete_models),
    ],
    on: Annotated[
        str,
        typer.Option(
            "--on",
            metavar="NAME",
            help="Cross-validation in the store (`train --folds`), with the model's options.",
            autocompletion=complete_predictions,
            rich_help_panel=DATA,
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Data set that the model was trained with, by name or folder (default: by its name).",
            autocompletion=complete_datasets,
            rich_help_panel=DATA,
        ),
    ] = None,
    decision: DecisionOption = None,
    decide_for: DecideForOption = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the new model (default: MODEL-refitted).", rich_help_panel=OUTPUT),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model of the new name.", rich_help_panel=OUTPUT)
    ] = False,
    device: DeviceOption = DeviceName.AUTO,
    precision: PrecisionOption = Precision.AUTO,
    *,
    settings: Settings,
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
    refitted = refit_model(request, choose_device(device, precision))
    if refitted.path is not None:
        settings.write(refitted.path.parent, name=request.name)
    typer.echo(refitted.summary)
