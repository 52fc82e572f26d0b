"""Charts of a report as SVG: readable in gray, by color-blind people, on a phone, on paper and in the dark.

Colors are names of the page's style sheet, so that one drawing serves light and dark. Each series has its color, line,
marker and letter; its name stands in the page's legend, not in the drawing.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from fundusgrade.metrics.estimates import Estimate
from fundusgrade.plots import SERIES_COLORS, blank_figure
from fundusgrade.reports.html.formats import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_WIDTH, _TEXT = 380, 12  # units of the drawing; a phone shows a unit as about a CSS pixel
_LABEL_HEIGHT, _DOT_HEIGHT, _FOOT, _LABEL_CHARACTERS = 20, 17, 44, 44
# Colors that matplotlib writes, in lower case, to be replaced by names of the style sheet.
_COLORS = tuple(color.lower() for color in SERIES_COLORS)
_INK, _FAINT = "#010203", "#040506"
_STYLE_NAMES = {
    _INK: "currentColor",
    _FAINT: "var(--faint)",
    **{color: f"var(--series-{number})" for number, color in enumerate(_COLORS, start=1)},
}
_LINES = ("-", "--", "-.", ":", (0, (6, 2, 1, 2, 1, 2)), (0, (1, 1)))
_MARKERS = "os^Dv*"
_MARKER_SIGNS = "●■▲◆▼★"


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A line through points; a `series` of None is drawn thin and gray, for reference, with its label at the end.

    `bounds` are those of each point's interval, drawn as a vertical line; empty for none.
    """

    series: int | None
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    label: str = ""
    bounds: tuple[tuple[float | None, float | None], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DotRow:
    """A named row with a dot and whisker for each series."""

    label: str
    dots: tuple[Estimate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Title, axis labels and axis limits of a chart; limits of None follow from the data."""

    title: str
    x_label: str
    y_label: str = ""
    x_limits: tuple[float, float] | None = None
    y_limits: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LegendEntry:
    """A series' letter, its marker as a character, the number (1-6) of its color in the style sheet, and its name."""

    letter: str
    marker: str
    color: int
    name: str


def letter(series: int) -> str:
    """The letter of a series in a chart: A, B, ..."""
    return chr(ord("A") + series % 26)


def legend(names: Sequence[str]) -> tuple[LegendEntry, ...]:
    """A legend entry for each series: letter, marker and color."""
    return tuple(
        LegendEntry(letter=letter(i), marker=_MARKER_SIGNS[i % len(_COLORS)], color=i % len(_COLORS) + 1, name=name)
        for i, name in enumerate(names)
    )


def lines_chart(lines: Sequence[Series], frame: Frame, description: str) -> Markup:
    """Lines with markers, each with its letter at its end."""
    figure, axes = _new_chart(300, left=52, right=42, top=30)
    many = max((len(line.x) for line in lines), default=0) > 20
    for line in lines:
        style = _line_style(line.series, many)
        axes.plot(line.x, [math.nan if y is None else y for y in line.y], **style)
        for x, (low, high) in zip(line.x, line.bounds, strict=False):
            if low is not None and high is not None:
                axes.plot([x, x], [low, high], color=style["color"], linewidth=1, alpha=0.6)
    _finish(axes, frame)
    axes.set_ylabel(frame.y_label, fontsize=_TEXT, color=_INK)
    _label_ends(axes, lines)
    return _to_svg(figure, description)


def dots_chart(
    rows: Sequence[DotRow], frame: Frame, description: str, *, reference: float | None = None, digits: int = 2
) -> Markup:
    """Dots with 95 % intervals, the row's name above them and the values at the right; a line marks `reference`."""
    num_series = max((len(row.dots) for row in rows), default=1)
    pitch = _LABEL_HEIGHT + _DOT_HEIGHT * num_series
    figure, axes = _new_chart(pitch * len(rows) + _FOOT + 30, left=10, right=66, top=30)
    _finish(axes, frame)
    axes.set_xlim(*(frame.x_limits or _x_limits(rows, reference)))
    axes.set_ylim(pitch * len(rows), 0)
    axes.set_yticks([])
    if reference is not None:
        axes.axvline(reference, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
    for place, row in enumerate(rows):
        axes.axhline(place * pitch, color=_FAINT, linewidth=0.6)
        label = axes.text(0.005, place * pitch + 13, drawable(row.label), fontsize=_TEXT, color=_INK, parse_math=False)
        label.set_transform(axes.get_yaxis_transform())
        for series, estimate in enumerate(row.dots):
            y = place * pitch + _LABEL_HEIGHT + _DOT_HEIGHT * (series + 0.4)
            _draw_dot(axes, estimate, y, series, name=letter(series) + " " if num_series > 1 else "", digits=digits)
    return _to_svg(figure, description)


def drawable(text: str) -> str:
    """A name in letters that the chart's font has: others become escapes, the middle of a long name is left out."""
    plain = "−".join(part.encode("ascii", "backslashreplace").decode() for part in text.split("−"))
    plain = "".join(sign if sign.isprintable() else f"\\x{ord(sign):02x}" for sign in plain)
    if len(plain) <= _LABEL_CHARACTERS:
        return plain
    half = _LABEL_CHARACTERS // 2 - 2
    return f"{plain[:half]} ... {plain[-half:]}"


def _draw_dot(axes: Axes, estimate: Estimate, y: float, series: int, *, name: str, digits: int) -> None:
    color = _COLORS[series % len(_COLORS)]
    _write_beside(axes, y, f"{name}{number(estimate.value, digits)}")
    if estimate.value is None or math.isnan(estimate.value):
        return
    if estimate.low is not None and estimate.high is not None:
        axes.plot([estimate.low, estimate.high], [y, y], color=color, linewidth=2, solid_capstyle="butt")
        axes.plot([estimate.low, estimate.high], [y, y], color=color, linestyle="", marker="|", markersize=8)
    marker = _MARKERS[series % len(_MARKERS)]
    axes.plot([estimate.value], [y], color=color, linestyle="", marker=marker, markersize=7)


def _write_beside(axes: Axes, y: float, text: str) -> None:
    """Text at the right of the axes, at the height `y` in units of the data."""
    beside = axes.get_yaxis_transform()
    axes.text(1.02, y, text, transform=beside, va="center", fontsize=_TEXT, color=_INK, clip_on=False)


def _line_style(series: int | None, many: bool) -> dict[str, Any]:
    if series is None:
        return {"color": _FAINT, "linewidth": 1.2, "linestyle": (0, (4, 3))}
    number = series % len(_COLORS)
    markers = {"marker": _MARKERS[number], "markersize": 5.5, "markevery": 10 if many else 1}
    return {"color": _COLORS[number], "linewidth": 1.8, "linestyle": _LINES[number], **markers}


def _label_ends(axes: Axes, lines: Sequence[Series]) -> None:
    """A letter beside the last point of each line, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    least = 14 / 226 * (high - low)  # a letter's height of the 226 units that the axes are high
    ends = sorted((_last_y(line), i) for i, line in enumerate(lines) if not math.isnan(_last_y(line)))
    for y, (_, i) in zip(_spread([end for end, _ in ends], least, low, high), ends, strict=True):
        line = lines[i]
        _write_beside(axes, y, line.label if line.series is None else letter(line.series))


def _spread(positions: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """Rising positions moved apart to the distance `least` or more, all between `low` and `high`."""
    moved: list[float] = []
    for position in positions:
        moved.append(max([min(max(position, low), high), *(previous + least for previous in moved[-1:])]))
    for i in reversed(range(len(moved))):
        moved[i] = min([moved[i], high, *(following - least for following in moved[i + 1 : i + 2])])
    return moved


def _last_y(line: Series) -> float:
    return next((y for y in reversed(line.y) if y is not None and math.isfinite(y)), math.nan)


def _x_limits(rows: Sequence[DotRow], reference: float | None) -> tuple[float, float]:
    """From the lowest to the highest value, with a margin at both ends."""
    estimates = [estimate for row in rows for estimate in row.dots]
    bounds = [value for estimate in estimates for value in (estimate.value, estimate.low, estimate.high)]
    values = [value for value in bounds if value is not None and math.isfinite(value)]
    values += [] if reference is None else [reference]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = 0.06 * (high - low) or 0.05
    return low - margin, high + margin


def _new_chart(height: int, *, left: int, right: int, top: int) -> tuple[Figure, Axes]:
    # 72 dpi: a unit of the drawing is a point.
    figure = blank_figure(width_inches=_WIDTH / 72, height_inches=height / 72, dpi=72)
    box = (left / _WIDTH, _FOOT / height, (_WIDTH - left - right) / _WIDTH, (height - _FOOT - top) / height)
    return figure, figure.add_axes(box)


def _finish(axes: Axes, frame: Frame) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.figure.text(0.01, 1, drawable(frame.title), va="top", fontsize=_TEXT + 1, fontweight="bold", color=_INK)
    axes.set_xlabel(frame.x_label, fontsize=_TEXT, color=_INK)
    if frame.x_limits:
        axes.set_xlim(*frame.x_limits)
    if frame.y_limits:
        axes.set_ylim(*frame.y_limits)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.tick_params(labelsize=_TEXT - 1, color=_FAINT, labelcolor=_INK)
    axes.grid(color=_FAINT, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom" or (name == "left" and bool(frame.y_label)))
        spine.set_color(_FAINT)


def _to_svg(figure: Figure, description: str) -> Markup:
    """The drawing as one element without ids, sizes or colors of its own."""
    import matplotlib

    written = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fundusgrade"}):
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_page(written.getvalue(), description)


def _for_page(svg: str, description: str) -> Markup:
    """Markers are drawn by reference; ids get the drawing's own prefix, because a page has many drawings."""
    import hashlib

    prefix = hashlib.sha256((svg + description).encode()).hexdigest()[:10]
    body = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="#|url\(#)([\w.-]+)', body))
    body = re.sub(r' id="([\w.-]+)"', lambda match: f' id="{prefix}-{match[1]}"' if match[1] in used else "", body)
    body = re.sub(r'xlink:href="#|href="#', f'href="#{prefix}-', body).replace("url(#", f"url(#{prefix}-")
    for color, name in _STYLE_NAMES.items():
        body = body.replace(color, name)
    body = re.sub(r"font(-family)?: ?[^;\"]*'DejaVu Sans'[^;\"]*;?", _font_size, body)
    body = re.sub(r">\s+<", "><", body)
    box = re.search(r'viewBox="([^"]+)"', svg)
    assert box is not None, "matplotlib writes a viewBox"
    start = Markup('<svg viewBox="{}" role="img" aria-label="{}">').format(box[1], description)
    return start + Markup(body) + Markup("</svg>")


def _font_size(match: re.Match[str]) -> str:
    """The size and weight of a font without its family, which is the page's."""
    size = re.search(r"([\d.]+)px", match[0])
    weight = "font-weight: bold;" if re.search(r"\b(bold|700)\b", match[0]) else ""
    return (f"font-size: {size[1]}px;" if size else "") + weight
