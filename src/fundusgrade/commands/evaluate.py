"""The command `evaluate`: metrics with intervals, comparisons, figures and the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fundusgrade.commands.options import (
    AllowLeakageOption,
    DeviceOption,
    ModelsOption,
    OverwriteOption,
    PrecisionOption,
    SensitivityOption,
    ThresholdOption,
    TtaOption,
    check_point,
    chosen_models,
    input_files,
)
from fundusgrade.files import write_atomically
from fundusgrade.options import DeviceName, Precision, Split
from fundusgrade.outputs import check_folder, check_outputs
from fundusgrade.terminal import command, message, progress, show

if TYPE_CHECKING:
    from fundusgrade.data.dataset import PreparedDataset
    from fundusgrade.evaluation.assessment import Assessment
    from fundusgrade.evaluation.audit import Audit
    from fundusgrade.evaluation.candidates import Candidate


def evaluate(
    model: ModelsOption = None,
    predictions: Annotated[
        list[str] | None,
        typer.Option(
            help="Stored predictions, such as those of `train --folds`, by name or path; repeat to compare several. "
            "Without --model, only they are evaluated (default: none)."
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Prepared data set, by name or folder; repeat to combine several (default: that of the predictions, "
            "or the only one)."
        ),
    ] = None,
    split: Annotated[Split, typer.Option(help="Split to evaluate on.")] = Split.TEST,
    common: Annotated[
        bool, typer.Option("--common", help="Evaluate only the photographs that all models graded.")
    ] = False,
    subgroup: Annotated[
        list[str] | None,
        typer.Option(
            help="Also evaluate subgroups: quality, eye, site, origin (data set); repeat for several (default: none)."
        ),
    ] = None,
    coverage: Annotated[
        float, typer.Option(min=0.5, max=0.99, help="Target coverage of the conformal prediction sets.")
    ] = 0.9,
    sensitivity: SensitivityOption = None,
    threshold: ThresholdOption = None,
    resamples: Annotated[
        int, typer.Option(min=100, help="Number of bootstrap resamples for confidence intervals.")
    ] = 1000,
    tta: TtaOption = False,
    allow_leakage: AllowLeakageOption = False,
    audit: Annotated[
        bool, typer.Option("--audit", help="Also audit the data set and each model; see `fundusgrade audit`.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for evaluation.json, confusion.png and the predictions (default: none)."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="HTML report to write (default: none).")] = None,
    images: Annotated[
        int, typer.Option(min=0, help="Number of each model's largest errors that the report shows as images.")
    ] = 6,
    overwrite: OverwriteOption = False,
    device: DeviceOption = DeviceName.AUTO,
    precision: PrecisionOption = Precision.AUTO,
) -> None:
    """Evaluate models on the same photographs: metrics with 95 % confidence intervals, and comparisons in pairs.

    Each of several data sets is also scored by itself, and each decision rule on the predictions of a cross-validation.
    Photographs that were used to train or select a model are refused unless --allow-leakage is given.
    """
    from fundusgrade.data.concatenation import open_dataset
    from fundusgrade.evaluation.candidates import assess_candidates, candidate_from_file, only_common

    check_point(sensitivity, threshold)
    files = [candidate_from_file(name, split.value) for name in predictions or ()]
    models = chosen_models(model) if model or not files else ()
    # Stored predictions do not depend on splits: of folds by source, copies may be in two of them.
    names = data or [file.predictions.data for file in files[:1]]
    dataset = open_dataset(names, check_splits=bool(model) or not files)
    _check_report(report, predictions or (), models, overwrite=overwrite)
    _check_folder(out, predictions or (), files, models, dataset, audit=audit, overwrite=overwrite)
    candidates = files + _graded(models, dataset, split, device, precision, tta=tta, allow_leakage=allow_leakage)
    candidates = only_common(candidates) if common else candidates
    assessment = assess_candidates(
        candidates,
        dataset,
        part=split.value,
        columns=subgroup or (),
        coverage=coverage,
        num_resamples=resamples,
        sensitivity=sensitivity,
        threshold=threshold,
    )
    _show_assessment(assessment, candidates, out)
    audits = _audit_candidates(candidates, dataset, split, out) if audit else []
    if report is not None:
        _write_report(report, candidates, dataset, assessment, images, audits)


def _check_report(
    report: Path | None, predictions: Sequence[str], models: Sequence[str | None], *, overwrite: bool
) -> None:
    """Raise StoreError for a report that may not be written."""
    if report is not None:
        read = _read_files(predictions, models)
        check_outputs([report], inputs=read, overwrite=overwrite, suffixes=(".html", ".htm"))


def _check_folder(
    out: Path | None,
    predictions: Sequence[str],
    files: Sequence[Candidate],
    models: Sequence[str | None],
    dataset: PreparedDataset,
    *,
    audit: bool,
    overwrite: bool,
) -> None:
    """Raise StoreError for a folder that is read, or in which a file may not be written."""
    from fundusgrade.networks.graph_files import model_name
    from fundusgrade.reports.tables import audit_files, evaluation_files

    if out is None:
        return
    check_folder(out, [dataset.directory, dataset.root])
    names = [*(each.predictions.model for each in files), *map(model_name, models)]
    audits = [file for name in names for file in audit_files(out / f"audit-{name}")] if audit else []
    planned = [*evaluation_files(out, names), *audits]
    check_outputs(planned, inputs=_read_files(predictions, models), overwrite=overwrite)


def _read_files(predictions: Sequence[str], models: Sequence[str | None]) -> list[Path | None]:
    from fundusgrade import store

    return input_files((), *map(store.resolve_predictions, predictions), models=models)


def _graded(
    models: Sequence[str | None],
    dataset: PreparedDataset,
    split: Split,
    device: DeviceName,
    precision: Precision,
    *,
    tta: bool,
    allow_leakage: bool,
) -> list[Candidate]:
    """A split graded by each model. Raises as `candidate_from_model`."""
    from fundusgrade.evaluation.candidates import candidate_from_model

    return [
        candidate_from_model(
            name, dataset, split.value, device=device, precision=precision, tta=tta, allow_leakage=allow_leakage
        )
        for name in models
    ]


def _show_assessment(assessment: Assessment, candidates: Sequence[Candidate], out: Path | None) -> None:
    """Files in `out`, tables on standard output, the leakage of each model on standard error."""
    from fundusgrade.reports import source_tables, tables

    # Files come first: the reader of the tables may close the pipe early.
    if out is not None:
        tables.write_evaluation(
            assessment, [replace(each.predictions, leakage=each.leakage) for each in candidates], out
        )
    show(tables.scores_table(assessment))
    of_parts = (*source_tables.source_tables(assessment), *source_tables.rules_tables(assessment))
    for table in (*tables.screening_tables(assessment), *of_parts, *tables.coverage_tables(assessment)):
        show(table)
    if assessment.comparisons:
        show(tables.comparisons_table(assessment))
    message(tables.acquisition_in_words(assessment))
    for candidate in candidates:
        message(f"{candidate.predictions.model}: {candidate.leakage}")
    if out is not None:
        message(f"written: {out / 'evaluation.json'!s}, {out / 'confusion.png'!s}, {out / 'predictions-MODEL.csv'!s}")


def _audit_candidates(
    candidates: Sequence[Candidate], dataset: PreparedDataset, split: Split, out: Path | None
) -> list[Audit]:
    """Audit the data set once, and each model that is available."""
    from fundusgrade.evaluation.audit import audit_dataset, conclusion
    from fundusgrade.reports import tables

    with progress("auditing") as on_progress:
        audits = audit_dataset(
            dataset, [candidate.grader for candidate in candidates], split.value, on_progress=on_progress
        )
    for table in tables.audit_tables(audits):
        show(table)
    if out is not None:
        for candidate, audit in zip(candidates, audits, strict=True):
            tables.write_audit(audit, out / f"audit-{candidate.predictions.model}")
    typer.echo(conclusion(*audits))
    return audits


def _write_report(
    path: Path,
    candidates: Sequence[Candidate],
    dataset: PreparedDataset,
    assessment: Assessment,
    num_images: int,
    audits: Sequence[Audit],
) -> None:
    from fundusgrade.reports.describe import report_context
    from fundusgrade.reports.html.page import report_html

    context = report_context(candidates, dataset, assessment, num_images=num_images, audits=audits, command=command())
    write_atomically(path, report_html(assessment, context))
    message(f"written: {path!s}")
