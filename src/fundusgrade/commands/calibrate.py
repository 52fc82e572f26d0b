"""The command `calibrate`: a clinic's own model, with a certified sensitivity and recalibrated probabilities."""

from __future__ import annotations

from typing import Annotated

import typer

from fundusgrade.commands.options.data import LabelsOption
from fundusgrade.commands.options.names import complete_datasets, complete_models
from fundusgrade.commands.options.network import DeviceOption, PrecisionOption
from fundusgrade.commands.options.panels import DATA, OUTPUT
from fundusgrade.commands.settings import Settings
from fundusgrade.options import DeviceName, Precision
from fundusgrade.terminal import show

_CERTIFICATE = "Certificate"


def calibrate(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Model to calibrate, by name or path.", autocompletion=complete_models),
    ],
    data: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            help="Prepared data set of the clinic's graded patients, by name or folder; repeat for several.",
            autocompletion=complete_datasets,
            rich_help_panel=DATA,
        ),
    ],
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the new model.", rich_help_panel=OUTPUT)],
    labels: LabelsOption = None,
    sensitivity: Annotated[
        float,
        typer.Option(
            min=0.5,
            max=0.99,
            metavar="PROPORTION",
            help="Sensitivity for referable DR, by patient, to be certified.",
            rich_help_panel=_CERTIFICATE,
        ),
    ] = 0.90,
    confidence: Annotated[
        float,
        typer.Option(
            min=0.5,
            max=0.999,
            metavar="PROBABILITY",
            help="Probability with which the certificate must hold.",
            rich_help_panel=_CERTIFICATE,
        ),
    ] = 0.90,
    grades: Annotated[
        bool,
        typer.Option(
            "--grades",
            help="Decide grades by the recalibrated probabilities too.",
            rich_help_panel=_CERTIFICATE,
        ),
    ] = False,
    camera: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="Note of the camera, stored with the model (default: none).",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = "",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model of this name.", rich_help_panel=OUTPUT)
    ] = False,
    device: DeviceOption = DeviceName.AUTO,
    precision: PrecisionOption = Precision.AUTO,
    *,
    settings: Settings,
) -> None:
    """Calibrate a model for a clinic, on photographs of its own patients that were graded by people.

    The new model refers patients from a threshold whose sensitivity among this clinic's future patients is certified,
    and its probabilities are recalibrated; weights and grades stay. To fit a model's calibration on a cross-validation
    of its training data, see `fundusgrade refit`.
    """
    from fundusgrade.networks.device import choose_device
    from fundusgrade.reports.calibration import calibration_lines, recalibration_table
    from fundusgrade.training.clinic import CalibrationRequest, calibrate_for_clinic

    request = CalibrationRequest(
        model=model,
        data=tuple(data),
        labels=labels,
        name=name,
        sensitivity=sensitivity,
        confidence=confidence,
        camera=camera,
        changes_grades=grades,
        overwrite=overwrite,
    )
    calibrated = calibrate_for_clinic(request, choose_device(device, precision))
    settings.write(calibrated.path.parent)
    show(recalibration_table(calibrated.before, calibrated.after))
    typer.echo("\n".join(calibration_lines(calibrated)))
