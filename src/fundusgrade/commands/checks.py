"""The command `checks`: what is installed, and whether it works."""

from __future__ import annotations

import typer

from fundusgrade.commands.options.network import DeviceOption, ModelOption, PrecisionOption
from fundusgrade.options import DeviceName, Precision
from fundusgrade.terminal import message, show_details


def checks(
    model: ModelOption = None,
    device: DeviceOption = DeviceName.AUTO,
    precision: PrecisionOption = Precision.AUTO,
) -> None:
    """Show versions, device, memory, store and optional packages, and test in seconds whether grading works.

    The exit code is 1 if the self-test fails. Send the output with a report of a defect.
    """
    from fundusgrade.evaluation.self_test import self_test
    from fundusgrade.grading.grader import Grader
    from fundusgrade.networks.device import choose_device
    from fundusgrade.reports.installation import installation_details

    show_details(installation_details(choose_device(device, precision)))
    message("self-test ...")
    typer.echo(f"self-test: {self_test(Grader.load(model, device=device, precision=precision)).describe()}")
