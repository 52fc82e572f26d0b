"""Options and arguments that several commands share, each declared once with its meaning, and the exit codes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fundusgrade.errors import DatasetError, StoreError
from fundusgrade.options import DecideFor, Decision, DeviceName, Precision, Split
from fundusgrade.terminal import message, show
from fundusgrade.text import error_text

if TYPE_CHECKING:
    from fundusgrade.evaluation.findings import Findings
    from fundusgrade.explanation.heat_map import ExplainOptions
    from fundusgrade.grading.grader import Grader
    from fundusgrade.grading.patients import PatientRequest
    from fundusgrade.photographs.sources import PhotographSource

EXIT_ERROR = 1
EXIT_UNGRADED = 3
EXIT_INTERRUPTED = 130

_PATIENTS = "Patients"

DeviceOption = Annotated[
    DeviceName, typer.Option("--device", help="Where to compute; auto takes a GPU if PyTorch can use one.")
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        "--precision", help="Floating-point format of the network; auto takes a 16-bit format where it is fast."
    ),
]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="Model, by name or path (default: the shipped model).")
]
ModelsOption = Annotated[
    list[str] | None,
    typer.Option("--model", help="Model, by name or path; repeat to compare several (default: the shipped model)."),
]
DataArgument = Annotated[str, typer.Argument(help="Prepared data set, by name or folder.")]
SplitOption = Annotated[Split, typer.Option("--split", help="Split of the data set to take photographs from.")]
LesionsOption = Annotated[
    Path | None,
    typer.Option(
        "--lesions",
        help="Folder with photographs in images/ and lesion masks in masks/, named as in the IDRiD data set "
        "(default: none).",
    ),
]
AllowLeakageOption = Annotated[
    bool,
    typer.Option(
        "--allow-leakage",
        help="Accept images that were used to train or select the model; the results then state the leakage.",
    ),
]
OverwriteOption = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace files that are there already, if fundusgrade wrote them."),
]
TtaOption = Annotated[
    bool,
    typer.Option("--tta", help="Test-time augmentation: average the outputs for an image and its mirror images."),
]
CoverageOption = Annotated[
    float | None,
    typer.Option(
        "--coverage",
        min=0.5,
        max=0.99,
        help="Also give a prediction set, which contains the true grade with this probability, and the grade that the "
        "eye could be as bad as; e.g. 0.9 (default: none).",
    ),
]
SensitivityOption = Annotated[
    float | None,
    typer.Option(
        "--sensitivity",
        min=0.5,
        max=0.999,
        help="Refer from the probability that finds this proportion of the referable photographs of the model's "
        "validation, e.g. 0.95 (default: the operating point stored with the model).",
    ),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        min=0.0,
        max=1.0,
        help="Refer from this probability of moderate or worse, e.g. 0.3 (default: the operating point stored with the "
        "model).",
    ),
]
ByPatientOption = Annotated[
    Path | None,
    typer.Option(
        "--by-patient",
        help="Also write a file with one row per patient, the worst eye: .csv, .jsonl or .parquet; needs --patients or "
        "--patient-pattern (default: none).",
        rich_help_panel=_PATIENTS,
    ),
]
PatientsOption = Annotated[
    Path | None,
    typer.Option(
        "--patients",
        help="CSV file with the columns image (or source), patient and, if known, eye, such as the manifest.csv of a "
        "data set (default: none).",
        rich_help_panel=_PATIENTS,
    ),
]
PatientPatternOption = Annotated[
    str | None,
    typer.Option(
        "--patient-pattern",
        help="Regular expression of the file name with a group named patient and, if known, eye, e.g. "
        "'(?P<patient>\\d+)_(?P<eye>left|right)' (default: none).",
        rich_help_panel=_PATIENTS,
    ),
]
FieldsOption = Annotated[
    int | None,
    typer.Option(
        "--fields",
        min=1,
        help="Gradable photographs that each eye needs (default: at least one, and all that there are must be "
        "gradable).",
        rich_help_panel=_PATIENTS,
    ),
]
TargetOption = Annotated[
    str,
    typer.Option(
        "--target",
        help="Score to explain: the predicted grade, referable (moderate or worse), the expected grade (weighted by "
        "probability), or one grade, 0-4 or its name.",
    ),
]
MethodsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        help="Attribution method: integrated-gradients, grad-cam, hirescam, grad-cam++, layercam, attention-rollout or "
        "auto. METHOD@LAYER chooses the feature map of a CAM method: last, two finer ones before it (middle, fine), or "
        "all. Repeat to compare several (default: auto, which is integrated-gradients; for `faithfulness` all that fit "
        "the model).",
    ),
]
PhotographsArgument = Annotated[
    list[Path] | None, typer.Argument(help="Photographs, folders of photographs and .zip archives.")
]
ListOption = Annotated[
    Path | None,
    typer.Option("--list", help="Text file with one path of a photograph or folder per line (default: none)."),
]


def find_photographs(named: Sequence[Path] | None, list_file: Path | None = None) -> list[PhotographSource]:
    """The photographs of `PhotographsArgument` and `ListOption`, in order. Raises DatasetError where there are none."""
    from fundusgrade.photographs.sources import PHOTOGRAPH_SUFFIXES, find_images

    if not named and list_file is None:
        raise typer.BadParameter("name photographs, folders of photographs, or a --list")
    found = find_images([*(named or []), *(_read_list(list_file) if list_file is not None else [])])
    if not found:
        where = ", ".join(map(str, [*(named or []), *([list_file] if list_file else [])]))
        raise DatasetError(
            f"no photographs in {where}; expected files that end in {', '.join(sorted(PHOTOGRAPH_SUFFIXES))}, or .zip "
            "archives of them"
        )
    return found


def input_files(
    found: Sequence[PhotographSource] = (), *others: Path | None, models: Sequence[str | None] = ()
) -> list[Path | None]:
    """Every file that a command reads, for `check_outputs`. Raises StoreError for an unknown model."""
    from fundusgrade import store

    return [*(each.path for each in found), *others, *map(store.resolve_model, models)]


def chosen_models(named: Sequence[str] | None) -> Sequence[str | None]:
    """The models of `ModelsOption`; [None], the shipped one, where none is named."""
    return named or [None]


def load_graders(
    named: Sequence[str] | None, device: DeviceName, precision: Precision, coverage: float | None = None
) -> list[Grader]:
    """A grader for each model of `ModelsOption`. Raises as `Grader.load`."""
    from fundusgrade.grading.grader import Grader

    return [Grader.load(name, device=device, precision=precision, coverage=coverage) for name in chosen_models(named)]


def checked_decision(decision: Decision | None, decide_for: DecideFor | None) -> Decision | None:
    """The decision rule as it is given. Raises BadParameter for the most probable grade with an objective."""
    if decide_for is not None and decision is Decision.MOST_PROBABLE:
        raise typer.BadParameter(
            f"--decide-for {decide_for} is an objective of thresholds; leave it or --decision {decision} out"
        )
    return decision


def report_coverage(grader: Grader) -> None:
    """Print how often the prediction sets of a grader hold the true grade, if it gives any."""
    from fundusgrade.reports.listings import coverage_line

    if grader.coverage is not None:
        message(coverage_line(grader.name, grader.known_coverage(), grader.coverage))


def check_point(sensitivity: float | None, threshold: float | None) -> None:
    """Raises BadParameter where both `SensitivityOption` and `ThresholdOption` are given."""
    if sensitivity is not None and threshold is not None:
        raise typer.BadParameter("--sensitivity and --threshold exclude each other: give one of them")


def patient_request(
    rows: Path | None, by_patient: Path | None, patients: Path | None, pattern: str | None, num_fields: int | None
) -> PatientRequest | None:
    """Where and how rows by patient are written beside the file of `rows`; None where they are not asked for.

    Raises BadParameter for options that do not fit together.
    """
    from fundusgrade.grading.patients import PatientRequest
    from fundusgrade.grading.rows import row_format

    if by_patient is None:
        if patients is not None or pattern is not None or num_fields is not None:
            raise typer.BadParameter("--patients, --patient-pattern and --fields need --by-patient FILE")
        return None
    if (patients is None) == (pattern is None):
        raise typer.BadParameter("--by-patient needs either --patients or --patient-pattern")
    if rows is None:
        raise typer.BadParameter("--by-patient needs a file of photographs too: name one with --csv")
    row_format(by_patient)
    return PatientRequest(path=by_patient, list_file=patients, pattern=pattern, num_fields=num_fields)


def report_patients(request: PatientRequest, rows: Path, names: Sequence[str]) -> None:
    """Write the rows by patient of a finished file of rows, and print how many patients refer."""
    from fundusgrade.grading.patients import write_patients
    from fundusgrade.reports.listings import patients_line

    results = write_patients(rows, names, request)
    message(f"wrote {len(results)} rows to {request.path}: {patients_line(results)}")


def report_operating_point(grader: Grader) -> None:
    """Print from which probability a grader refers, and what that finds on the model's validation photographs."""
    from fundusgrade.reports.listings import calibration_line, operating_point_line

    calibration, point = grader.description.local_calibration, grader.operating_point
    is_certified = calibration is not None and point.threshold <= calibration.certificate.threshold
    precision = grader.provenance().precision
    if calibration is not None:
        message(calibration_line(grader.name, calibration, is_certified=is_certified, precision=precision))
    if not is_certified:
        message(operating_point_line(grader.name, point))


