"""The command `merge`: the files of all shards as one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fundusgrade.commands.exit_codes import EXIT_UNGRADED
from fundusgrade.commands.options.output import OverwriteOption
from fundusgrade.commands.options.panels import OUTPUT
from fundusgrade.commands.options.patients import (
    ByPatientOption,
    FieldsOption,
    PatientPatternOption,
    PatientsOption,
    patient_request,
    report_patients,
)
from fundusgrade.commands.options.photographs import ListOption, PhotographsArgument, find_photographs, input_files
from fundusgrade.commands.options.review import (
    ReviewOption,
    SampleOption,
    SampleSeedOption,
    report_review,
    review_material,
)
from fundusgrade.commands.prediction_run import report_grades
from fundusgrade.outputs import check_outputs
from fundusgrade.terminal import message


def merge(
    csv: Annotated[
        Path,
        typer.Option(
            "--csv",
            "--out",
            metavar="FILE",
            help="File to write, the name that was given to `predict --shard`.",
            rich_help_panel=OUTPUT,
        ),
    ],
    photographs: PhotographsArgument = None,
    list_file: ListOption = None,
    overwrite: OverwriteOption = False,
    by_patient: ByPatientOption = None,
    patients: PatientsOption = None,
    patient_pattern: PatientPatternOption = None,
    fields: FieldsOption = None,
    report: ReviewOption = None,
    sample: SampleOption = None,
    sample_seed: SampleSeedOption = None,
) -> None:
    """Merge the files of `predict --shard` in the order of the photographs, after checking that they are complete.

    Name the same photographs as for `predict`. No row may be missing or duplicate, and all must be from one model. The
    exit code is 3 if some photographs are ungraded.
    """
    from fundusgrade.grading.rows import RowFormat
    from fundusgrade.grading.shards import find_shards, merge_shards
    from fundusgrade.networks.processor import allowed_cores
    from fundusgrade.reports.review_page import check_review_outputs

    by_patients = patient_request(csv, by_patient, patients, patient_pattern, fields, report=report)
    found = find_photographs(photographs, list_file)
    material = review_material(report, sample, sample_seed, found, by_patients)
    names = [each.name for each in found]
    read = input_files(found, list_file, patients, *(shard.file(csv) for shard in find_shards(csv)))
    tables = [path for path in (csv, by_patient) if path is not None]
    check_outputs(tables, inputs=read, overwrite=overwrite, suffixes=tuple(RowFormat))
    if report is not None:
        check_review_outputs(report, [*read, csv], overwrite=overwrite)
    num_ungraded = merge_shards(csv, names)
    message(f"wrote {len(names)} rows to {csv}: {len(names) - num_ungraded} graded, {num_ungraded} failed")
    _report_grades(csv)
    if by_patients is not None:
        report_patients(by_patients, csv, names)
    report_review(material, csv, allowed_cores())
    if num_ungraded:
        raise typer.Exit(EXIT_UNGRADED)


def _report_grades(csv: Path) -> None:
    """How many photographs of the merged file have each grade, and how many refer (older files do not say it)."""
    from fundusgrade.grading.counts import CountedRow, RowCounts
    from fundusgrade.grading.reader import read_rows

    counts, says_referral = RowCounts(), True
    for row in read_rows(csv):
        counts.add(CountedRow.of(row))
        says_referral = says_referral and row.referable is not None
    report_grades(counts, with_referral=says_referral)
