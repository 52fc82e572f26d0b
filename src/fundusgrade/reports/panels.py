"""The figure of an explanation: one photograph, a column for each model, a row for each method with its own scale."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.grades import RESEARCH_USE
from fundusgrade.outputs import MARK
from fundusgrade.photographs.images import write_image
from fundusgrade.photographs.pixels import Image
from fundusgrade.plots import blank_figure
from fundusgrade.reports.color_bar import draw_color_bar, retina_color
from fundusgrade.reports.overlay import MarkedRegion, blend, outline_regions, outline_strongest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fundusgrade.explanation.heat_map import HeatScale


_DPI = 100
_LONG_SIDE_PX = 1200
_LONG_SIDE_FLOOR_PX = 600
_FIGURE_SIDE_PX = 3600
_LINE_EMS = 1.2
_SQUARE = "\N{BLACK SQUARE}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Panel:
    """A photograph with its heat map in the figure: `heat` is (H, W) float32 >= 0 on the photograph's pixels."""

    title: str
    subtitle: str
    heat: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PanelRow:
    """Heat maps side by side that share a color scale, and the caption of the photograph to their left."""

    caption: str
    panels: Sequence[Panel]
    scale: HeatScale


def draw_explanation(
    photograph: Image, rows: Sequence[PanelRow], path: Path, *, marked: Sequence[MarkedRegion] = ()
) -> None:
    """Write the figure of `explanation_figure`. Raises StoreError where the file cannot be written."""
    write_image(path, rasterize(explanation_figure(photograph, rows, marked=marked)), software=MARK)


