"""The command `audit`: shortcut learning, and robustness to acquisition changes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fundusgrade.commands.options.data import SPLITS_IN_WORDS, DataArgument, LesionsOption
from fundusgrade.commands.options.names import complete_models
from fundusgrade.commands.options.network import DeviceOption, PrecisionOption
from fundusgrade.commands.options.output import OverwriteOption
from fundusgrade.commands.options.panels import DATA, MODEL, OUTPUT
from fundusgrade.commands.options.photographs import input_files
from fundusgrade.commands.settings import Settings
from fundusgrade.options import DeviceName, Precision, Split
from fundusgrade.outputs import check_folder, check_outputs
from fundusgrade.store import CONFIG_FILE
from fundusgrade.terminal import message, progress, show


def audit(
    data: DataArgument,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Model whose robustness to measure, by name or path (default: none).",
            autocompletion=complete_models,
            rich_help_panel=MODEL,
        ),
    ] = None,
    split: Annotated[
        Split,
        typer.Option(
            metavar="SPLIT",
            help=f"Split whose photographs are changed to test the model: {SPLITS_IN_WORDS}.",
            rich_help_panel=DATA,
        ),
    ] = Split.TEST,
    limit: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="NUMBER",
            help="Maximum number of photographs to change, chosen at random.",
            rich_help_panel=DATA,
        ),
    ] = 300,
    lesions: LesionsOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder to write audit.json and audit.png to (default: none).",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    device: DeviceOption = DeviceName.AUTO,
    precision: PrecisionOption = Precision.AUTO,
    *,
    settings: Settings,
) -> None:
    """Measure shortcut learning, and a model's robustness to acquisition changes.

    Shortcuts: how well the outline of the field of view, file properties, and color and sharpness predict the grade.
    Robustness: how much the expected grade changes when photographs are cropped, squashed, compressed or tinted, and,
    with --lesions, when lesions are covered.
    """
    from fundusgrade import store
    from fundusgrade.data.dataset import load_dataset
    from fundusgrade.evaluation.audit import audit_dataset, conclusion
    from fundusgrade.grading.datasets import load_for_figures
    from fundusgrade.reports.tables import audit_files, audit_tables, write_audit

    dataset = load_dataset(store.resolve_dataset(data))
    if out is not None:
        check_folder(out, [dataset.directory, dataset.root, lesions])
        read = input_files(models=[] if model is None else [model])
        check_outputs([*audit_files(out), out / CONFIG_FILE], inputs=read, overwrite=overwrite)
    grader = None if model is None else load_for_figures(model, device=device, precision=precision)
    with progress("auditing") as on_progress:
        audits = audit_dataset(dataset, [grader], split.value, limit=limit, lesions=lesions, on_progress=on_progress)
    for table in audit_tables(audits):
        show(table)
    typer.echo(conclusion(*audits))
    if out is not None:
        write_audit(audits[0], out)
        settings.write(out)
        message(f"written: {out / 'audit.json'!s}, {out / 'audit.png'!s}")
