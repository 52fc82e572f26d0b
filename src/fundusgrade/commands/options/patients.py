"""Options of rows by patient."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fundusgrade.commands.options.panels import PATIENTS
from fundusgrade.terminal import message

if TYPE_CHECKING:
    from fundusgrade.grading.patients import PatientRequest

ByPatientOption = Annotated[
    Path | None,
    typer.Option(
        "--by-patient",
        metavar="FILE",
        help="Also write a file with one row per patient, the worst eye: .csv, .jsonl or .parquet; needs --patients or "
        "--patient-pattern (default: none).",
        rich_help_panel=PATIENTS,
    ),
]
PatientsOption = Annotated[
    Path | None,
    typer.Option(
        "--patients",
        metavar="FILE",
        help="CSV file with the columns image (or source), patient and, if known, eye, such as the manifest.csv of a "
        "data set (default: none).",
        rich_help_panel=PATIENTS,
    ),
]
PatientPatternOption = Annotated[
    str | None,
    typer.Option(
        "--patient-pattern",
        metavar="PATTERN",
        help="Regular expression of the file name with a group named patient and, if known, eye, e.g. "
        "'(?P<patient>\\d+)_(?P<eye>left|right)' (default: none).",
        rich_help_panel=PATIENTS,
    ),
]
FieldsOption = Annotated[
    int | None,
    typer.Option(
        "--fields",
        min=1,
        metavar="NUMBER",
        help="Gradable photographs that each eye needs (default: at least one, and all that there are must be "
        "gradable).",
        rich_help_panel=PATIENTS,
    ),
]


def patient_request(
    rows: Path | None,
    by_patient: Path | None,
    patients: Path | None,
    pattern: str | None,
    num_fields: int | None,
    *,
    report: Path | None = None,
) -> PatientRequest | None:
    """Where and how rows by patient are written beside the file of `rows`; None where patients are not asked for.

    With a `report` they may be those of its page only. Raises BadParameter for options that do not fit together.
    """
    from fundusgrade.grading.patients import PatientRequest
    from fundusgrade.grading.rows import row_format

    is_identified = patients is not None or pattern is not None
    if by_patient is None and not (report is not None and is_identified):
        if is_identified or num_fields is not None:
            raise typer.BadParameter(
                "--patients, --patient-pattern and --fields need --by-patient FILE or --report FILE"
            )
        return None
    if (patients is None) == (pattern is None):
        raise typer.BadParameter("rows by patient need either --patients or --patient-pattern")
    if by_patient is not None:
        if rows is None:
            raise typer.BadParameter("--by-patient needs a file of photographs too: name one with --csv")
        row_format(by_patient)
    return PatientRequest(path=by_patient, list_file=patients, pattern=pattern, num_fields=num_fields)


def patients_of_page(patients: Path | None, pattern: str | None, names: Sequence[str]) -> PatientRequest | None:
    """Where the patients of a page of these photographs are read from; None where it is not said.

    Raises BadParameter where both options are given, DatasetError where the patient of a photograph is not known.
    """
    from fundusgrade.grading.patients import PatientRequest

    if patients is None and pattern is None:
        return None
    if patients is not None and pattern is not None:
        raise typer.BadParameter("patients are named either by --patients or by --patient-pattern")
    request = PatientRequest(path=None, list_file=patients, pattern=pattern)
    request.identify(names)
    return request


def report_patients(request: PatientRequest, rows: Path, names: Sequence[str]) -> None:
    """Write the rows by patient of a finished file of rows if they are wanted, and print how many patients refer."""
    if request.path is None:
        return
    from fundusgrade.grading.patients import write_patients
    from fundusgrade.reports.listings import patients_line

    results = write_patients(rows, names, request)
    message(f"wrote {len(results)} rows to {request.path}: {patients_line(results)}")
