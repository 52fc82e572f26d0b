"""The contact sheet of a data set: sample images of each grade, for a visual check before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fundusgrade.photographs.images import read_image
from fundusgrade.photographs.pixels import Image

CONTACT_SHEET_FILE = "overview.png"
TILE_PX = 112
NUM_COLUMNS = 10
NUM_ROWS = 2
HEADING_PX = 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Images that are shown together under a title."""

    title: str
    images: tuple[Path, ...]


def draw_contact_sheet(sections: Sequence[Section]) -> Image:
    """A sheet (H, W, 3) with up to two rows of images per section, evenly spaced over the section's images.

    Raises UnreadableImageError where an image cannot be read.
    """
    sheets = [_draw_section(section) for section in sections if section.images]
    if not sheets:
        return np.full((TILE_PX, NUM_COLUMNS * TILE_PX, 3), 255, np.uint8)
    return np.concatenate(sheets, axis=0)


def _draw_section(section: Section) -> Image:
    num_shown = min(len(section.images), NUM_ROWS * NUM_COLUMNS)
    shown = [section.images[i * len(section.images) // num_shown] for i in range(num_shown)]
    num_rows = -(-len(shown) // NUM_COLUMNS)
    sheet = np.full((HEADING_PX + num_rows * TILE_PX, NUM_COLUMNS * TILE_PX, 3), 255, np.uint8)
    cv2.putText(sheet, section.title, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    for i, path in enumerate(shown):
        top, left = HEADING_PX + i // NUM_COLUMNS * TILE_PX, i % NUM_COLUMNS * TILE_PX
        tile = cv2.resize(read_image(path), (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA)
        sheet[top : top + TILE_PX, left : left + TILE_PX] = tile
    return sheet
