"""The command `add-checks`: a model that flags photographs unlike its training photographs, or of poor quality."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fundusgrade.commands.options.names import complete_datasets, complete_models
from fundusgrade.commands.options.network import DeviceOption, PrecisionOption
from fundusgrade.commands.options.panels import DATA
from fundusgrade.commands.settings import Settings
from fundusgrade.files import write_atomically
from fundusgrade.options import DeviceName, Precision
from fundusgrade.outputs import check_outputs
from fundusgrade.store import CHECKS_CONFIG_FILE


def add_checks(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Model to add checks to, by name or path; its file is written anew.",
            autocompletion=complete_models,
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Data set that the model was trained with; repeat for several (default: by its name).",
            autocompletion=complete_datasets,
            rich_help_panel=DATA,
        ),
    ] = None,
    quality: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CSV with columns image, quality (good, usable, reject) and patient (default: none).",
            rich_help_panel=DATA,
        ),
    ] = None,
    photographs: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder of the photographs of --quality (default: none).", rich_help_panel=DATA
        ),
    ] = None,
    device: DeviceOption = DeviceName.AUTO,
    precision: PrecisionOption = Precision.AUTO,
    *,
    settings: Settings,
) -> None:
    """Add checks to a model: is a photograph unlike the training photographs, would graders reject its quality?

    Its weights, and so its grades, stay. Both checks use the network's own features, at no cost in grading.
    """
    from fundusgrade import store
    from fundusgrade.networks.device import choose_device
    from fundusgrade.reports.listings import checks_line
    from fundusgrade.training.feature_checks import ChecksRequest, add_feature_checks

    if (quality is None) != (photographs is None):
        raise typer.BadParameter("--quality and --photographs belong together: give both, or neither")
    beside = store.resolve_model(model).with_name(CHECKS_CONFIG_FILE)
    check_outputs([beside], overwrite=True)
    request = ChecksRequest(model=model, data=tuple(data or ()), quality=quality, photographs=photographs)
    checks = add_feature_checks(request, choose_device(device, precision))
    write_atomically(beside, settings.text())
    typer.echo(checks_line(model, checks))
