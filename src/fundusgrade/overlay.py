"""Shows a heat map on the photograph it belongs to: untouched pixels, one absolute scale, a color bar."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.grades import RESEARCH_USE
from fundusgrade.images import Picture, write_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCALE_FLOOR = 4.0
"""Smallest heat, in units of the score, that is drawn at full strength: weaker evidence never looks strong."""

MAX_OPACITY = 0.65

# Blue to cyan in CIELAB with equal steps of lightness: hues that no retina has, along the axis that color-blind readers
# keep. The usual maps end in yellow, which on a retina is the color of exudates and of the optic disc.
_COLOR_ANCHORS = ((47, 18, -67), (58, -5, -50), (69, -20, -39), (80, -34, -27), (91, -48, -14))
_STRIP_ROWS = 256  # a 12-megapixel photograph as float32 at once would take half a gigabyte
_DPI = 100
_LONG_SIDE_PX = 1200
_LONG_SIDE_FLOOR_PX = 600
_FIGURE_WIDTH_PX = 3600


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Panel:
    """One column of the figure: `heat` is (H, W) float32 >= 0 on the photograph's pixels."""

    title: str
    subtitle: str
    heat: NDArray[np.float32]


def scale_maximum(heats: Iterable[NDArray[np.float32]]) -> float:
    """Upper end of the scale that all heat maps of one figure share; at least `SCALE_FLOOR`."""
    return max([SCALE_FLOOR, *(float(heat.max()) for heat in heats)])


def blend(photograph: Picture, heat: NDArray[np.float32], *, scale_max: float) -> Picture:
    """Tint the photograph (H, W, 3) by its heat map (H, W) >= 0.

    Opacity grows in proportion to the heat, up to `MAX_OPACITY` at `scale_max`; pixels without heat stay as they are.
    """
    if heat.shape != photograph.shape[:2]:
        raise ValueError(f"heat map of shape {heat.shape} on a photograph of shape {photograph.shape[:2]}")
    colors = _colors()
    tinted = np.empty_like(photograph)
    for first in range(0, len(photograph), _STRIP_ROWS):
        rows = slice(first, first + _STRIP_ROWS)
        strength = np.clip(heat[rows] / scale_max, 0.0, 1.0)
        pixels = photograph[rows].astype(np.float32)
        color = colors[np.rint(strength * (len(colors) - 1)).astype(np.intp)]
        pixels += (MAX_OPACITY * strength)[..., None] * (color - pixels)
        tinted[rows] = np.rint(pixels)
    return tinted


