"""Options of the decision on a grade and on a referral, and what is printed about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fundusgrade.commands.options.panels import GRADING, LOSS
from fundusgrade.options import DecideFor, Decision
from fundusgrade.terminal import Verbosity, detail, message, verbosity

if TYPE_CHECKING:
    from fundusgrade.grading.grader import Grader

CoverageOption = Annotated[
    float | None,
    typer.Option(
        "--coverage",
        min=0.5,
        max=0.99,
        metavar="PROPORTION",
        help="Also give a prediction set, which contains the true grade with this probability, and the grade that the "
        "eye could be as bad as; e.g. 0.9 (default: none).",
        rich_help_panel=GRADING,
    ),
]
SensitivityOption = Annotated[
    float | None,
    typer.Option(
        "--sensitivity",
        min=0.5,
        max=0.999,
        metavar="PROPORTION",
        help="Refer from the probability that finds this proportion of the referable photographs of the model's "
        "validation, e.g. 0.95 (default: the operating point stored with the model).",
        rich_help_panel=GRADING,
    ),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        min=0.0,
        max=1.0,
        metavar="PROBABILITY",
        help="Refer from this probability of moderate or worse, e.g. 0.3 (default: the operating point stored with the "
        "model).",
        rich_help_panel=GRADING,
    ),
]
PrevalenceOption = Annotated[
    float,
    typer.Option(
        "--prevalence",
        min=0.001,
        max=0.999,
        metavar="PROPORTION",
        help="Proportion of those screened who have referable disease, for which predictive values are stated.",
        rich_help_panel=GRADING,
    ),
]
DecisionOption = Annotated[
    Decision | None,
    typer.Option(
        "--decision",
        metavar="RULE",
        help="Decision rule: most-probable (the most probable grade), or thresholds of the expected grade, which raise "
        "kappa and lower accuracy a little (default: most-probable; `refit`: that of the model).",
        rich_help_panel=LOSS,
    ),
]
DecideForOption = Annotated[
    DecideFor | None,
    typer.Option(
        "--decide-for",
        metavar="SCORE",
        help="What thresholds are fitted for: kappa, accuracy, macro-f1 (rare grades count as much as common ones), "
        "or balanced (all three); implies `--decision thresholds` (default: balanced; `refit`: that of the model).",
        rich_help_panel=LOSS,
    ),
]


def check_point(sensitivity: float | None, threshold: float | None) -> None:
    """Raises BadParameter where both `SensitivityOption` and `ThresholdOption` are given."""
    if sensitivity is not None and threshold is not None:
        raise typer.BadParameter("--sensitivity and --threshold exclude each other: give one of them")


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


def report_operating_point(grader: Grader) -> None:
    """Print from which probability a grader refers; what that finds on the validation photographs is a detail."""
    from fundusgrade.networks.runtime import PYTORCH
    from fundusgrade.reports.listings import calibration_line, operating_point_line

    calibration, point = grader.description.local_calibration, grader.operating_point
    is_certified = calibration is not None and point.threshold <= calibration.certificate.threshold
    arithmetic = grader.arithmetic
    is_pytorch = arithmetic.runtime.startswith(PYTORCH)
    precision = arithmetic.number_format if is_pytorch else f"{arithmetic.runtime} {arithmetic.number_format}"
    if calibration is not None:
        message(calibration_line(grader.name, calibration, is_certified=is_certified, precision=precision))
    if not is_certified:
        line = operating_point_line(grader.name, point)
        message(line if verbosity() is Verbosity.VERBOSE else line.partition(", ")[0])


def report_checks(grader: Grader) -> None:
    """Print that a model has no checks of a photograph; where they come from is a detail."""
    from fundusgrade.reports.listings import checks_line

    say = message if grader.description.checks is None else detail
    say(checks_line(grader.name, grader.description.checks))
