"""What stands in the figure of an explanation, and where: text is wrapped first, places follow from its lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from fundusgrade.explanation.heat_scale import HeatScale, ShownHeat
from fundusgrade.options import ColorScale
from fundusgrade.reports.overlay import MarkedRegion
from fundusgrade.reports.sheet import Block, Style, block, text_width

BAR_WIDTH_EM = 7.0
_CHARACTERS_EM = 22
"""Width of a panel in heights of its text: it stays legible where the figure is shrunk to the column of a paper."""

_OVERHANG = 0.35
"""How far the key may reach below the last row, of the height that it is beside, before it goes below everything."""

DARK, GRAY, ON_AMBER = "0.1", "0.35", "#3d2600"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """The text above a column: its title, such as the model, a line of weight below it, and others."""

    title: str
    emphasis: str = ""
    lines: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Panel:
    """A heat map in the figure: `heat` (H, W) float32 >= 0 on the photograph's pixels, and what of it is shown.

    `is_seen` (H, W) is where the network looks. The `caption` stands below the map; the `message`, if any, across it.
    """

    heat: NDArray[np.float32]
    is_seen: NDArray[np.bool_]
    shown: ShownHeat
    caption: str
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelRow:
    """Heat maps of one method side by side, the name of the method with a note, and the color bar at their right."""

    title: str
    note: str
    panels: Sequence[Panel]
    scale: HeatScale
    chosen: ColorScale


class Symbol(Enum):
    """What a line of the key explains."""

    NONE = "none"
    COLORS = "colors"
    CONTOUR = "contour"
    GROUND = "ground"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEntry:
    """A line of the key; the symbol before it may also be a color (RGB), of the outline of a lesion."""

    text: str
    symbol: Symbol | tuple[int, int, int] = Symbol.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelFigure:
    """All of a figure but the photograph: columns, the first of which is the photograph's, rows, banners and key."""

    columns: Sequence[Column]
    rows: Sequence[PanelRow]
    key: Sequence[KeyEntry]
    banners: Sequence[str] = ()
    marked: Sequence[MarkedRegion] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedEntry:
    """A line of the key, wrapped, and the left and top of its symbol and of its text in px."""

    symbol: Symbol | tuple[int, int, int]
    text: Block
    left: float
    text_left: float
    top: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedKey:
    """The key: its left, top and bottom in px, its title, and its entries."""

    left: float
    top: float
    bottom: float
    title: Block
    entries: tuple[PlacedEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPlaces:
    """Upper edges, in px, of a row's title, panels and captions, and the texts; the note is beside the title."""

    title_top: float
    panels_top: int
    captions_top: float
    title: Block
    note: Block
    note_offset: float
    captions: tuple[Block, ...]

    @property
    def bottom(self) -> float:
        """The lower edge of the longest caption."""
        return self.captions_top + max(caption.height for caption in self.captions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Places of a figure in px from its upper left corner; `em` is the height of ordinary text.

    Panels stand at whole pixels, so that they show the pixels of their images without resampling.
    """

    panel_width: int
    panel_height: int
    num_columns: int
    em: int
    banner_top: float
    banner: Block
    header_top: float
    headers: tuple[Block, ...]
    rows: tuple[RowPlaces, ...]
    key: PlacedKey
    height: int

    @property
    def width(self) -> int:
        """Of the figure."""
        return self.left(self.num_columns) + round(BAR_WIDTH_EM * self.em)

    def left(self, column: int) -> int:
        """Left edge of a column; the color bar is at that of the column after the last."""
        return self.em + column * (self.panel_width + self.em)

    @classmethod
    def of(cls, content: PanelFigure, *, panel_width: int, panel_height: int) -> Layout:
        """The layout for a photograph that is shown at this size."""
        em = int(np.clip(panel_width / _CHARACTERS_EM, 18, 44))
        num_columns = len(content.columns)
        full_width = num_columns * (panel_width + em) + BAR_WIDTH_EM * em - em
        banner = block(content.banners, Style(size_px=em, color=ON_AMBER, is_bold=True), full_width - 2.2 * em)
        header_top = em + (banner.height + 2.0 * em if banner.lines else 0)
        headers = tuple(_header(column, panel_width, em) for column in content.columns)
        top = header_top + max(header.height for header in headers) + 0.6 * em
        rows: list[RowPlaces] = []
        for row in content.rows:
            rows.append(_row_places(row, top, panel_width, panel_height, em, full_width - panel_width - em))
            top = rows[-1].bottom + 1.1 * em
        key = _placed_key(content.key, em, panel_width, rows, full_width)
        return cls(
            panel_width=panel_width,
            panel_height=panel_height,
            num_columns=num_columns,
            em=em,
            banner_top=em,
            banner=banner,
            header_top=header_top,
            headers=headers,
            rows=tuple(rows),
            key=key,
            height=round(max(rows[-1].bottom, key.bottom) + 2.4 * em),
        )


def _header(column: Column, width: float, em: float) -> Block:
    title = block([column.title], Style(size_px=1.15 * em, color=DARK, is_bold=True), width, max_lines=2)
    title += block([column.emphasis], Style(size_px=em, color=DARK, is_bold=True), width)
    return title + block(column.lines, Style(size_px=0.9 * em, color=GRAY), width)


def _row_places(row: PanelRow, top: float, width: int, height: int, em: int, full_width: float) -> RowPlaces:
    """The places of a row; its note stands beside its title, or below it where that is too long."""
    title = block([row.title], Style(size_px=1.15 * em, color=DARK, is_bold=True), full_width, max_lines=1)
    style = Style(size_px=0.9 * em, color=GRAY)
    note = block([row.note], style, full_width)
    title_width = text_width(*title.lines[0]) + 0.8 * em
    if title_width + text_width(row.note, style) > full_width:
        title, note = title + note, Block()
    panels_top = round(top + title.height + 0.4 * em)
    return RowPlaces(
        title_top=top,
        panels_top=panels_top,
        captions_top=panels_top + height + 0.35 * em,
        title=title,
        note=note,
        note_offset=title_width,
        captions=tuple(block([panel.caption], style, width) for panel in row.panels),
    )


def _placed_key(
    entries: Sequence[KeyEntry], em: float, width: float, rows: Sequence[RowPlaces], full_width: float
) -> PlacedKey:
    """Below the photograph, beside the rows from the second, if there is nearly enough space; else below everything."""
    if len(rows) > 1:
        beside = _key(entries, em, width, left=em, top=rows[1].title_top)
        if beside.bottom <= rows[-1].bottom + _OVERHANG * (rows[-1].bottom - beside.top):
            return beside
    return _key(entries, em, full_width, left=em, top=rows[-1].bottom + em)


def _key(entries: Sequence[KeyEntry], em: float, width: float, *, left: float, top: float) -> PlacedKey:
    """The entries below one another, but those of lesions two by two."""
    title = block(["How to read this figure"], Style(size_px=1.15 * em, color=DARK, is_bold=True), width)
    style, gap, indent = Style(size_px=0.9 * em, color=GRAY), 0.45 * em, 2.1 * em
    placed: list[PlacedEntry] = []
    bottom = top + title.height
    is_beside = False
    for entry in entries:
        is_lesion = isinstance(entry.symbol, tuple)
        is_beside = is_lesion and bool(placed) and isinstance(placed[-1].symbol, tuple) and not is_beside
        entry_left = left + (0.5 * width if is_beside else 0)
        text_left = entry_left + (0 if entry.symbol is Symbol.NONE else indent)
        text = block([entry.text], style, left + (0.5 if is_lesion and not is_beside else 1) * width - text_left)
        entry_top = placed[-1].top if is_beside else bottom + gap
        placed.append(PlacedEntry(symbol=entry.symbol, text=text, left=entry_left, text_left=text_left, top=entry_top))
        bottom = max(bottom, entry_top + text.height)
    return PlacedKey(left=left, top=top, bottom=bottom, title=title, entries=tuple(placed))
