"""Figures of confusion matrices, audits and explanations; readable in gray and by color-blind people."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fundusgrade.errors import MetricsError
from fundusgrade.evaluation.audit import Audit
from fundusgrade.evaluation.interventions import Role
from fundusgrade.grades import GRADE_LABELS, NUM_GRADES
from fundusgrade.options import ColorScale
from fundusgrade.outputs import MARK
from fundusgrade.photographs.images import write_image
from fundusgrade.plots import BLUE, VERMILION, new_figure, save_figure
from fundusgrade.reports.captions import describe_figure
from fundusgrade.reports.overlay import MarkedRegion
from fundusgrade.reports.panels import panel_figure
from fundusgrade.reports.sheet import rasterize
from fundusgrade.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from fundusgrade.evaluation.robustness import InterventionEffect
    from fundusgrade.evaluation.shortcuts import ShortcutProbe
    from fundusgrade.explanation.explainer import Explanation
    from fundusgrade.metrics.classification import Evaluation


_MODELS_PER_ROW = 4
_TITLE_WIDTH = 30

# White to dark blue, lightness L* from 98 to 21 in equal steps, so that gray print keeps the order and the distances.
_SHADES = ("#F7FBFF", "#CEE1FB", "#A8C6F2", "#86ACE5", "#6791D3", "#4A78BD", "#315FA4", "#1B4789", "#08306B")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEvaluation:
    """The scores of the model of this name."""

    model: str
    evaluation: Evaluation


def draw_explanations(
    rows: Sequence[Sequence[Explanation]],
    path: Path,
    *,
    marked: Sequence[MarkedRegion] = (),
    scale: ColorScale | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write the figure of `explanation_figure`. Raises StoreError where it cannot be written."""
    figure = explanation_figure(rows, marked=marked, scale=scale, notes=notes)
    write_image(path, rasterize(figure), software=MARK)


def explanation_figure(
    rows: Sequence[Sequence[Explanation]],
    *,
    marked: Sequence[MarkedRegion] = (),
    scale: ColorScale | None = None,
    notes: Sequence[str] = (),
) -> Figure:
    """One photograph with a row for each method and a column for each model, and outlines of `marked` regions.

    `scale` is the color scale of all rows, by default that of each method; `notes` are sentences for the key.
    """
    photograph, content = describe_figure(rows, marked=marked, chosen=scale, notes=notes)
    return panel_figure(photograph, content)


def figure_of(explanation: Explanation) -> Figure:
    """The figure of one explanation, as `draw_explanations` writes it."""
    return explanation_figure(((explanation,),))


