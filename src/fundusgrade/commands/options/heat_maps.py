"""Options of heat maps, and what is printed about their tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from fundusgrade.commands.options.names import complete_methods, complete_targets
from fundusgrade.commands.options.panels import HEAT_MAPS
from fundusgrade.options import ColorScale
from fundusgrade.terminal import message, show

if TYPE_CHECKING:
    from fundusgrade.evaluation.findings import Findings
    from fundusgrade.explanation.heat_map import ExplainOptions

TargetOption = Annotated[
    str,
    typer.Option(
        "--target",
        metavar="SCORE",
        help="Score to explain: auto (referable where the grade is 0 or 1, else the predicted grade), predicted, "
        "referable (moderate or worse), expected (the expected grade), or one grade, 0-4 or its name.",
        autocompletion=complete_targets,
        rich_help_panel=HEAT_MAPS,
    ),
]
MethodsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        metavar="METHOD",
        help="Attribution method: integrated-gradients, grad-cam, hirescam, grad-cam++, layercam, attention-rollout or "
        "auto. METHOD@LAYER chooses the feature map of a CAM method: last, two finer ones before it (middle, fine), or "
        "all. Repeat to compare several (default: grad-cam and integrated-gradients; for `faithfulness` all that fit "
        "the model).",
        autocompletion=complete_methods,
        rich_help_panel=HEAT_MAPS,
    ),
]
ScaleOption = Annotated[
    ColorScale | None,
    typer.Option(
        "--scale",
        metavar="SCALE",
        help="Color scale: absolute, the same on every photograph, or relative, from 0 to the maximum of each heat map "
        "(default: relative for the CAM family and attention rollout, absolute for integrated-gradients).",
        rich_help_panel=HEAT_MAPS,
    ),
]


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
