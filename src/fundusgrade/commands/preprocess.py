"""The command `preprocess`: labeled photographs become a prepared data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fundusgrade.commands.exit_codes import EXIT_UNGRADED
from fundusgrade.commands.options.panels import COMPUTING, LABEL_FILE, OUTPUT
from fundusgrade.commands.settings import Settings
from fundusgrade.photographs.recipe import DEFAULT_SIZE_PX, MAX_SIZE_PX, MIN_SIZE_PX, Method, Outline, PreprocessRecipe
from fundusgrade.terminal import progress

_IMAGES = "Preprocessed images"


def preprocess(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER",
            help="Folder of a labeled data set, or photographs and folders of photographs without labels.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the data set (default: the folder's name).", rich_help_panel=OUTPUT),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace a data set of this name that was made of other photographs.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="End with exit code 3 if a photograph was set aside; without it that is no error.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    seed: Annotated[
        int,
        typer.Option(min=0, metavar="NUMBER", help="Seed of the random splits.", rich_help_panel=OUTPUT),
    ] = 0,
    method: Annotated[
        Method,
        typer.Option(
            metavar="METHOD",
            help="Color processing: ben-graham (subtract the local average color), natural (colors as they are), or "
            "clahe (contrast-limited adaptive histogram equalization).",
            rich_help_panel=_IMAGES,
        ),
    ] = Method.BEN_GRAHAM,
    outline: Annotated[
        Outline,
        typer.Option(
            metavar="OUTLINE",
            help="Part of the retina to keep: band (the horizontal band that nearly all cameras show), disc (as far as "
            "the photograph shows it), or mirrored-disc (cropped parts are filled by reflection).",
            rich_help_panel=_IMAGES,
        ),
    ] = Outline.BAND,
    size: Annotated[
        int,
        typer.Option(
            min=MIN_SIZE_PX,
            max=MAX_SIZE_PX,
            metavar="PIXELS",
            help="Side of the preprocessed images in pixels.",
            rich_help_panel=_IMAGES,
        ),
    ] = DEFAULT_SIZE_PX,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CSV or text file of labels (default: recognized by its columns).",
            rich_help_panel=LABEL_FILE,
        ),
    ] = None,
    grades: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="What labels or folder names mean that are not 0-4 or a grade in words: 'R0=0,R1=1,ungradable=-' "
            "(- leaves photographs out) (default: none).",
            rich_help_panel=LABEL_FILE,
        ),
    ] = None,
    image_column: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column of the photograph's file name (default: recognized).",
            rich_help_panel=LABEL_FILE,
        ),
    ] = None,
    grade_column: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column of the grade (default: recognized).", rich_help_panel=LABEL_FILE),
    ] = None,
    patient_column: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column of the patient; photographs of one patient stay in the same split (default: recognized).",
            rich_help_panel=LABEL_FILE,
        ),
    ] = None,
    eye_column: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column of the eye, left or right (default: recognized).",
            rich_help_panel=LABEL_FILE,
        ),
    ] = None,
    site_column: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column of the clinic or camera (default: recognized).",
            rich_help_panel=LABEL_FILE,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="NUMBER",
            help="Number of worker processes (default: one per core).",
            rich_help_panel=COMPUTING,
        ),
    ] = None,
    *,
    settings: Settings,
) -> None:
    """Prepare a data set: preprocess its photographs, and split them by patient and duplicate group.

    The splits into training, validation and test images prevent leakage. An interrupted command resumes automatically.
    Photographs that cannot be preprocessed are set aside, each with a reason in the manifest.
    """
    from fundusgrade import store
    from fundusgrade.data import prepare
    from fundusgrade.data.grade_names import parse_grade_names
    from fundusgrade.data.label_files import label_columns
    from fundusgrade.data.labels import find_samples
    from fundusgrade.reports.listings import dataset_summary, labels_summary

    columns = label_columns(image_column, grade_column, patient_column, eye_column, site_column)
    found = find_samples(sources, labels=labels, columns=columns, names=parse_grade_names(grades))
    with progress("preprocessing") as on_progress:
        prepared = prepare.prepare_dataset(
            found,
            name=name or store.name_from(sources[0].resolve().name, "dataset"),
            recipe=PreprocessRecipe(method=method, outline=outline, size_px=size),
            seed=seed,
            num_workers=workers,
            overwrite=overwrite,
            on_progress=on_progress,
        )
    settings.write(prepared.directory, name=prepared.name)
    typer.echo(f"{labels_summary(found)}\n{dataset_summary(prepared)}")
    if strict and any(row.error for row in prepared.rows):
        raise typer.Exit(EXIT_UNGRADED)
