"""The command `add-checks`: a model that flags photographs unlike its training photographs, or of poor quality."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fundusgrade.commands.options import DeviceOption, PrecisionOption
from fundusgrade.options import DeviceName, Precision


def add_checks(
    model: Annotated[str, typer.Argument(help="Model to add checks to, by name or path; its file is written anew.")],
    data: Annotated[
        list[str] | None,
        typer.Option(help="Data set that the model was trained with; repeat for several (default: by its name)."),
    ] = None,
    quality: Annotated[
        Path | None,
        typer.Option(help="CSV with columns image, quality (good, usable, reject) and patient (default: none)."),
    ] = None,
    photographs: Annotated[
        Path | None, typer.Option(help="Folder of the photographs of --quality (default: none).")
    ] = None,
    device: DeviceOption = DeviceName.AUTO,
    precision: PrecisionOption = Precision.AUTO,
) -> None:
    """Add checks to a model: is a photograph unlike the training photographs, would graders reject its quality?

    Its weights, and so its grades, stay. Both checks use the network's own features, at no cost in grading.
    """
    from fundusgrade.networks.device import choose_device
    from fundusgrade.reports.listings import checks_line
    from fundusgrade.training.feature_checks import ChecksRequest, add_feature_checks

    if (quality is None) != (photographs is None):
        raise typer.BadParameter("--quality and --photographs belong together: give both, or neither")
    request = ChecksRequest(model=model, data=tuple(data or ()), quality=quality, photographs=photographs)
    typer.echo(checks_line(model, add_feature_checks(request, choose_device(device, precision))))
