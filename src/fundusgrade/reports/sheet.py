"""A Matplotlib figure that is addressed in pixels from its upper left corner, and text that is wrapped by its width."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fundusgrade.photographs.pixels import Image
from fundusgrade.plots import blank_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

DPI = 100
LINE_HEIGHT = 1.32
"""Distance of two lines of text, in heights of the text."""

_FONT = "DejaVu Sans"  # comes with Matplotlib, so that a figure looks the same everywhere
_ASCENT = 0.98
_BOX = "\N{WHITE SQUARE}"
MINUS = "\N{MINUS SIGN}"
_POINTS_PER_INCH = 72


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """Height (px), color and weight of text."""

    size_px: float
    color: str = "0.15"
    is_bold: bool = False

    @property
    def line_px(self) -> float:
        """Distance of two lines."""
        return LINE_HEIGHT * self.size_px

    def of_text(self) -> dict[str, Any]:
        """As Matplotlib takes it."""
        return {
            "fontsize": self.size_px * _POINTS_PER_INCH / DPI,
            "fontfamily": _FONT,
            "fontweight": "bold" if self.is_bold else "normal",
            "color": self.color,
            "parse_math": False,
        }


def text_width(text: str, style: Style) -> float:
    """Width of one line of text, in px."""
    from matplotlib.font_manager import FontProperties

    properties = FontProperties(
        family=_FONT, size=style.size_px * _POINTS_PER_INCH / DPI, weight="bold" if style.is_bold else "normal"
    )
    return float(_renderer().get_text_width_height_descent(text, properties, False)[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Lines of text below one another, each with its style."""

    lines: tuple[tuple[str, Style], ...] = ()

    @property
    def height(self) -> float:
        """In px."""
        return sum(style.line_px for _, style in self.lines)

    def __add__(self, other: Block) -> Block:
        return Block(lines=self.lines + other.lines)


def block(paragraphs: Sequence[str], style: Style, width_px: float, max_lines: int = 100) -> Block:
    """Paragraphs, each wrapped at the width; empty ones are left out."""
    wrapped = [line for paragraph in paragraphs for line in wrap(paragraph, style, width_px, max_lines)]
    return Block(lines=tuple((line, style) for line in wrapped))


def wrap(text: str, style: Style, width_px: float, max_lines: int = 100) -> list[str]:
    """The text in lines that are no wider; a word that is, and what exceeds `max_lines`, is shortened in its middle.

    A range such as "0.25 to 0.38" stays on one line.
    """
    lines: list[str] = []
    for word in _words(drawable(text)):
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(joined, style) <= width_px:
            lines[-1] = joined
        else:
            lines.append(word)
    if len(lines) > max_lines:
        lines[max_lines - 1 :] = [" ".join(lines[max_lines - 1 :])]
    return [_shortened(line, style, width_px) for line in lines]


def _words(text: str) -> list[str]:
    """The parts of a text between which a line may end."""
    words: list[str] = []
    for word in text.split():
        follows_number = words and words[-1][-1].isdigit()
        ends_range = words and words[-1].endswith(" to") and word[0] in f"0123456789<{MINUS}"
        if ends_range or (word == "to" and follows_number):
            words[-1] += f" {word}"
        else:
            words.append(word)
    return words


def _shortened(line: str, style: Style, width_px: float) -> str:
    kept, shown = len(line), line
    while kept > 1 and text_width(shown, style) > width_px:
        kept = min(kept - 1, max(1, int(kept * width_px / text_width(shown, style)) + 1))
        shown = f"{line[: (kept + 1) // 2]}…{line[len(line) - kept // 2 :]}"
    return shown


def drawable(text: str) -> str:
    """The text with a box for each character that the font lacks, as those of other scripts; index and CSV have them.

    Matplotlib would draw boxes as well, but with warnings, which no thread can silence for itself.
    """
    return "".join(character if ord(character) in _characters() else _BOX for character in text)


@functools.cache
def _characters() -> frozenset[int]:
    """Code points that the font has, and white space."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont(_FONT)).get_charmap()) | {ord(" ")}


@functools.cache
def _renderer() -> Any:
    from matplotlib.backends.backend_agg import RendererAgg

    return RendererAgg(1, 1, DPI)


class Sheet:
    """A figure of `width` x `height` px; every place is given by its left and top in px."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.figure: Figure = blank_figure(width_inches=width / DPI, height_inches=height / DPI, dpi=DPI)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes that fill a rectangle."""
        bottom = self.height - top - height
        return self.figure.add_axes((left / self.width, bottom / self.height, width / self.width, height / self.height))

    def show(self, image: Image, left: float, top: float) -> Axes:
        """An image (H, W, 3), pixel by pixel."""
        axes = self.axes(left, top, image.shape[1], image.shape[0])
        axes.imshow(image, origin="upper", interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        return axes

    def fill(self, left: float, top: float, width: float, height: float, **style: Any) -> None:
        """A rectangle."""
        from matplotlib.patches import Rectangle

        corner = (left / self.width, 1 - (top + height) / self.height)
        self.figure.add_artist(
            Rectangle(corner, width / self.width, height / self.height, transform=self.figure.transFigure, **style)
        )

    def write(self, text: str, style: Style, left: float, top: float, **options: Any) -> Text:
        """One line of text, its upper edge at `top`."""
        baseline = top + _ASCENT * style.size_px
        return self.figure.text(left / self.width, 1 - baseline / self.height, text, **style.of_text(), **options)

    def write_block(self, text: Block, left: float, top: float) -> None:
        """Lines of text below one another, the upper edge of the first at `top`."""
        for line, style in text.lines:
            self.write(line, style, left, top)
            top += style.line_px


def rasterize(figure: Figure) -> Image:
    """The pixels (H, W, 3) of a figure."""
    canvas: Any = figure.canvas
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]
