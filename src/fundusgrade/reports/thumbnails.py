"""Small pictures of photographs for pages: cut to the retina, as JPEG files in memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from fundusgrade.errors import UngradableError
from fundusgrade.outputs import MARK
from fundusgrade.photographs.field_of_view import WORKING_SIZE_PX, FieldOfView, find_field_of_view
from fundusgrade.photographs.images import encode_jpeg, read_photograph
from fundusgrade.photographs.loading import LoadedPhotograph
from fundusgrade.photographs.pixels import FloatImage, Image, rounded
from fundusgrade.photographs.sources import PhotographSource

THUMBNAIL_PX = 200
"""The longer side of a thumbnail; a shorter one of the photograph is not enlarged."""
_JPEG_QUALITY = 75
_MARGIN = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """A part of a photograph: its edges as fractions, 0 to 1, of the photograph's width or height."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0

    def of(self, photograph: Image | FloatImage) -> Image | FloatImage:
        """The part of a photograph (H, W, 3), of at least one pixel."""
        height, width = photograph.shape[:2]
        rows = slice(int(self.top * height), max(int(self.top * height) + 1, round(self.bottom * height)))
        columns = slice(int(self.left * width), max(int(self.left * width) + 1, round(self.right * width)))
        return photograph[rows, columns]


WHOLE = Crop()


def crop_to_retina(field_of_view: FieldOfView, *, height: int, width: int) -> Crop:
    """The part that shows the retina, with a narrow margin, of a photograph of this size in pixels."""
    found = field_of_view
    margin_x, margin_y = _MARGIN * found.radius_x, _MARGIN * found.radius_y
    return Crop(
        left=max(0.0, max(found.left, found.center_x - found.radius_x) - margin_x) / width,
        top=max(0.0, max(found.top, found.center_y - found.radius_y) - margin_y) / height,
        right=min(width, min(found.right, found.center_x + found.radius_x) + 1 + margin_x) / width,
        bottom=min(height, min(found.bottom, found.center_y + found.radius_y) + 1 + margin_y) / height,
    )


def draw_thumbnail(photograph: Image | FloatImage, crop: Crop = WHOLE) -> bytes:
    """A part of a photograph (H, W, 3), uint8 or float32 from 0 to 255, as a small JPEG with our mark."""
    part = crop.of(photograph)
    height, width = part.shape[:2]
    factor = min(1.0, THUMBNAIL_PX / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    smaller = cv2.resize(part, size, interpolation=cv2.INTER_AREA) if factor < 1 else part
    return encode_jpeg(rounded(np.asarray(smaller, np.float32)), _JPEG_QUALITY, comment=MARK)


def thumbnail_of(loaded: LoadedPhotograph) -> bytes:
    """The thumbnail of a photograph that was loaded to be graded."""
    height, width = loaded.photograph.shape[:2]
    return draw_thumbnail(
        loaded.photograph, crop_to_retina(loaded.preprocessed.field_of_view, height=height, width=width)
    )


def read_thumbnail(source: PhotographSource) -> bytes | None:
    """The thumbnail of a photograph that is read for it, whole where no retina is found; None if it is unreadable."""
    try:
        image = read_photograph(source, at_least_px=WORKING_SIZE_PX).image
    except UngradableError:
        return None
    height, width = image.shape[:2]
    try:
        crop = crop_to_retina(find_field_of_view(image), height=height, width=width)
    except UngradableError:
        crop = WHOLE
    return draw_thumbnail(image, crop)


class Thumbnails:
    """Thumbnails of a list of photographs: drawn while they are graded, and read for those that were not."""

    def __init__(self, photographs: Sequence[PhotographSource]) -> None:
        self._photographs = photographs
        self._drawn: dict[int, bytes] = {}
        self._lock = threading.Lock()

    def draw(self, place: int, loaded: LoadedPhotograph) -> None:
        """Draw that of the photograph at this position; called by the workers that load photographs."""
        thumbnail = thumbnail_of(loaded)
        with self._lock:
            self._drawn[place] = thumbnail

    def all(self, num_workers: int) -> list[bytes | None]:
        """Those of all photographs in order; None where one cannot be read."""
        missing = [place for place in range(len(self._photographs)) if place not in self._drawn]
        with ThreadPoolExecutor(num_workers) as pool:
            read = pool.map(read_thumbnail, [self._photographs[place] for place in missing])
            of_missing = dict(zip(missing, read, strict=True))
        return [self._drawn.get(place) or of_missing.get(place) for place in range(len(self._photographs))]
