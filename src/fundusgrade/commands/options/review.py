"""Options of the page of results to review on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fundusgrade.commands.options.panels import REVIEW
from fundusgrade.terminal import command, message

if TYPE_CHECKING:
    from fundusgrade.grading.patients import PatientRequest
    from fundusgrade.photographs.sources import PhotographSource
    from fundusgrade.reports.review_run import ReviewMaterial

ReviewOption = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Page of the results to look at and to correct, an .html file that opens from disk; with --patients or "
        "--patient-pattern a row for each patient (default: none).",
        rich_help_panel=REVIEW,
    ),
]
SampleOption = Annotated[
    float | None,
    typer.Option(
        "--sample",
        metavar="PROPORTION",
        help="Proportion of the negatives to mark on the page for a second reading, e.g. 0.1 (default: none).",
        rich_help_panel=REVIEW,
    ),
]
SampleSeedOption = Annotated[
    int | None,
    typer.Option(
        "--sample-seed", min=0, metavar="NUMBER", help="Seed of that draw (default: 0).", rich_help_panel=REVIEW
    ),
]


def review_material(
    report: Path | None,
    sample: float | None,
    seed: int | None,
    photographs: list[PhotographSource],
    patients: PatientRequest | None,
) -> ReviewMaterial | None:
    """What collects the page of these photographs; None where no page is asked for.

    Raises BadParameter for options that do not fit together.
    """
    from fundusgrade.reports.review_entries import ReviewSample
    from fundusgrade.reports.review_run import ReviewMaterial, ReviewRequest

    _check(report, sample, seed)
    if report is None:
        return None
    drawn = None if sample is None else ReviewSample(share=sample, seed=seed or 0)
    return ReviewMaterial(photographs, ReviewRequest(page=report, patients=patients, sample=drawn))


def _check(report: Path | None, sample: float | None, seed: int | None) -> None:
    """Raise BadParameter for options that do not fit together."""
    if sample is not None and not 0 < sample <= 1:
        raise typer.BadParameter("--sample is a proportion above 0 and up to 1, such as 0.1 for a tenth")
    if seed is not None and sample is None:
        raise typer.BadParameter("--sample-seed needs --sample PROPORTION")
    if sample is not None and report is None:
        raise typer.BadParameter("--sample marks photographs on a page: name it with --report FILE")


def report_review(material: ReviewMaterial | None, rows: Path | None, num_workers: int) -> None:
    """Write the page, if one is asked for, of a finished file of rows or of added results, and say where it is."""
    from fundusgrade.reports.review_page import WARNED_PAGE_BYTES

    if material is None:
        return
    written, page = material.write(rows, command(), num_workers), material.request.page
    size = f"{written.num_bytes / 1e6:.1f} MB"
    message(f"written: {page} ({size}); open it in a browser")
    if written.pictures is not None:
        message(f"its pictures are too many for one file: they are in {written.pictures}, which belongs beside it")
    elif written.num_bytes > WARNED_PAGE_BYTES:
        message(f"WARNING: a page of {size} opens slowly in some browsers; fewer photographs make a smaller one")
    if material.request.sample is not None:
        share, seed = material.request.sample.share, material.request.sample.seed
        message(f"sample: {written.num_sampled} negatives to read again ({100 * share:g} %, seed {seed})")
