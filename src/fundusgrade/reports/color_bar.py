"""The color bar of a heat map, tinted as the photograph is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fundusgrade.photographs.pixels import Image
from fundusgrade.reports.overlay import blend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fundusgrade.explanation.heat_map import HeatScale

_NUM_LEVELS = 512
_POINTS_PER_INCH = 72


def draw_color_bar(
    axes: Axes, scale: HeatScale, scale_max: float, background: Image, *, text_px: int, dpi: int
) -> None:
    """Fill `axes`, upright, with the colors from no heat to `scale_max`: they fade to the `background` color (3,).

    `text_px` is the height of ordinary text. The label names the unit of the scale, and is made smaller where it is
    longer than the bar; a scale with a ceiling ends with "≥".
    """
    heat = np.linspace(0.0, scale_max, _NUM_LEVELS, dtype=np.float32)[:, None]
    ground = np.broadcast_to(background, (_NUM_LEVELS, 1, 3)).copy()
    bar = blend(ground, heat, scale_max=scale_max)
    axes.imshow(bar, origin="lower", aspect="auto", interpolation="nearest", extent=(0, 1, 0, scale_max))
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    points = text_px * _POINTS_PER_INCH / dpi
    axes.tick_params(labelsize=0.85 * points, length=text_px * 0.25, width=1)
    if scale.ceiling is not None:
        ticks = np.linspace(0, scale_max, 6)
        last = f"\N{GREATER-THAN OR EQUAL TO} {scale_max:.2g}"
        axes.set_yticks(ticks, [*(f"{tick:.2g}" for tick in ticks[:-1]), last])
    label = axes.set_ylabel(scale.unit, fontsize=0.9 * points, labelpad=text_px * 0.4)
    fitting = axes.get_window_extent().height / max(1.0, label.get_window_extent().height)
    label.set_fontsize(0.9 * points * min(1.0, 0.97 * fitting))


def retina_color(photograph: Image) -> Image:
    """Median color (3,) of a photograph (H, W, 3) without its black surround."""
    pixels = photograph[::4, ::4].reshape(-1, 3)
    lit = pixels[pixels.max(axis=1) > 32]
    return np.asarray(np.median(lit if len(lit) else pixels, axis=0), np.uint8)