def report_checks(grader: Grader) -> None:
    """Print what the model's checks of a photograph come from, or that it has none."""
    from fundusgrade.reports.listings import checks_line

    message(checks_line(grader.name, grader.description.checks))


def explain_options(methods: Sequence[str] | None, target: str) -> list[ExplainOptions]:
    """`MethodsOption` and `TargetOption` as options of the library. Raises ExplanationError for unknown names."""
    from fundusgrade.explanation.heat_map import ExplainOptions, parse_method
    from fundusgrade.explanation.targets import parse_target

    chosen = parse_target(target)
    parsed = [parse_method(name) for name in methods or ["auto"]]
    return [ExplainOptions(target=chosen, method=method, layer=layer) for method, layer in parsed]


def show_findings(findings: Findings) -> None:
    """Print all tables of a test of heat maps on standard output."""
    from fundusgrade.reports.findings_tables import findings_tables

    for table in findings_tables(findings):
        show(table)


def report_skipped(reason: str) -> None:
    """Print the reason for which a photograph was left out of a test."""
    message(f"left out: {reason}")


def _read_list(path: Path) -> list[Path]:
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
    except OSError as error:
        raise StoreError(f"--list {path}: {error_text(error)}; expected a text file of paths") from error
    return [Path(line.removesuffix("\r")) for line in lines if line.strip()]
