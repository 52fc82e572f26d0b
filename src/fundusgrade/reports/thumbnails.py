"""Small pictures of photographs for pages: cut to the retina, as JPEG files in memory."""

from __future__ import annotations

import math
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
_MARGIN = 0.02  # around the field of view, of its size


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """A part of a photograph: its edges as fractions of the photograph's width or height, below 0 or above 1 too."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0

    def box(self, *, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of the part in a photograph of this size in pixels; never empty."""
        return _span(self.top, self.bottom, height), _span(self.left, self.right, width)


WHOLE = Crop()


def crop_to_retina(field_of_view: FieldOfView, *, height: int, width: int) -> Crop:
    """The part that shows the retina, with a narrow margin, of a photograph of this size in pixels."""
    fov = field_of_view
    margin_x, margin_y = _MARGIN * 2 * fov.radius_x, _MARGIN * 2 * fov.radius_y
    return Crop(
        left=(max(fov.left, fov.center_x - fov.radius_x) - margin_x) / width,
        top=(max(fov.top, fov.center_y - fov.radius_y) - margin_y) / height,
        right=(min(fov.right, fov.center_x + fov.radius_x) + margin_x) / width,
        bottom=(min(fov.bottom, fov.center_y + fov.radius_y) + margin_y) / height,
    )


def _span(low: float, high: float, size_px: int) -> slice:
    return slice(max(0, math.floor(low * size_px)), min(size_px, math.ceil(high * size_px) + 1))


def draw_thumbnail(photograph: Image | FloatImage, crop: Crop = WHOLE) -> bytes:
    """A part of a photograph (H, W, 3), uint8 or float32 from 0 to 255, as a small JPEG with our mark."""
    height, width = photograph.shape[:2]
    part = photograph[crop.box(height=height, width=width)]
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
