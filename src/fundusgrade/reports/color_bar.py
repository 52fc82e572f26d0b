"""The color bar of heat maps, tinted as they are: over the gray of a retina without color."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fundusgrade.explanation.heat_scale import CONTOUR_FRACTION, START_FRACTION, HeatScale
from fundusgrade.options import ColorScale
from fundusgrade.reports.overlay import GROUND, heat_colors
from fundusgrade.reports.sheet import Sheet, Style, text_width
from fundusgrade.text import significant

_NUM_LEVELS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A labeled place of a color bar, 0 at its lower and 1 at its upper end."""

    place: float
    label: str


def ticks_of(scale: HeatScale, chosen: ColorScale) -> tuple[Tick, ...]:
    """The labeled places of a color bar, from 0 upwards."""
    if chosen is ColorScale.RELATIVE:
        labels = ("0", "half", "maximum")
        return tuple(Tick(place=place, label=label) for place, label in zip((0.0, 0.5, 1.0), labels, strict=True))
    end = scale.ceiling
    return (
        Tick(place=0.0, label="0"),
        Tick(place=CONTOUR_FRACTION, label=significant(CONTOUR_FRACTION * end)),
        Tick(place=1.0, label=f"\N{GREATER-THAN OR EQUAL TO} {significant(end)}"),
    )


def bar_title(scale: HeatScale, chosen: ColorScale) -> str:
    """What the numbers of a color bar are."""
    return scale.unit if chosen is ColorScale.ABSOLUTE else "of each map's own maximum"


def draw_color_bar(
    sheet: Sheet, scale: HeatScale, chosen: ColorScale, *, left: float, top: float, height: float, em: float
) -> None:
    """A bar of one em's width, upright, with its ticks and, turned, its title at the right; 7 em wide in all.

    A white line crosses it where the contour of the heat maps is.
    """
    start = START_FRACTION if chosen is ColorScale.ABSOLUTE else 0.0
    places = np.linspace(0.0, 1.0, _NUM_LEVELS, dtype=np.float32)
    colors = heat_colors(np.clip((places - start) / (1 - start), 0, 1))[:, None]
    bar = GROUND + colors[..., 3:] * (colors[..., :3] - GROUND)
    axes = sheet.axes(left, top, em, height)
    axes.imshow(bar, origin="lower", aspect="auto", interpolation="nearest", extent=(0, 1, 0, 1))
    axes.axhline(CONTOUR_FRACTION, color="black", linewidth=0.14 * em)
    axes.axhline(CONTOUR_FRACTION, color="white", linewidth=0.07 * em)
    axes.set_xticks([])
    axes.set_yticks([])
    style = Style(size_px=0.8 * em)
    for tick in ticks_of(scale, chosen):
        middle = top + (1 - tick.place) * height
        middle = min(max(middle, top + 0.4 * em), top + height - 0.4 * em)
        sheet.write(tick.label, style, left + 1.3 * em, middle - 0.6 * style.size_px)
    _write_title(sheet, bar_title(scale, chosen), left + 6.2 * em, top, height, 0.8 * em)


def _write_title(sheet: Sheet, title: str, left: float, top: float, height: float, size_px: float) -> None:
    """A line that is read upwards, made smaller where it is longer than the bar."""
    fitting = height / max(1.0, text_width(title, Style(size_px=size_px)))
    style = Style(size_px=size_px * min(1.0, fitting), color="0.3")
    sheet.figure.text(
        left / sheet.width,
        1 - (top + height / 2) / sheet.height,
        title,
        rotation="vertical",
        ha="center",
        va="center",
        **style.of_text(),
    )
