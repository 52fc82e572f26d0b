"""Drawing the figure of an explanation: the photograph, a column per model, a row per method, and how to read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.grades import RESEARCH_USE
from fundusgrade.photographs.pixels import Image
from fundusgrade.reports.color_bar import draw_color_bar
from fundusgrade.reports.overlay import GROUND, MarkedRegion, blend, heat_colors, outline_regions, outline_strongest
from fundusgrade.reports.panel_layout import Layout, Panel, PanelFigure, PanelRow, PlacedKey, RowPlaces, Symbol
from fundusgrade.reports.sheet import Sheet, Style, block, text_width

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LONG_SIDE_PX = 1000
_LONG_SIDE_FLOOR_PX = 600
_FIGURE_SIDE_PX = 3600
_UNSEEN = 0.6
"""Brightness of what the network does not see."""

_AMBER, _AMBER_LIGHT = "#f59e0b", "#ffedc2"


def panel_figure(photograph: Image, content: PanelFigure) -> Figure:
    """A figure: the photograph (H, W, 3), in each row a heat map per column, and the color bar that they share.

    Photographs are shown at 600-1000 px on their long side, smaller in a figure of many rows or columns.
    """
    photograph, content = _fit(photograph, content)
    height, width = photograph.shape[:2]
    layout = Layout.of(content, panel_width=width, panel_height=height)
    sheet = Sheet(layout.width, layout.height)
    _draw_banner(sheet, layout)
    for column, header in enumerate(layout.headers):
        sheet.write_block(header, layout.left(column), layout.header_top)
    sheet.show(outline_regions(photograph, content.marked), layout.left(0), layout.rows[0].panels_top)
    for row, places in zip(content.rows, layout.rows, strict=True):
        _draw_row(sheet, layout, row, places, photograph, content)
    _draw_key(sheet, layout.key, layout.em)
    style = Style(size_px=0.8 * layout.em, color="0.35")
    sheet.write(
        RESEARCH_USE, style, layout.width - layout.em - text_width(RESEARCH_USE, style), layout.height - 1.4 * layout.em
    )
    return sheet.figure


def _fit(photograph: Image, content: PanelFigure) -> tuple[Image, PanelFigure]:
    """Scale photograph, heat maps and masks to the size they are shown at; the aspect stays."""
    height, width = photograph.shape[:2]
    largest = min(_LONG_SIDE_PX, _FIGURE_SIDE_PX // max(len(content.columns), len(content.rows)))
    factor = np.clip(max(height, width), min(_LONG_SIDE_FLOOR_PX, largest), largest) / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR

    def fitted(values: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(cv2.resize(values, size, interpolation=method))

    def fitted_row(row: PanelRow) -> PanelRow:
        return replace(
            row,
            panels=[
                replace(panel, heat=fitted(panel.heat), is_seen=fitted(panel.is_seen.astype(np.float32)) > 0.5)
                for panel in row.panels
            ],
        )

    # A lesion of a pixel must not vanish where the photograph is reduced.
    marked = [replace(region, mask=fitted(region.mask.astype(np.float32)) > 0.1) for region in content.marked]
    fitted_content = replace(content, rows=[fitted_row(row) for row in content.rows], marked=marked)
    return np.asarray(fitted(photograph), np.uint8), fitted_content


def _draw_banner(sheet: Sheet, layout: Layout) -> None:
    """The warnings, on amber over the whole width."""
    if not layout.banner.lines:
        return
    em, height = layout.em, layout.banner.height + 1.0 * layout.em
    width = layout.width - 2 * em
    sheet.fill(em, layout.banner_top, width, height, facecolor=_AMBER_LIGHT, edgecolor="none", gid="banner")
    sheet.fill(em, layout.banner_top, 0.5 * em, height, facecolor=_AMBER, edgecolor="none")
    sheet.write_block(layout.banner, 2.1 * em, layout.banner_top + 0.45 * em)


def _draw_row(
    sheet: Sheet, layout: Layout, row: PanelRow, places: RowPlaces, photograph: Image, content: PanelFigure
) -> None:
    sheet.write_block(places.title, layout.left(1), places.title_top)
    # On the baseline of the title, whose text is larger.
    sheet.write_block(places.note, layout.left(1) + places.note_offset, places.title_top + 0.25 * layout.em)
    for column, (panel, caption) in enumerate(zip(row.panels, places.captions, strict=True), start=1):
        left = layout.left(column)
        sheet.show(_panel_image(photograph, panel, content.marked), left, places.panels_top)
        sheet.write_block(caption, left, places.captions_top)
        if panel.message:
            _draw_message(sheet, layout, panel.message, left, places.panels_top)
    draw_color_bar(
        sheet,
        row.scale,
        row.chosen,
        left=layout.left(layout.num_columns),
        top=places.panels_top,
        height=layout.panel_height,
        em=layout.em,
    )


def _panel_image(photograph: Image, panel: Panel, marked: Sequence[MarkedRegion]) -> Image:
    image = blend(photograph, panel.heat, shown=panel.shown)
    image[~panel.is_seen] = np.rint(_UNSEEN * image[~panel.is_seen])
    if panel.shown.draws(panel.heat):
        image = outline_strongest(image, panel.heat, level=panel.shown.contour)
    return outline_regions(image, marked)


def _draw_message(sheet: Sheet, layout: Layout, message: str, left: float, top: float) -> None:
    """White text on a dark band across the middle of a panel."""
    em = layout.em
    lines = block(message.splitlines(), Style(size_px=em, color="white", is_bold=True), layout.panel_width - 2 * em)
    height = lines.height + 1.2 * em
    band_top = top + (layout.panel_height - height) / 2
    sheet.fill(left, band_top, layout.panel_width, height, facecolor=(0, 0, 0, 0.72), edgecolor="none", gid="message")
    for number, (line, style) in enumerate(lines.lines):
        start = left + (layout.panel_width - text_width(line, style)) / 2
        sheet.write(line, style, start, band_top + 0.6 * em + number * style.line_px, gid="message")


def _draw_key(sheet: Sheet, key: PlacedKey, em: float) -> None:
    sheet.write_block(key.title, key.left, key.top)
    for entry in key.entries:
        sheet.write_block(entry.text, entry.text_left, entry.top)
        if entry.symbol is not Symbol.NONE:
            sheet.show(_symbol(entry.symbol, em), round(entry.left), round(entry.top + 0.1 * em))


def _symbol(symbol: Symbol | tuple[int, int, int], em: float) -> Image:
    """A small image (h, w, 3) of what a line of the key explains, drawn as in the panels."""
    height, width = round(0.95 * em), round(1.6 * em)
    image = np.full((height, width, 3), round(255 * GROUND), np.uint8)
    if symbol is Symbol.COLORS:
        colors = heat_colors(np.linspace(0, 1, width, dtype=np.float32))
        mixed = GROUND + colors[:, 3:] * (colors[:, :3] - GROUND)
        return np.broadcast_to(np.rint(255 * mixed).astype(np.uint8), (height, width, 3))
    if symbol is Symbol.GROUND:
        image[:, width // 2 :] = round(255 * GROUND * _UNSEEN)
        return image
    if symbol is Symbol.CONTOUR:
        y, x = np.ogrid[:height, :width]
        inside = (x - width / 2 + 0.5) ** 2 + (y - height / 2 + 0.5) ** 2 <= (0.16 * em) ** 2
        hot = inside.astype(np.float32)
        image[inside] = np.rint(255 * heat_colors(np.ones(1, np.float32))[0, :3])
        return outline_strongest(image, hot, level=0.5)
    assert isinstance(symbol, tuple)
    edge = round(0.14 * em)
    image[:edge], image[-edge:], image[:, :edge], image[:, -edge:] = (symbol,) * 4
    return image
