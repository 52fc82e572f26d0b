"""The command `preprocess`: a labeled folder becomes a ready data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fundusgrade.commands.options import EXIT_UNGRADED
from fundusgrade.photographs.recipe import MAX_SIZE_PX, MIN_SIZE_PX, Method, Outline, PreprocessRecipe
from fundusgrade.terminal import counting


def preprocess(
    sources: Annotated[list[Path], typer.Argument(help="A labeled data set's folder, or photographs and folders.")],
    name: Annotated[str | None, typer.Option(help="Name in the store; the folder's name if not given.")] = None,
    method: Annotated[Method, typer.Option(help="How colors are treated.")] = Method.BEN_GRAHAM,
    outline: Annotated[Outline, typer.Option(help="What is kept: what all cameras show, or all.")] = Outline.BAND,
    size: Annotated[int, typer.Option(min=MIN_SIZE_PX, max=MAX_SIZE_PX, help="Side of the pictures, px.")] = 224,
    labels: Annotated[Path | None, typer.Option(help="The label file, where it is not recognized.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Column of the photograph's name.")] = None,
    grade_column: Annotated[str | None, typer.Option(help="Column of the grade, 0-4.")] = None,
    patient_column: Annotated[str | None, typer.Option(help="Column of the patient; never split apart.")] = None,
    eye_column: Annotated[str | None, typer.Option(help="Column of the eye.")] = None,
    site_column: Annotated[str | None, typer.Option(help="Column of the clinic or camera.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the splits.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes; one per core if not given.")] = None,
) -> None:
    """Make a ready data set: preprocessed images, leak-safe splits, a manifest. Goes on where it was stopped."""
    from fundusgrade import store
    from fundusgrade.data import prepare
    from fundusgrade.data.label_files import label_columns
    from fundusgrade.data.labels import find_samples
    from fundusgrade.reports.tables import dataset_summary

    columns = label_columns(image_column, grade_column, patient_column, eye_column, site_column)
    found = find_samples(sources, labels=labels, columns=columns)
    with counting("preparing") as on_progress:
        prepared = prepare.prepare_dataset(
            found,
            name=name or store.name_from(sources[0].resolve().name, "dataset"),
            recipe=PreprocessRecipe(method=method, outline=outline, size_px=size),
            seed=seed,
            num_workers=workers,
            on_progress=on_progress,
        )
    typer.echo(dataset_summary(prepared))
    if any(row.error for row in prepared.rows):
        raise typer.Exit(EXIT_UNGRADED)