def _score(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def draw_confusion_matrices(evaluations: Sequence[ModelEvaluation], path: Path) -> None:
    """Draw the matrices of the models side by side into a PNG: counts, and percent of each true grade (row).

    Raises MetricsError without evaluations, StoreError where the file cannot be written.
    """
    if not evaluations:
        raise MetricsError("There is no evaluation to draw: evaluate at least one model.")
    num_columns = min(len(evaluations), _MODELS_PER_ROW)
    num_rows = math.ceil(len(evaluations) / num_columns)
    figure = new_figure(width_inches=3.6 * num_columns + 2.2, height_inches=4.9 * num_rows + 0.2)
    panels = figure.subplots(num_rows, num_columns, squeeze=False).ravel().tolist()
    for panel, evaluation in zip(panels, evaluations, strict=False):
        image = _draw_matrix(panel, evaluation.evaluation)
        panel.set_title(_matrix_title(evaluation), fontsize=11, parse_math=False)
    for panel in panels[::num_columns]:
        panel.set_yticks(range(NUM_GRADES), _grade_ticks())
        panel.set_ylabel("Reference grade")
    for panel in panels[len(evaluations) :]:
        panel.set_axis_off()
    figure.colorbar(image, ax=panels, label="Percent of the row", shrink=0.6, aspect=25)
    save_figure(figure, path)


def _draw_matrix(panel: Axes, evaluation: Evaluation) -> AxesImage:
    from matplotlib.colors import LinearSegmentedColormap

    totals = [sum(row) for row in evaluation.confusion_matrix]
    percent = [
        [100 * count / total if total else 0.0 for count in row]
        for row, total in zip(evaluation.confusion_matrix, totals, strict=True)
    ]
    image = panel.imshow(percent, cmap=LinearSegmentedColormap.from_list("shades", _SHADES), vmin=0, vmax=100)
    for row, counts in enumerate(evaluation.confusion_matrix):
        for column, count in enumerate(counts):
            percentage = f"{percent[row][column]:.0f} %" if totals[row] else "–"
            color = _text_color(image.cmap(percent[row][column] / 100))
            panel.text(column, row, f"{count}\n{percentage}", ha="center", va="center", color=color, fontsize=9.5)
    panel.set_xticks(range(NUM_GRADES), _grade_ticks(), rotation=35, ha="right", rotation_mode="anchor")
    panel.set_yticks([])
    panel.set_xlabel("Predicted grade")
    return image


def _grade_ticks() -> list[str]:
    return [f"{grade} {label}" for grade, label in enumerate(GRADE_LABELS)]


def _matrix_title(evaluation: ModelEvaluation) -> str:
    name = "\n".join(textwrap.wrap(printable(evaluation.model), width=_TITLE_WIDTH))
    scores = evaluation.evaluation
    return f"{name}\nkappa {_score(scores.kappa)}, accuracy {_score(scores.accuracy)}"


def _text_color(background: Sequence[float]) -> str:
    """Black or white, whichever contrasts more (relative luminance, WCAG 2.1)."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in background[:3]]
    return "black" if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179 else "white"


def draw_audit(audit: Audit, path: Path) -> None:
    """Draw the shortcuts of a data set and the effects of interventions as bars with 95 % intervals, into a PNG.

    Raises StoreError where the file cannot be written.
    """
    num_panels = 2 if audit.effects else 1
    figure = new_figure(width_inches=6.5 * num_panels, height_inches=max(4.2, 0.42 * len(audit.effects) + 1))
    panels = figure.subplots(1, num_panels, squeeze=False).ravel().tolist()
    _draw_bars(panels[0], [_shortcut_bar(probe) for probe in audit.probes])
    panels[0].set_xlabel("kappa of grades predicted from these")
    panels[0].set_title(f"{printable(audit.data)}: orange: after preprocessing", fontsize=11, parse_math=False)
    if audit.effects:
        _draw_bars(panels[1], [_effect_bar(effect) for effect in audit.effects])
        panels[1].set_xlabel("mean change of the expected grade (0-4)")
        panels[1].set_title(f"{printable(audit.model or '')}: blue: controls", fontsize=11, parse_math=False)
    save_figure(figure, path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bar:
    """A value with its interval; accented ones are orange and hatched."""

    label: str
    value: float
    low: float
    high: float
    accented: bool

    @classmethod
    def of(cls, label: str, value: float | None, low: float | None, high: float | None, accented: bool) -> _Bar:
        middle = value or 0.0
        low, high = middle if low is None else min(low, middle), middle if high is None else max(high, middle)
        return cls(label=label, value=middle, low=low, high=high, accented=accented)


def _shortcut_bar(probe: ShortcutProbe) -> _Bar:
    is_preprocessed = probe.stage == "prepared"
    return _Bar.of(f"{probe.kind}\n({probe.stage})", probe.kappa, probe.kappa_low, probe.kappa_high, is_preprocessed)


def _effect_bar(effect: InterventionEffect) -> _Bar:
    is_intervention, change = effect.role is Role.ACQUISITION, effect.change
    label = effect.name if is_intervention else f"{effect.name}\n({effect.role})"
    return _Bar.of(label, change.value, change.low, change.high, is_intervention)


def _draw_bars(panel: Axes, bars: Sequence[_Bar]) -> None:
    places = range(len(bars))
    panel.barh(
        places,
        [bar.value for bar in bars],
        xerr=[[bar.value - bar.low for bar in bars], [bar.high - bar.value for bar in bars]],
        color=[VERMILION if bar.accented else BLUE for bar in bars],
        hatch=["//" if bar.accented else "" for bar in bars],
        edgecolor="white",
        height=0.6,
    )
    largest = max((bar.high for bar in bars), default=0.0) or 1.0
    for place, bar in zip(places, bars, strict=True):
        panel.text(max(bar.high, 0) + 0.02 * largest, place, f"{bar.value:.3f}", va="center", fontsize=9)
    panel.set_yticks(places, [bar.label for bar in bars])
    panel.invert_yaxis()
    panel.set_xlim(min(0.0, *(bar.low for bar in bars)), 1.2 * largest)
    panel.grid(axis="x", alpha=0.3)
