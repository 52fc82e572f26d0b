"""The color space of a DICOM file's pixels, as they show it: headers often name that of before or after a conversion.

The surroundings of the retina are black. In YCbCr they have a luminance of 0 and both chromas at 128, in RGB three
zeros; on white paper they are 255, 128, 128 and three times 255. Where a picture shows neither, the header decides.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

from fundusgrade.errors import UnreadableImageError
from fundusgrade.photographs.decoding import decode_image
from fundusgrade.photographs.pixels import Image

_BLACK_UP_TO, _WHITE_FROM = 16, 239
_TOLERANCE = 24
# Fractions of all pixels that are surroundings, and of these that have the color of one space.
_MIN_FRACTION, _MIN_AGREEMENT = 0.02, 0.8
_SEARCHED_PX = 64
_MARKERS = (b"JFIF\0", b"Exif\0", b"Adobe\0")


def to_rgb(image: Image, *, is_ycbcr: bool) -> Image:
    """An image (H, W, 3) in RGB; `is_ycbcr` is what its header says, which its pixels may contradict."""
    shown = shows_ycbcr(image[:: max(1, image.shape[0] // 512), :: max(1, image.shape[1] // 512)])
    return _from_ycbcr(image) if (is_ycbcr if shown is None else shown) else image


def shows_ycbcr(image: NDArray[np.uint8]) -> bool | None:
    """Whether the black or white surroundings of a picture (H, W, 3) are those of YCbCr; None where it has none."""
    first = image[..., 0]
    for is_neutral, level in ((first <= _BLACK_UP_TO, 0), (first >= _WHITE_FROM, 255)):
        others = image[is_neutral][:, 1:].astype(np.int16)
        if len(others) < _MIN_FRACTION * first.size:
            continue
        for chroma, is_ycbcr in ((128, True), (level, False)):
            if (np.abs(others - chroma).max(axis=1) <= _TOLERANCE).mean() >= _MIN_AGREEMENT:
                return is_ycbcr
    return None


def mark_color_space(jpeg: bytes, photometric: str) -> bytes:
    """A JPEG marked as RGB where its pixels are: without a marker, decoders assume YCbCr, whatever its header says."""
    head = jpeg[: jpeg.find(b"\xff\xda")]
    if any(marker in head for marker in _MARKERS):
        return jpeg
    as_rgb = jpeg[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00" + jpeg[2:]
    try:
        shown = shows_ycbcr(decode_image(as_rgb, at_least_px=_SEARCHED_PX))
    except UnreadableImageError:  # raised again, of the JPEG itself
        return jpeg
    is_rgb = photometric == "RGB" if shown is None else not shown
    return as_rgb if is_rgb else jpeg


def _from_ycbcr(image: Image) -> Image:
    height, width = image.shape[:2]
    return np.array(PilImage.frombytes("YCbCr", (width, height), np.ascontiguousarray(image).tobytes()).convert("RGB"))
