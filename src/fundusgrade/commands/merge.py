"""The command `merge`: the files of all shards as one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fundusgrade.commands.options import (
    EXIT_UNGRADED,
    ByPatientOption,
    FieldsOption,
    ListOption,
    PatientPatternOption,
    PatientsOption,
    PhotographsArgument,
    find_photographs,
    patient_request,
    report_patients,
)
from fundusgrade.terminal import message


def merge(
    csv: Annotated[
        Path, typer.Option("--csv", "--out", help="File to write, the name that was given to `predict --shard`.")
    ],
    photographs: PhotographsArgument = None,
    list_file: ListOption = None,
    by_patient: ByPatientOption = None,
    patients: PatientsOption = None,
    patient_pattern: PatientPatternOption = None,
    fields: FieldsOption = None,
) -> None:
    """Merge the files of `predict --shard` in the order of the photographs, after checking that they are complete.

    Name the same photographs as for `predict`. No row may be missing or duplicate, and all must be from one model. The
    exit code is 3 if some photographs are ungraded.
    """
    from fundusgrade.grading.shards import merge_shards

    by_patients = patient_request(csv, by_patient, patients, patient_pattern, fields)
    names = [found.name for found in find_photographs(photographs, list_file)]
    num_ungraded = merge_shards(csv, names)
    message(f"wrote {len(names)} rows to {csv}: {len(names) - num_ungraded} graded, {num_ungraded} failed")
    if by_patients is not None:
        report_patients(by_patients, csv, names)
    if num_ungraded:
        raise typer.Exit(EXIT_UNGRADED)
