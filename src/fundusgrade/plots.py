"""The one setup of a Matplotlib figure: size, colors, and how it is saved."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from fundusgrade.files import write_atomically
from fundusgrade.grades import RESEARCH_USE
from fundusgrade.outputs import MARK

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_DPI = 150

# Okabe and Ito's blue and vermilion, which every common color blindness tells apart; in gray, line and marker do.
BLUE, VERMILION = "#0072B2", "#D55E00"
SERIES_COLORS = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colors for up to six series."""


def blank_figure(*, width_inches: float, height_inches: float, dpi: int = _DPI) -> Figure:
    """An empty white figure that is drawn without a screen."""
    # Not pyplot: it keeps figures in global state and may look for a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), dpi=dpi, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def new_figure(*, width_inches: float, height_inches: float) -> Figure:
    """A figure whose panels are laid out automatically above a footer, the notice of research use."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = blank_figure(width_inches=width_inches, height_inches=height_inches)
    footer = 0.35 / height_inches
    figure.set_layout_engine(
        ConstrainedLayoutEngine(rect=(0, footer, 1, 1 - footer), w_pad=0.1, h_pad=0.1, compress=True)
    )
    figure.text(1 - 0.1 / width_inches, 0.1 / height_inches, RESEARCH_USE, ha="right", fontsize=8, color="0.35")
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG. Raises StoreError where the file cannot be written."""
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": MARK})
    write_atomically(path, image.getvalue())
