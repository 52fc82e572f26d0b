"""The command `evaluate`: metrics with intervals, comparisons, figures and the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fundusgrade.commands.audit import AUDIT_LIMIT, show_interventions, show_shortcuts
from fundusgrade.commands.options import wanted_models
from fundusgrade.files import write_atomically
from fundusgrade.options import DeviceName, Precision, Split
from fundusgrade.terminal import command, message, show

if TYPE_CHECKING:
    from fundusgrade.data.dataset import PreparedDataset
    from fundusgrade.evaluation.assessment import Assessment
    from fundusgrade.evaluation.audit import Audit
    from fundusgrade.evaluation.candidates import Candidate


def evaluate(
    model: Annotated[list[str] | None, typer.Option(help="Model, by name or path; several stand side by side.")] = None,
    predictions: Annotated[
        list[str] | None, typer.Option(help="Predictions made before (`train --folds`), by name or path.")
    ] = None,
    data: Annotated[list[str] | None, typer.Option(help="Data set, by name or folder; several are joined.")] = None,
    split: Annotated[Split, typer.Option(help="Which photographs.")] = Split.TEST,
    common: Annotated[bool, typer.Option("--common", help="Only the photographs that all models graded.")] = False,
    by: Annotated[list[str] | None, typer.Option(help="Score subgroups too: quality, eye, site, ...")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for evaluation.json, confusion.png, predictions.")] = None,
    report: Annotated[Path | None, typer.Option(help="HTML file for the whole report.")] = None,
    images: Annotated[int, typer.Option(min=0, help="Worst errors of each model shown in the report.")] = 6,
    audit: Annotated[bool, typer.Option("--audit", help="Audit data and models too; see `fundusgrade audit`.")] = False,
    coverage: Annotated[float, typer.Option(min=0.5, max=0.99, help="How often sets hold the true grade.")] = 0.9,
    tta: Annotated[bool, typer.Option("--tta", help="Grade each photograph mirrored too.")] = False,
    allow_leakage: Annotated[
        bool, typer.Option("--allow-leakage", help="Score photographs of the training, too.")
    ] = False,
    draws: Annotated[int, typer.Option(min=100, help="Draws of the bootstrap.")] = 1000,
    device: Annotated[DeviceName, typer.Option(help="Where to compute.")] = DeviceName.AUTO,
    precision: Annotated[Precision, typer.Option(help="Number format of the network's arithmetic.")] = Precision.AUTO,
) -> None:
    """Score models on the same photographs, with intervals, and compare them; write a report."""
    from fundusgrade.data.join import open_dataset
    from fundusgrade.evaluation.candidates import (
        assess_candidates,
        candidate_from_file,
        candidate_from_model,
        only_common,
    )

    files = [candidate_from_file(each, split.value) for each in predictions or ()]
    dataset = open_dataset(data or [file.predictions.data for file in files[:1]])
    wanted = wanted_models(model) if model or not files else []
    candidates = files + [
        candidate_from_model(
            each, dataset, split.value, device=device, precision=precision, tta=tta, allow_leakage=allow_leakage
        )
        for each in wanted
    ]
    candidates = only_common(candidates) if common else candidates
    found = assess_candidates(
        candidates, dataset, part=split.value, columns=by or (), coverage=coverage, num_resamples=draws
    )
    _show_assessment(found, candidates, out)
    audited = _audit_candidates(candidates, dataset, split, out) if audit else []
    if report is not None:
        _write_report(report, candidates, dataset, found, images, audited)


def _show_assessment(found: Assessment, candidates: Sequence[Candidate], out: Path | None) -> None:
    """Files in `out`, tables on stdout, the leakage of each model on stderr."""
    from fundusgrade.reports import tables

    # Files come first: whoever reads the tables may have enough and close the pipe.
    if out is not None:
        tables.write_evaluation(found, [replace(each.predictions, leakage=each.leakage) for each in candidates], out)
    show(tables.scores_table(found))
    if found.comparisons:
        show(tables.comparisons_table(found))
    for candidate in candidates:
        message(f"{candidate.predictions.model}: {candidate.leakage}")
    if out is not None:
        message(f"written: {out / 'evaluation.json'!s}, {out / 'confusion.png'!s}, {out / 'predictions-MODEL.csv'!s}")


def _audit_candidates(
    candidates: Sequence[Candidate], dataset: PreparedDataset, split: Split, out: Path | None
) -> list[Audit]:
    """Audit the data once, and each model that is at hand."""
    from fundusgrade.evaluation.audit import Audit, conclusion
    from fundusgrade.reports import tables

    probes, audited = show_shortcuts(dataset), []
    for candidate in candidates:
        name = candidate.predictions.model
        effects = show_interventions(dataset, candidate.grader, split, AUDIT_LIMIT, None) if candidate.grader else ()
        audited.append(Audit(data=dataset.name, model=name if effects else None, probes=probes, effects=effects))
        if out is not None:
            tables.write_audit(audited[-1], out / f"audit-{name}")
    typer.echo(conclusion(*audited))
    return audited


def _write_report(
    path: Path,
    candidates: Sequence[Candidate],
    dataset: PreparedDataset,
    found: Assessment,
    num_images: int,
    audited: Sequence[Audit],
) -> None:
    from fundusgrade.reports.describe import report_context
    from fundusgrade.reports.html.page import report_html

    context = report_context(candidates, dataset, found, num_images=num_images, audits=audited, command=command())
    write_atomically(path, report_html(found, context))
    message(f"written: {path!s}")