def explanation_figure(photograph: Image, rows: Sequence[PanelRow], *, marked: Sequence[MarkedRegion] = ()) -> Figure:
    """A figure: in each row the photograph (H, W, 3), a column per panel, and the color bar that they share.

    White lines surround heat of at least half the scale; `marked` regions are outlined in their colors everywhere.
    Photographs are shown at 600-1200 px on their long side, smaller in a figure of many rows or columns.
    """
    photograph, rows, marked = _fit(photograph, rows, marked)
    layout = _Layout.of(photograph, rows)
    figure = blank_figure(width_inches=layout.width / _DPI, height_inches=layout.height / _DPI, dpi=_DPI)
    for number, row in enumerate(rows):
        scale_max = row.scale.end(panel.heat for panel in row.panels)
        _draw_panel(figure, layout, (number, 0), outline_regions(photograph, marked), row.caption, "")
        for column, panel in enumerate(row.panels, start=1):
            tinted = blend(photograph, panel.heat, scale_max=scale_max)
            tinted = outline_regions(outline_strongest(tinted, panel.heat, scale_max=scale_max), marked)
            _draw_panel(figure, layout, (number, column), tinted, panel.title, panel.subtitle)
        axes = figure.add_axes(layout.box(number, layout.left(layout.num_columns), layout.em))
        draw_color_bar(axes, row.scale, scale_max, retina_color(photograph), text_px=layout.em, dpi=_DPI)
    _draw_legend(figure, layout, marked)
    _draw_footer(figure, layout)
    return figure


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """The layout of a figure, in pixels from its upper left corner; `em` is the height of ordinary text.

    `num_lines` are the lines of the longest subtitle. All are whole numbers, so that a column shows the pixels of its
    image without resampling.
    """

    column_width: int
    column_height: int
    num_columns: int
    num_rows: int
    num_lines: int
    em: int

    @classmethod
    def of(cls, photograph: Image, rows: Sequence[PanelRow]) -> _Layout:
        """The layout of rows of panels beside a photograph of the size that it is shown at."""
        height, width = photograph.shape[:2]
        return cls(
            column_width=width,
            column_height=height,
            num_columns=1 + max(len(row.panels) for row in rows),
            num_rows=len(rows),
            num_lines=max(len(panel.subtitle.splitlines()) for row in rows for panel in row.panels),
            em=int(np.clip(width // 32, 16, 30)),
        )

    def top(self, row: int) -> int:
        """Upper edge of the images of a row, below the title and the lines of the subtitle."""
        return (row + 1) * round((2.6 + _LINE_EMS * self.num_lines) * self.em) + row * self.column_height

    def baseline(self, row: int, line: int) -> float:
        """Baseline of a line of the subtitle, counted from 0; that of the title is line -1."""
        lines_below = self.num_lines - 1 - line
        return self.top(row) - (0.55 + _LINE_EMS * lines_below + (0.05 if line < 0 else 0)) * self.em

    @property
    def width(self) -> int:
        return self.left(self.num_columns) + 7 * self.em

    @property
    def height(self) -> int:
        return self.top(self.num_rows - 1) + self.column_height + 5 * self.em // 2

    def left(self, column: int) -> int:
        return (1 + column) * self.em + column * self.column_width

    def points(self, ems: float) -> float:
        """Font size in points."""
        return ems * self.em * 72 / _DPI

    def box(self, row: int, left: int, width: int) -> tuple[float, float, float, float]:
        """A box of a row's height in matplotlib's figure coordinates."""
        bottom = self.height - self.top(row) - self.column_height
        return left / self.width, bottom / self.height, width / self.width, self.column_height / self.height


def _fit(
    photograph: Image, rows: Sequence[PanelRow], marked: Sequence[MarkedRegion]
) -> tuple[Image, list[PanelRow], list[MarkedRegion]]:
    """Scale photograph, heat maps and masks to the size they are shown at; the aspect stays."""
    height, width = photograph.shape[:2]
    num_columns = 1 + max(len(row.panels) for row in rows)
    largest = min(_LONG_SIDE_PX, _FIGURE_SIDE_PX // max(num_columns, len(rows)))
    factor = np.clip(max(height, width), min(_LONG_SIDE_FLOOR_PX, largest), largest) / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR

    def fitted(values: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(cv2.resize(values, size, interpolation=method))

    return (
        np.asarray(fitted(photograph), np.uint8),
        [replace(row, panels=[replace(panel, heat=fitted(panel.heat)) for panel in row.panels]) for row in rows],
        # A lesion of a pixel must not vanish where the photograph is reduced.
        [replace(region, mask=fitted(region.mask.astype(np.float32)) > 0.1) for region in marked],
    )


def _draw_panel(
    figure: Figure, layout: _Layout, place: tuple[int, int], image: Image, title: str, subtitle: str
) -> None:
    """An image at a row and a column, with its title and subtitle above."""
    row, column = place
    left = layout.left(column)
    axes = figure.add_axes(layout.box(row, left, layout.column_width))
    axes.imshow(image, origin="upper", interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    _draw_text(figure, layout, left, layout.baseline(row, -1), title, ems=1.25, weight="bold")
    for number, line in enumerate(subtitle.splitlines()):
        _draw_text(figure, layout, left, layout.baseline(row, number), line, color="0.3")


def _draw_text(
    figure: Figure, layout: _Layout, left: float, baseline: float, text: str, *, ems: float = 1.0, **style: Any
) -> None:
    """One line above a column, made smaller, then shortened in its middle, where it is wider than the column."""
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
        fitting = layout.column_width / max(1.0, drawn.get_window_extent().width)
        if fitting > 0.7:
            drawn.set_fontsize(layout.points(ems) * min(1.0, 0.97 * fitting))
            return
        drawn.set_text(shrunk)


def _shrinking(text: str) -> Iterator[str]:
    """The text with more and more of its middle omitted."""
    for length in range(len(text) - 2, 1, -2):
        yield f"{text[: length // 2]}…{text[len(text) - length // 2 :]}"


def _draw_legend(figure: Figure, layout: _Layout, marked: Sequence[MarkedRegion]) -> None:
    """The legend of the outlines, below the images."""
    left = float(layout.left(0))
    for region in marked:
        style: dict[str, Any] = {"fontsize": layout.points(0.9), "fontfamily": "DejaVu Sans"}
        for text, color in ((_SQUARE, np.array(region.color) / 255), (f" {region.name}   ", "0.2")):
            drawn = figure.text(left / layout.width, 0.8 * layout.em / layout.height, text, color=color, **style)
            left += drawn.get_window_extent().width


def rasterize(figure: Figure) -> Image:
    """The pixels (H, W, 3) of a figure."""
    canvas: Any = figure.canvas
    with warnings.catch_warnings():
        # A name in a script that the font lacks is shown as boxes; the index and the CSV have it in full.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
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
