"""Decoded pixels: size limits, conversion to 8-bit RGB, upright orientation."""

from __future__ import annotations

import io
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import IO, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage
from PIL import ImageFile

from fundusgrade.errors import UnreadableImageError
from fundusgrade.photographs.exif import find_orientation
from fundusgrade.text import error_text

Image = NDArray[np.uint8]
"""A picture (height, width, 3), RGB."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decoded:
    """A picture and what its file says of it: eye "R", "L" or "B" for both, and camera; "" where it does not say."""

    image: Image
    laterality: str = ""
    camera: str = ""


MAX_PIXELS = 200_000_000
# With 16 bits per channel, which OpenCV holds twice while it decodes: both limits keep a picture below 2 GB of memory.
MAX_DEEP_PIXELS = 80_000_000
MIN_SIDE_PX = 32
COPY_AGAIN = "copy the file again from its source"
NO_MEMORY = "not enough memory for this picture; close other programs, use fewer --workers, or scale the picture down"

# Pixels are converted by bands of rows: copies of a whole large picture would take gigabytes.
_BAND_PIXELS = 1_000_000


class _Pieces(io.RawIOBase):
    """A file that consists of pieces of others, without a copy of them."""

    def __init__(self, pieces: Sequence[bytes | memoryview]) -> None:
        self._pieces = pieces
        self._ends = list(accumulate(map(len, pieces)))
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = max(0, offset + (0, self._position, self._ends[-1])[whence])
        return self._position

    def readinto(self, buffer: Any) -> int:
        index = bisect_right(self._ends, self._position)
        if index == len(self._pieces):
            return 0
        start = self._position - self._ends[index] + len(self._pieces[index])
        piece = memoryview(self._pieces[index])[start : start + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)


def join_pieces(pieces: Sequence[bytes | memoryview]) -> IO[bytes]:
    return io.BufferedReader(_Pieces(pieces), 2**16)


def load_image(plugin: type[ImageFile.ImageFile], file: IO[bytes], kind: str, at_least_px: int | None = None) -> Image:
    """Decode 8 bits per channel by one Pillow plugin; the size is checked between its header and its pixels."""
    try:
        with plugin(file) as opened:
            check_size(opened.width, opened.height)
            if at_least_px is not None:
                share = at_least_px / min(opened.size)
                opened.draft(None, (math.ceil(opened.width * share), math.ceil(opened.height * share)))
            opened.load()
            image = _to_rgb(opened, kind)
            return turn_upright(image, find_orientation(opened.info.get("exif", b"")))
    except (UnreadableImageError, MemoryError):
        raise
    except PilImage.DecompressionBombError as error:
        raise UnreadableImageError(f"the {kind} has too many pixels for its decoder; scale it down") from error
    except Exception as error:
        state = "truncated" if "truncated" in str(error).lower() else "damaged"
        detail = error_text(error).replace("not identified by this driver", "its header is incomplete")
        raise UnreadableImageError(f"{state} {kind}: {detail}; {COPY_AGAIN}") from error


def check_size(width: int, height: int) -> None:
    """Raises UnreadableImageError where a picture is too large to be decoded safely, or too small to show a retina."""
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(
            f"{width} x {height} pixels are more than the {MAX_PIXELS} allowed; scale the picture down"
        )
    if min(width, height) < MIN_SIDE_PX:
        raise UnreadableImageError(
            f"{width} x {height} pixels are too few: each side needs {MIN_SIDE_PX}; give the original, not a thumbnail"
        )


def check_deep_size(width: int, height: int) -> None:
    """The same for 16 bits per channel."""
    check_size(width, height)
    if width * height > MAX_DEEP_PIXELS:
        raise UnreadableImageError(
            f"{width} x {height} pixels are more than the {MAX_DEEP_PIXELS} allowed with 16 bits per channel; "
            "save the picture with 8 bits, or scale it down"
        )


def _to_rgb(opened: PilImage.Image, kind: str) -> Image:
    has_alpha = opened.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in opened.info
    if not has_alpha and opened.mode not in ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"):
        raise UnreadableImageError(f"{kind} with pixels of type {opened.mode!r} is not supported; save it as 8-bit RGB")
    image = np.empty((opened.height, opened.width, 3), np.uint8)
    for rows in _bands(opened.height, opened.width):
        band = opened.crop((0, rows.start, opened.width, rows.stop))
        if band.mode == "La":
            band = band.convert("LA")
        image[rows] = _composite(np.asarray(band.convert("RGBA"))) if has_alpha else np.asarray(band.convert("RGB"))
    return image


def _bands(height: int, width: int) -> Iterator[slice]:
    step = max(1, _BAND_PIXELS // width)
    return (slice(top, min(top + step, height)) for top in range(0, height, step))


def _composite(rgba: NDArray[np.uint8]) -> Image:
    weighted = rgba[..., :3].astype(np.uint16) * rgba[..., 3:] + 127
    return (weighted // 255).astype(np.uint8)


def decode_16_bit(data: bytes, kind: str) -> Image:
    decoded: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16 or decoded.shape[2:] not in ((), (3,), (4,)):
        raise UnreadableImageError(f"damaged or unsupported {kind} with 16 bits per channel; save it with 8 bits")
    height, width = decoded.shape[:2]
    table = _table_to_8_bit(int((decoded if decoded.ndim == 2 else decoded[..., :3]).max()))
    image = np.empty((height, width, 3), np.uint8)
    for rows in _bands(height, width):
        image[rows] = _to_8_bit(decoded[rows], table)
    return image


def _to_8_bit(values: NDArray[np.uint16], table: NDArray[np.uint8]) -> Image:
    """Gray, BGR or BGRA as OpenCV reads them -> RGB."""
    if values.ndim == 2:
        return np.repeat(table[values][..., np.newaxis], 3, axis=2)
    rgb = table[values[..., 2::-1]]
    if values.shape[2] == 3:
        return rgb
    alpha = (values[..., 3:] // 257).astype(np.uint8)
    return _composite(np.concatenate([rgb, alpha], axis=2))


def _table_to_8_bit(brightest: int) -> NDArray[np.uint8]:
    """Scale by 4095 or 65535 to 255, rounded.

    Cameras of 12 bits store 0 to 4095 in 16 bits, unscaled. On the full range such a picture would be all but black,
    and a full-range photograph whose brightest pixel is below 4096 shows nothing: the maximum tells the two apart.
    """
    full = 4095 if brightest < 4096 else 65535
    return np.minimum((np.arange(65536) * 255 + full // 2) // full, 255).astype(np.uint8)


def turn_upright(image: Image, orientation: int) -> Image:
    """Undo the way the camera was held, as numbered by EXIF 2.3; unknown numbers change nothing."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)
