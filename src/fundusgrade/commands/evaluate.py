"""The command `evaluate`: metrics with intervals, comparisons, figures and the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fundusgrade.commands.options.data import AllowLeakageOption, DataOption, LabelsOption, SplitOption, with_labels
from fundusgrade.commands.options.names import complete_predictions
from fundusgrade.commands.options.network import (
    DeviceOption,
    ModelsOption,
    PrecisionOption,
    TtaOption,
    chosen_models,
)
from fundusgrade.commands.options.output import OverwriteOption
from fundusgrade.commands.options.panels import DATA, GRADING, MODEL, OUTPUT
from fundusgrade.commands.options.photographs import input_files
from fundusgrade.commands.options.referral import PrevalenceOption, SensitivityOption, ThresholdOption, check_point
from fundusgrade.commands.settings import Settings
from fundusgrade.files import write_atomically
from fundusgrade.options import DeviceName, Precision, Split
from fundusgrade.outputs import check_folder, check_outputs
from fundusgrade.store import CONFIG_FILE
from fundusgrade.terminal import Verbosity, command, message, progress, show, verbosity

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
            metavar="NAME",
            help="Stored predictions, such as those of `train --folds`, by name or path; repeat to compare several. "
            "Without --model, only they are evaluated (default: none).",
            autocompletion=complete_predictions,
            rich_help_panel=MODEL,
        ),
    ] = None,
    data: DataOption = None,
    split: SplitOption = Split.TEST,
    labels: LabelsOption = None,
    common: Annotated[
        bool,
        typer.Option("--common", help="Evaluate only the photographs that all models graded.", rich_help_panel=DATA),
    ] = False,
    subgroup: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="Evaluate subgroups by this column; repeat for several (default: origin (data set), site, eye, "
            "quality and acquisition, where photographs differ in them).",
            rich_help_panel=DATA,
        ),
    ] = None,
    allow_leakage: AllowLeakageOption = False,
    sensitivity: SensitivityOption = None,
    threshold: ThresholdOption = None,
    prevalence: PrevalenceOption = 0.1,
    tta: TtaOption = False,
    coverage: Annotated[
        float,
        typer.Option(
            min=0.5,
            max=0.99,
            metavar="PROPORTION",
            help="Target coverage of the conformal prediction sets.",
            rich_help_panel=GRADING,
        ),
    ] = 0.9,
    resamples: Annotated[
        int,
        typer.Option(
            min=100,
            metavar="NUMBER",
            help="Number of bootstrap resamples for confidence intervals.",
            rich_help_panel=GRADING,
        ),
    ] = 1000,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder for evaluation.json, confusion.png and the predictions (default: none).",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="HTML report to write (default: none).", rich_help_panel=OUTPUT),
    ] = None,
    images: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="NUMBER",
            help="Number of each model's largest errors that the report shows as images.",
            rich_help_panel=OUTPUT,
        ),
    ] = 6,
    audit: Annotated[
        bool,
        typer.Option(
            "--audit",
            help="Also audit the data set and each model; see `fundusgrade audit`.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    overwrite: OverwriteOption = False,
    device: DeviceOption = DeviceName.AUTO,
    precision: PrecisionOption = Precision.AUTO,
    *,
    settings: Settings,
) -> None:
    """Evaluate models on the same photographs: metrics with 95 % confidence intervals, and comparisons in pairs.

    Each of several data sets is also scored by itself, and each decision rule on the predictions of a cross-validation.
    Photographs that were used to train or select a model are refused unless --allow-leakage is given.
    """
    from fundusgrade.data.concatenation import open_dataset
    from fundusgrade.evaluation import candidates as graded

    check_point(sensitivity, threshold)
    files = [graded.candidate_from_file(name, split.value) for name in predictions or ()]
    models = chosen_models(model) if model or not files else ()
    # Stored predictions do not depend on splits: of folds by source, copies may be in two of them.
    names = data or [file.predictions.data for file in files[:1]]
    _check_labels(labels, files)
    dataset = with_labels(open_dataset(names, check_splits=bool(model) or not files), labels)
    _check_report(report, predictions or (), models, overwrite=overwrite)
    _check_folder(out, predictions or (), files, models, dataset, audit=audit, overwrite=overwrite)
    _check_compared(files, models, subgroup or (), tta=tta)
    candidates = files + graded.candidates_from_models(
        models, dataset, split.value, device=device, precision=precision, tta=tta, allow_leakage=allow_leakage
    )
    candidates = graded.only_common(candidates) if common else candidates
    assessment = graded.assess_candidates(
        candidates,
        dataset,
        part=split.value,
        columns=subgroup or (),
        coverage=coverage,
        num_resamples=resamples,
        sensitivity=sensitivity,
        threshold=threshold,
        prevalence=prevalence,
    )
    _show_assessment(assessment, candidates, out)
    if out is not None:
        settings.write(out, data=names or dataset.source_names)
    audits = _audit_candidates(candidates, dataset, split, out) if audit else []
    if report is not None:
        _write_report(report, candidates, dataset, assessment, images, audits)


def _check_labels(labels: Path | None, files: Sequence[Candidate]) -> None:
    """Raise BadParameter for labels of stored predictions, which hold the grades that they are scored by."""
    if labels is not None and files:
        raise typer.BadParameter("--labels needs --model: stored predictions hold their own grades")


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
    planned = [*evaluation_files(out, names), *audits, out / CONFIG_FILE]
    check_outputs(planned, inputs=_read_files(predictions, models), overwrite=overwrite)


def _read_files(predictions: Sequence[str], models: Sequence[str | None]) -> list[Path | None]:
    from fundusgrade import store

    return input_files((), *map(store.resolve_predictions, predictions), models=models)


def _check_compared(
    files: Sequence[Candidate], models: Sequence[str | None], subgroups: Sequence[str], *, tta: bool
) -> None:
    """Raise DatasetError where two of the models that are compared have one name, or a subgroup is of no column."""
    from fundusgrade.evaluation.candidates import check_columns, check_names
    from fundusgrade.metrics.predictions import TTA_SUFFIX
    from fundusgrade.networks.graph_files import model_name

    check_columns(subgroups)
    suffix = TTA_SUFFIX if tta else ""
    check_names([*(file.predictions.model for file in files), *(model_name(model) + suffix for model in models)])


def _show_assessment(assessment: Assessment, candidates: Sequence[Candidate], out: Path | None) -> None:
    """Files in `out`, ten lines for each model on standard output, or all tables, leakage on standard error."""
    from fundusgrade.reports import summary, tables

    # Files come first: the reader of the tables may close the pipe early.
    if out is not None:
        tables.write_evaluation(
            assessment, [replace(each.predictions, leakage=each.leakage) for each in candidates], out
        )
    if verbosity() is Verbosity.VERBOSE:
        _show_all(assessment)
    else:
        show(summary.summary_table(assessment))
        if assessment.comparisons:
            show(summary.differences_table(assessment))
        message("all scores, of each grade and data set, with --verbose, --out or --report")
    for candidate in candidates:
        message(f"{candidate.predictions.model}: {candidate.leakage}")
    if out is not None:
        message(f"written: {out / 'evaluation.json'!s}, {out / 'confusion.png'!s}, {out / 'predictions-MODEL.csv'!s}")


def _show_all(assessment: Assessment) -> None:
    """Every table."""
    from fundusgrade.reports import source_tables, tables

    of_parts = (*source_tables.source_tables(assessment), *source_tables.rules_tables(assessment))
    compared = [tables.comparisons_table(assessment)] if assessment.comparisons else []
    of_models = (tables.scores_table(assessment), *tables.screening_tables(assessment))
    for table in (*of_models, *of_parts, *tables.coverage_tables(assessment), *compared):
        show(table)
    message(tables.acquisition_in_words(assessment))


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
    if num_images and not any(item.heat_map for item in context.gallery):
        message(_without_heat_maps(len(context.gallery), dataset))
    message(f"written: {path!s}")


def _without_heat_maps(num_shown: int, dataset: PreparedDataset) -> str:
    """Why a report shows none of the errors with a heat map."""
    if not num_shown:
        return "--images: the report shows no errors: there are none, or the data set holds none of their photographs"
    return (
        f"--images: the {num_shown} errors of the report have no heat maps, because their photographs "
        f"(expected in {dataset.root or 'a folder that the data set does not name'}) or the networks are not available"
    )
