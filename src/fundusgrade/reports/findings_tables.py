"""Results of tests of explanations as tables for the terminal, as JSON, and as figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from fundusgrade import __version__
from fundusgrade.evaluation.baselines import is_baseline
from fundusgrade.evaluation.findings import LESION_LIFT, LESIONS, PERTURBATION, ROAD, Difference, Finding, Findings
from fundusgrade.files import write_atomically
from fundusgrade.grades import RESEARCH_USE
from fundusgrade.metrics.estimates import describe_p_value
from fundusgrade.plots import BLUE, new_figure, save_figure
from fundusgrade.store import name_from
from fundusgrade.text import printable

FINDINGS_FILE = "faithfulness.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class _MeasureFigure:
    """A figure of one measure; `chance` is the value of an uninformative map."""

    name: str
    test: str
    measure: str
    chance: float


_FIGURES = (
    _MeasureFigure(name="road", test=PERTURBATION, measure=ROAD, chance=0.0),
    _MeasureFigure(name="lesions", test=LESIONS, measure=LESION_LIFT, chance=1.0),
)


def findings_tables(findings: Findings) -> list[Table]:
    """A table for each test: a row for each model and method, a column for each measure with its 95 % interval."""
    tests = list(dict.fromkeys(finding.test for finding in findings.findings))
    tables = [_test_table(findings, test) for test in tests]
    if findings.between_models:
        tables.append(_difference_table("Models compared", "method", findings.between_models))
    if findings.over_baselines:
        tables.append(_difference_table("Methods and baselines compared", "model", findings.over_baselines))
    return tables


def findings_files(folder: Path, studied: Sequence[str]) -> list[Path]:
    """The files that `write_findings` may write for studies of these names, each once."""
    figures = [_figure_path(folder, name, figure) for name in studied for figure in _FIGURES]
    return list(dict.fromkeys([folder / FINDINGS_FILE, *figures]))


def _figure_path(folder: Path, studied: str, figure: _MeasureFigure) -> Path:
    return folder / f"{name_from(studied, 'study')}-{figure.name}.png"


def write_findings(findings: Sequence[Findings], folder: Path) -> list[Path]:
    """Write all results as indented JSON, undefined numbers as null, and a figure of each main measure.

    Raises StoreError where a file cannot be written.
    """
    written = [folder / FINDINGS_FILE]
    content = {"fundusgrade": __version__, "studies": [asdict(study) for study in findings], "notice": RESEARCH_USE}
    write_atomically(written[0], json.dumps(content, indent=1, allow_nan=False) + "\n")
    for study in findings:
        for figure in _FIGURES:
            if any((finding.test, finding.measure) == (figure.test, figure.measure) for finding in study.findings):
                written.append(_figure_path(folder, study.data, figure))
                draw_findings(study, figure.test, figure.measure, written[-1], chance=figure.chance)
    return written


def _test_table(findings: Findings, test: str) -> Table:
    chosen = [finding for finding in findings.findings if finding.test == test]
    measures = list(dict.fromkeys(finding.measure for finding in chosen))
    title = f"{test}: {findings.data}, explained: {findings.target}"
    table = Table("model", "method", "photographs", title=printable(title), title_justify="left")
    for measure in measures:
        table.add_column(measure, justify="right")
    rows: dict[tuple[str, str], dict[str, Finding]] = {}
    for finding in chosen:
        rows.setdefault((finding.model, finding.method), {})[finding.measure] = finding
    for (model, method), by_measure in rows.items():
        cells = [by_measure[measure].mean.describe() if measure in by_measure else "" for measure in measures]
        count = max(finding.num_photographs for finding in by_measure.values())
        table.add_row(Text(printable(model)), Text(method, style=_style(method)), str(count), *cells)
    return table


def _difference_table(title: str, within: str, differences: Sequence[Difference]) -> Table:
    table = Table("test", "measure", within, "first - second", "photographs", "difference", "p", title=title)
    for difference in differences:
        table.add_row(
            difference.test,
            difference.measure,
            Text(printable(difference.within)),
            Text(printable(f"{difference.first} - {difference.second}")),
            str(difference.num_photographs),
            difference.difference.describe(),
            describe_p_value(difference.p),
        )
    return table


def _style(method: str) -> str:
    return "dim" if is_baseline(method) else ""


def draw_findings(findings: Findings, test: str, measure: str, path: Path, *, chance: float | None = None) -> None:
    """Draw one measure of every model and method as dots with 95 % intervals, baselines hollow, into a PNG.

    Raises StoreError where the file cannot be written.
    """
    chosen = [finding for finding in findings.findings if (finding.test, finding.measure) == (test, measure)]
    models = list(dict.fromkeys(finding.model for finding in chosen))
    methods = list(dict.fromkeys(finding.method for finding in chosen))
    figure = new_figure(width_inches=3.2 * len(models) + 1.2, height_inches=0.32 * len(methods) + 1.8)
    panels = figure.subplots(1, len(models), sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for panel, model in zip(panels, models, strict=True):
        for finding in (finding for finding in chosen if finding.model == model):
            _draw_dot(panel, finding, methods.index(finding.method))
        if chance is not None:
            panel.axvline(chance, color="black", linestyle=":", linewidth=1)
        panel.set_title(printable(model), fontsize=10, parse_math=False)
        panel.set_yticks(range(len(methods)), methods, fontsize=8)
        panel.set_xlabel(measure, fontsize=9)
        panel.grid(axis="x", alpha=0.3)
    panels[0].invert_yaxis()
    save_figure(figure, path)


def _draw_dot(panel: object, finding: Finding, place: int) -> None:
    from matplotlib.axes import Axes

    assert isinstance(panel, Axes)
    mean = finding.mean
    if mean.value is None:
        return
    hollow = is_baseline(finding.method)
    color = "0.45" if hollow else BLUE
    if mean.low is not None and mean.high is not None:
        panel.plot([mean.low, mean.high], [place, place], color=color, linewidth=2)
    panel.plot([mean.value], [place], marker="o", color=color, markerfacecolor="white" if hollow else color)