def draw_explanation(
    photograph: Picture,
    panels: Sequence[Panel],
    path: Path,
    *,
    unit: str,
    caption: str = "Photograph",
) -> None:
    """Write a figure: the photograph (H, W, 3), one column per panel, and the color bar they share, labelled `unit`.

    Photographs are shown at 600-1200 px on their long side, at less in a figure of more than three columns; lines of a
    subtitle are parted by a line break. Raises StoreError when the file cannot be written.
    """
    photograph, panels = _fit(photograph, panels)
    scale_max = scale_maximum(panel.heat for panel in panels)
    layout = _Layout.of(photograph, num_columns=1 + len(panels))
    figure = _new_figure(layout)
    _draw_column(figure, layout, 0, photograph, caption, "")
    for column, panel in enumerate(panels, start=1):
        tinted = blend(photograph, panel.heat, scale_max=scale_max)
        _draw_column(figure, layout, column, tinted, panel.title, panel.subtitle)
    _draw_scale(figure, layout, _retina_color(photograph), scale_max, unit)
    _draw_footer(figure, layout)
    write_image(path, _rasterize(figure))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Where things are, in pixels from the figure's upper left corner; `em` is the height of ordinary text.

    All whole numbers: a column shows exactly the pixels it was given.
    """

    column_width: int
    column_height: int
    num_columns: int
    em: int

    @classmethod
    def of(cls, photograph: Picture, num_columns: int) -> _Layout:
        height, width = photograph.shape[:2]
        return cls(
            column_width=width, column_height=height, num_columns=num_columns, em=int(np.clip(width // 32, 16, 30))
        )

    @property
    def top(self) -> int:
        return 5 * self.em

    @property
    def width(self) -> int:
        return self.left(self.num_columns) + 7 * self.em

    @property
    def height(self) -> int:
        return self.top + self.column_height + 5 * self.em // 2

    def left(self, column: int) -> int:
        return (1 + column) * self.em + column * self.column_width

    def points(self, ems: float) -> float:
        """Font size in points."""
        return ems * self.em * 72 / _DPI

    def box(self, left: int, width: int) -> tuple[float, float, float, float]:
        """A box of the columns' height in matplotlib's figure coordinates."""
        bottom = self.height - self.top - self.column_height
        return left / self.width, bottom / self.height, width / self.width, self.column_height / self.height


def _colors() -> NDArray[np.float32]:
    """The color map as (256, 3) RGB, 0-255."""
    anchors = np.array(_COLOR_ANCHORS, np.float64)
    steps = np.linspace(0, len(anchors) - 1, 256)
    lab = np.stack([np.interp(steps, np.arange(len(anchors)), channel) for channel in anchors.T], axis=1)
    rgb = cv2.cvtColor(lab[None].astype(np.float32), cv2.COLOR_LAB2RGB)[0]
    return np.asarray(255 * np.clip(rgb, 0, 1), np.float32)


def _fit(photograph: Picture, panels: Sequence[Panel]) -> tuple[Picture, list[Panel]]:
    """Scale the photograph and the heat maps to the size they are shown at; the aspect stays."""
    height, width = photograph.shape[:2]
    largest = min(_LONG_SIDE_PX, _FIGURE_WIDTH_PX // (1 + len(panels)))
    factor = np.clip(max(height, width), min(_LONG_SIDE_FLOOR_PX, largest), largest) / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    fitted = [
        Panel(title=panel.title, subtitle=panel.subtitle, heat=cv2.resize(panel.heat, size, interpolation=way))
        for panel in panels
    ]
    return np.asarray(cv2.resize(photograph, size, interpolation=way), np.uint8), fitted


def _retina_color(photograph: Picture) -> Picture:
    """Median color of what is not the black surround: the background on which the color bar is shown."""
    pixels = photograph[::4, ::4].reshape(-1, 3)
    lit = pixels[pixels.max(axis=1) > 32]
    return np.asarray(np.median(lit if len(lit) else pixels, axis=0), np.uint8)


def _new_figure(layout: _Layout) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(layout.width / _DPI, layout.height / _DPI), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _draw_column(figure: Figure, layout: _Layout, column: int, picture: Picture, title: str, subtitle: str) -> None:
    left = layout.left(column)
    axes = figure.add_axes(layout.box(left, layout.column_width))
    axes.imshow(picture, origin="upper", interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    _draw_text(figure, layout, left, layout.top - 3.0 * layout.em, title, ems=1.25, weight="bold")
    for number, line in enumerate(subtitle.splitlines()):
        _draw_text(figure, layout, left, layout.top - (1.75 - 1.2 * number) * layout.em, line, color="0.3")


def _draw_text(
    figure: Figure, layout: _Layout, left: float, baseline: float, text: str, *, ems: float = 1.0, **style: Any
) -> None:
    """One line above a column, made smaller, and at last cut in its middle, where it is wider than the column."""
    drawn = figure.text(
        left / layout.width,
        1 - baseline / layout.height,
        text,
        fontsize=layout.points(ems),
        fontfamily="DejaVu Sans",
        parse_math=False,
        **style,
    )
    for shrunk in _shrinking(text):
        share = layout.column_width / max(1.0, drawn.get_window_extent().width)
        if share > 0.7:
            drawn.set_fontsize(layout.points(ems) * min(1.0, 0.97 * share))
            return
        drawn.set_text(shrunk)


def _shrinking(text: str) -> Iterator[str]:
    """The text with ever more of its middle left out."""
    for kept in range(len(text) - 2, 1, -2):
        yield f"{text[: kept // 2]}…{text[len(text) - kept // 2 :]}"


def _draw_scale(figure: Figure, layout: _Layout, background: Picture, scale_max: float, unit: str) -> None:
    """The color bar, tinted as the photograph is: it fades to the color of the retina where there is no heat."""
    axes: Axes = figure.add_axes(layout.box(layout.left(layout.num_columns), layout.em))
    heat = np.linspace(0.0, scale_max, 512, dtype=np.float32)[:, None]
    ground = np.broadcast_to(background, (512, 1, 3)).copy()
    bar = blend(ground, heat, scale_max=scale_max)
    axes.imshow(bar, origin="lower", aspect="auto", interpolation="nearest", extent=(0, 1, 0, scale_max))
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    axes.tick_params(labelsize=layout.points(0.85), length=layout.em * 0.25, width=1)
    axes.set_ylabel(unit, fontsize=layout.points(0.9), labelpad=layout.em * 0.4)


def _rasterize(figure: Figure) -> Picture:
    canvas: Any = figure.canvas
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def _draw_footer(figure: Figure, layout: _Layout) -> None:
    figure.text(
        1 - layout.em / layout.width,
        0.8 * layout.em / layout.height,
        RESEARCH_USE,
        fontsize=layout.points(0.8),
        fontfamily="DejaVu Sans",
        color="0.35",
        ha="right",
    )
