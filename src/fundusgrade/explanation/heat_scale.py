"""The color scale of a heat map: its unit, where it begins, and where it ends. Needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusgrade.options import ColorScale

CONTOUR_FRACTION = 0.5
"""Regions with heat of at least this fraction of the color scale's end are outlined."""

START_FRACTION = 0.25
"""Where the colors of the absolute scale begin, transparent, as a fraction of its end."""

NEGLIGIBLE_FRACTION = 0.05
"""Display level of the relative scale, as a fraction of the absolute scale's end: a map whose maximum is below it would
show next to nothing in full color, and is not drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatScale:
    """The unit of heat, the end of the absolute scale in this unit, and which scale is drawn if none is named.

    The absolute scale is the same for every photograph: heat beyond `ceiling` has the color of its end, and a map whose
    maximum is below `display_level`, where the contour is, is not drawn. The relative scale runs from 0 to the maximum
    of the map.
    """

    unit: str
    ceiling: float
    default: ColorScale = ColorScale.RELATIVE

    @property
    def display_level(self) -> float:
        """The heat that a map must reach to be drawn on the absolute scale: that of its contour."""
        return CONTOUR_FRACTION * self.ceiling

    def shown(self, heat: NDArray[np.float32], chosen: ColorScale | None = None) -> ShownHeat:
        """What of a heat map is shown, on the `chosen` scale or the default one."""
        scale = chosen or self.default
        strongest = float(heat.max(initial=0.0))
        if scale is ColorScale.ABSOLUTE:
            return ShownHeat(
                scale=scale, start=START_FRACTION * self.ceiling, end=self.ceiling, level=self.display_level
            )
        level = NEGLIGIBLE_FRACTION * self.ceiling
        return ShownHeat(scale=scale, start=0.0, end=max(strongest, level), level=level)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownHeat:
    """The part of a heat map's values that is shown: from `start`, where the color is transparent, to `end`.

    A map is drawn only if its maximum reaches `level`.
    """

    scale: ColorScale
    start: float
    end: float
    level: float

    @property
    def contour(self) -> float:
        """Heat from which regions are outlined."""
        return CONTOUR_FRACTION * self.end

    def draws(self, heat: NDArray[np.float32]) -> bool:
        """Whether anything of the map is drawn."""
        return bool(heat.max(initial=0.0) >= self.level)

    def fractions(self, heat: NDArray[np.float32]) -> NDArray[np.float32]:
        """Heat as a fraction of the shown range, 0 to 1."""
        return np.asarray(np.clip((heat - self.start) / (self.end - self.start), 0.0, 1.0), np.float32)
