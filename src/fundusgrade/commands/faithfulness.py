"""The command `faithfulness`: tests of heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fundusgrade.commands.options.data import AllowLeakageOption, LesionsOption, SplitOption
from fundusgrade.commands.options.heat_maps import (
    MethodsOption,
    TargetOption,
    explain_options,
    report_skipped,
    show_findings,
)
from fundusgrade.commands.options.names import complete_datasets
from fundusgrade.commands.options.network import DeviceOption, ModelsOption, PrecisionOption, load_graders
from fundusgrade.commands.options.output import OverwriteOption
from fundusgrade.commands.options.panels import DATA, OUTPUT
from fundusgrade.commands.options.photographs import input_files
from fundusgrade.commands.settings import Settings
from fundusgrade.errors import DatasetError
from fundusgrade.options import NUM_FOLDS, DeviceName, Precision, Split
from fundusgrade.outputs import check_folder, check_outputs
from fundusgrade.terminal import message, progress

if TYPE_CHECKING:
    from fundusgrade.data.dataset import PreparedDataset
    from fundusgrade.evaluation.findings import Findings
    from fundusgrade.grading.grader import Grader


def faithfulness(
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help="Prepared data set, by name or folder (default: none, with --lesions).",
            autocompletion=complete_datasets,
        ),
    ] = None,
    model: ModelsOption = None,
    target: TargetOption = "predicted",
    method: MethodsOption = None,
    split: SplitOption = Split.TEST,
    fold: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="NUMBER",
            help=f"Take the test split of this fold, 1-{NUM_FOLDS}, as in `train --folds` (default: no fold).",
            rich_help_panel=DATA,
        ),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="NUMBER",
            help="Photographs for the slow tests, chosen at random; concentration is measured on all photographs.",
            rich_help_panel=DATA,
        ),
    ] = 40,
    lesions: LesionsOption = None,
    allow_leakage: AllowLeakageOption = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder to write faithfulness.json and figures to (default: none).",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    device: DeviceOption = DeviceName.AUTO,
    precision: PrecisionOption = Precision.AUTO,
    *,
    settings: Settings,
) -> None:
    """Test the faithfulness of heat maps against baselines and randomized networks.

    Perturbation (deletion, insertion, ROAD), randomization of the network's weights, stability and concentration, each
    beside baselines that do not depend on the network; with --lesions, agreement with lesion masks.
    """
    from fundusgrade import store
    from fundusgrade.data.lesion_masks import find_lesion_photographs
    from fundusgrade.evaluation.study import StudyOptions, study_dataset, study_lesions
    from fundusgrade.explanation.targets import parse_target
    from fundusgrade.reports.findings_tables import write_findings

    if data is None and lesions is None:
        raise DatasetError("nothing to test on: name a data set, or a folder with lesion masks by --lesions")
    methods = tuple(explain_options(method, target)) if method else ()
    options = StudyOptions(target=parse_target(target), methods=methods, limit=limit)
    if lesions is not None:
        find_lesion_photographs(lesions)  # fails at once where the folder is wrong, not after the other tests
    if out is not None:
        check_folder(out, [lesions, None if data is None else store.resolve_dataset(data)])
        check_outputs(_planned(out, data, split, lesions), inputs=input_files(models=model or ()), overwrite=overwrite)
    graders = load_graders(model, device, precision)
    studies: list[Findings] = []
    if data is not None:
        dataset = _open_dataset(data, fold, graders, split, allow_leakage)
        with progress("testing") as on_progress:
            studies.append(study_dataset(graders, dataset, split.value, options, on_progress, report_skipped))
        show_findings(studies[-1])
    if lesions is not None:
        with progress("testing on lesions") as on_progress:
            studies.append(study_lesions(graders, lesions, options, on_progress, report_skipped))
        show_findings(studies[-1])
    if out is not None:
        written = write_findings(studies, out)
        settings.write(out)
        message(f"written: {', '.join(map(str, written))}")


def _planned(out: Path, data: str | None, split: Split, lesions: Path | None) -> list[Path]:
    """The files that studies of a data set and of lesions may write."""
    from fundusgrade import store
    from fundusgrade.evaluation.study import study_name
    from fundusgrade.reports.findings_tables import findings_files

    studied = [] if data is None else [study_name(store.resolve_dataset(data).name, split.value)]
    return [out / store.CONFIG_FILE, *findings_files(out, [*studied, *([] if lesions is None else [lesions.name])])]


def _open_dataset(
    name: str, fold: int | None, graders: Sequence[Grader], split: Split, allow_leakage: bool
) -> PreparedDataset:
    """The data set, after a message on the leakage of each model. Raises DatasetError for leakage not allowed."""
    from fundusgrade import store
    from fundusgrade.data.dataset import load_dataset
    from fundusgrade.evaluation.leakage import check_leakage

    dataset = load_dataset(store.resolve_dataset(name))
    dataset = dataset if fold is None else dataset.with_fold(fold)
    for grader in graders:
        leakage = check_leakage(grader, dataset, dataset.graded_rows(split.value), allow_leakage=allow_leakage)
        message(f"{grader.name}: {leakage}")
    return dataset
