"""Options of prepared data sets and of lesion masks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fundusgrade.commands.options.names import complete_datasets
from fundusgrade.commands.options.panels import DATA
from fundusgrade.options import Split
from fundusgrade.terminal import message

if TYPE_CHECKING:
    from fundusgrade.data.dataset import PreparedDataset

SPLITS_IN_WORDS = "train, validation, test or all"

DataArgument = Annotated[
    str,
    typer.Argument(metavar="DATA", help="Prepared data set, by name or folder.", autocompletion=complete_datasets),
]
DataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="NAME",
        help="Prepared data set, by name or folder; repeat to combine several (default: that of the predictions, or "
        "the only one).",
        autocompletion=complete_datasets,
        rich_help_panel=DATA,
    ),
]
SplitOption = Annotated[
    Split,
    typer.Option(
        "--split",
        metavar="SPLIT",
        help=f"Split of the data set to take photographs from: {SPLITS_IN_WORDS}.",
        rich_help_panel=DATA,
    ),
]
LesionsOption = Annotated[
    Path | None,
    typer.Option(
        "--lesions",
        metavar="FOLDER",
        help="Folder with photographs in images/ and lesion masks in masks/, named as in the IDRiD data set "
        "(default: none).",
        rich_help_panel=DATA,
    ),
]
LabelsOption = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help="The reviewed.csv of a page of results: its reader's grades take the place of those of the data set "
        "(default: none).",
        rich_help_panel=DATA,
    ),
]
AllowLeakageOption = Annotated[
    bool,
    typer.Option(
        "--allow-leakage",
        help="Accept images that were used to train or select the model; the results then state the leakage.",
        rich_help_panel=DATA,
    ),
]


def with_labels(dataset: PreparedDataset, labels: Path | None) -> PreparedDataset:
    """The data set with the grades of `LabelsOption`, if there is one; what has no grade is counted in a message."""
    from fundusgrade.data.relabel import relabel

    if labels is None:
        return dataset
    relabeled = relabel(dataset, labels)
    message(f"{labels}: {relabeled.describe()}")
    return relabeled.dataset
