"""The command `predict`: grades of many photographs as rows of a file."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fundusgrade import store
from fundusgrade.commands.exit_codes import EXIT_UNGRADED
from fundusgrade.commands.options.engine import AddressOption, EngineOption, check_parts_output, parts_output
from fundusgrade.commands.options.network import (
    BatchSizeOption,
    DeviceOption,
    ModelOption,
    PrecisionOption,
    RuntimeOption,
    TtaOption,
    WorkersOption,
)
from fundusgrade.commands.options.panels import GRADING, OUTPUT, SEVERAL_RUNS
from fundusgrade.commands.options.patients import (
    ByPatientOption,
    FieldsOption,
    PatientPatternOption,
    PatientsOption,
    patient_request,
)
from fundusgrade.commands.options.photographs import ListOption, PhotographsArgument, find_photographs, input_files
from fundusgrade.commands.options.referral import CoverageOption, SensitivityOption, ThresholdOption, check_point
from fundusgrade.commands.options.review import ReviewOption, SampleOption, SampleSeedOption, review_material
from fundusgrade.commands.prediction_run import announce, grade_parts, grade_rows, report_outcome
from fundusgrade.commands.settings import Settings, config_beside
from fundusgrade.options import DeviceName, Engine, Precision, RuntimeName
from fundusgrade.outputs import check_outputs

if TYPE_CHECKING:
    from fundusgrade.grading.engine import PartsOutput
    from fundusgrade.grading.patients import PatientRequest
    from fundusgrade.grading.shards import Shard
    from fundusgrade.photographs.sources import PhotographSource


def predict(
    photographs: PhotographsArgument = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            "--csv",
            "--out",
            metavar="PLACE",
            help="File to write: .csv, .jsonl or .parquet; or a folder of Parquet files; on this machine or at a URL "
            "(default: CSV to standard output, or a table to a terminal).",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    list_file: ListOption = None,
    model: ModelOption = None,
    require_gradable: Annotated[
        bool,
        typer.Option(
            "--require-gradable", help="Leave photographs of doubtful quality ungraded.", rich_help_panel=GRADING
        ),
    ] = False,
    tta: TtaOption = False,
    coverage: CoverageOption = None,
    sensitivity: SensitivityOption = None,
    threshold: ThresholdOption = None,
    by_patient: ByPatientOption = None,
    patients: PatientsOption = None,
    patient_pattern: PatientPatternOption = None,
    fields: FieldsOption = None,
    report: ReviewOption = None,
    sample: SampleOption = None,
    sample_seed: SampleSeedOption = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Grade shard i of n only, e.g. 2/4, and write FILE.2-of-4.csv; see `merge` (default: all).",
            rich_help_panel=SEVERAL_RUNS,
        ),
    ] = None,
    engine: EngineOption = None,
    address: AddressOption = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Keep the rows of an interrupted run and grade the remaining photographs.",
            rich_help_panel=SEVERAL_RUNS,
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace the output of an earlier run, finished or partial, and start over.",
            rich_help_panel=SEVERAL_RUNS,
        ),
    ] = False,
    workers: WorkersOption = None,
    batch_size: BatchSizeOption = None,
    device: DeviceOption = DeviceName.AUTO,
    precision: PrecisionOption = Precision.AUTO,
    runtime: RuntimeOption = RuntimeName.AUTO,
    *,
    settings: Settings,
) -> None:
    """Grade photographs, one row each: grade, probabilities, referable or not, image quality.

    `referable` is yes, no or ungradable; only "no" needs no referral. A photograph that cannot be graded is a row with
    the reason, and the exit code is 3.
    """
    from fundusgrade.grading.engine import EngineOptions, PartsRun
    from fundusgrade.grading.grader import Grader

    check_point(sensitivity, threshold)
    by_patients = patient_request(csv, by_patient, patients, patient_pattern, fields, report=report)
    own_shard = _shard(shard, csv, engine, resume=resume, of_all=by_patients is not None or report is not None)
    out = own_shard.file(csv) if own_shard and csv else csv
    output = parts_output(out, engine, address, of_all=by_patients is not None or report is not None)
    found = find_photographs(photographs, list_file)
    material = review_material(report, sample, sample_seed, found, by_patients)
    read = input_files(found, list_file, patients, models=[model])
    _check_before_grading(out, output, by_patients, found, read, report, resume=resume, overwrite=overwrite)
    load = functools.partial(
        Grader.load, device=device, precision=precision, runtime=runtime, batch_size=batch_size, num_workers=workers,
        require_gradable=require_gradable, tta=tta, coverage=coverage, sensitivity=sensitivity, threshold=threshold,
    )  # fmt: skip
    grader = load(model)
    announce(grader)
    chosen = own_shard.select(found) if own_shard else found
    if output is None:
        outcome = grade_rows(out, grader, chosen, settings, material, resume=resume, overwrite=overwrite)
    else:
        run = PartsRun(
            photographs=chosen, model=store.resolve_model(model), load=load, grader=grader, output=output,
            options=EngineOptions(engine=engine, address=address, num_threads=workers, device=device),
            resume=resume, overwrite=overwrite,
        )  # fmt: skip
        outcome = grade_parts(run, settings)
    report_outcome(outcome, str(output or out or "standard output"), grader, chosen, by_patients, material)
    if outcome.counts.num_ungraded:
        raise typer.Exit(EXIT_UNGRADED)


def _check_before_grading(
    out: Path | None,
    output: PartsOutput | None,
    by_patients: PatientRequest | None,
    found: Sequence[PhotographSource],
    read: Sequence[Path | None],
    report: Path | None,
    *,
    resume: bool,
    overwrite: bool,
) -> None:
    """Raise StoreError for a file that may not be written, DatasetError where the patient of a photograph is not known.

    Whether a partial file is of the same run is decided when it is opened.
    """
    from fundusgrade.grading.resume import provenance_file
    from fundusgrade.grading.rows import RowFormat
    from fundusgrade.grading.writer import partial_file
    from fundusgrade.reports.review_page import check_review_outputs

    if report is not None:
        check_review_outputs(report, [*read, out], overwrite=resume or overwrite)
    if out is not None and output is not None:
        check_parts_output(output, out, read, resume=resume, overwrite=overwrite)
    if out is not None and (output is None or output.local_file is not None):
        of_patients = None if by_patients is None else by_patients.path
        tables = [path for path in (out, of_patients) if path is not None]
        check_outputs(tables, inputs=read, overwrite=resume or overwrite, suffixes=tuple(RowFormat))
        partial = partial_file(out)
        beside = [provenance_file(out), config_beside(out), partial, provenance_file(partial)]
        check_outputs(beside, inputs=[*read, *tables], overwrite=True)
    if by_patients is not None:
        by_patients.identify([each.name for each in found])


def _shard(shard: str | None, csv: Path | None, engine: Engine | None, *, resume: bool, of_all: bool) -> Shard | None:
    from fundusgrade.grading.shards import is_launched, parse_shard

    if is_launched():
        raise typer.BadParameter(
            "torchrun no longer divides photographs: use --engine ray, or --shard i/n in a process for each GPU"
        )
    if shard is not None and engine is not None:
        raise typer.BadParameter("--shard and --engine both divide photographs: choose one")
    if shard is not None and of_all:
        raise typer.BadParameter(
            "--by-patient and --report need the rows of all shards: give them to `fundusgrade merge`"
        )
    if csv is None and (shard is not None or resume):
        raise typer.BadParameter("--shard and --resume need a file: name one with --csv")
    return None if shard is None else parse_shard(shard)
