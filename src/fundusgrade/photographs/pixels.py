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
"""(height, width, 3), RGB."""
FloatImage = NDArray[np.float32]
"""(height, width, 3), RGB, from 0 to 255, not rounded."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodedPhotograph:
    """A decoded image, with the eye ("R", "L", "B" for both) and the camera that its file states, else "".

    `height_px` and `width_px` are those of the photograph, upright, before decoding reduced it.
    """

    image: Image
    height_px: int
    width_px: int
    laterality: str = ""
    camera: str = ""


def rounded(image: FloatImage) -> Image:
    """An image of whole levels, 0 to 255."""
    return np.asarray(cv2.convertScaleAbs(np.maximum(image, 0)), np.uint8)


MAX_PIXELS = 200_000_000
# With 16 bits per channel, which OpenCV holds twice while it decodes: both limits keep an image below 2 GB of memory.
MAX_PIXELS_16_BIT = 80_000_000
MIN_SIDE_PX = 32
_ANIMATED = ("GIF", "WebP", "AVIF")
COPY_AGAIN = "copy the file again from its source"
NO_MEMORY = "not enough memory for this image; close other programs, use fewer --workers, or scale the image down"

# Pixels are converted in blocks of rows: copies of a whole large image would take gigabytes.
_BLOCK_PIXELS = 1_000_000


class _JoinedFile(io.RawIOBase):
    """A file that consists of parts of others, one after another, without a copy of them."""

    def __init__(self, parts: Sequence[bytes | memoryview]) -> None:
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))
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
        if index == len(self._parts):
            return 0
        start = self._position - self._ends[index] + len(self._parts[index])
        part = memoryview(self._parts[index])[start : start + len(buffer)]
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)


def joined_file(parts: Sequence[bytes | memoryview]) -> IO[bytes]:
    """A file to read that consists of these parts, one after another, without a copy of them."""
    return io.BufferedReader(_JoinedFile(parts), 2**16)


def decode_8_bit(
    plugin: type[ImageFile.ImageFile], file: IO[bytes], kind: str, at_least_px: int | None = None
) -> Image:
    """Decode 8 bits per channel by one Pillow plugin; the size is checked before any pixel is decoded.

    `kind` names the format in errors. Raises UnreadableImageError where the image is damaged, too large or too small.
    """
    try:
        with plugin(file) as opened:
            check_size(opened.width, opened.height)
            if kind in _ANIMATED and getattr(opened, "is_animated", False):
                raise UnreadableImageError(f"the {kind} holds several pictures; save each of them as a file of its own")
            if at_least_px is not None:
                fraction = at_least_px / min(opened.size)
                opened.draft(None, (math.ceil(opened.width * fraction), math.ceil(opened.height * fraction)))
            opened.load()
            image = to_rgb(opened, kind)
            return turn_upright(image, find_orientation(opened.info.get("exif") or b""))
    except (UnreadableImageError, MemoryError):
        raise
    except PilImage.DecompressionBombError as error:
        raise UnreadableImageError(f"the {kind} has too many pixels for its decoder; scale it down") from error
    except Exception as error:
        state = "truncated" if "truncated" in str(error).lower() else "damaged"
        detail = error_text(error).replace("not identified by this driver", "its header is incomplete")
        raise UnreadableImageError(f"{state} {kind}: {detail}; {COPY_AGAIN}") from error


def check_size(width: int, height: int) -> None:
    """Raises UnreadableImageError where an image is too large to be decoded safely, or too small to show a retina."""
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(
            f"{width} x {height} pixels are more than the {MAX_PIXELS} allowed; scale the image down"
        )
    if min(width, height) < MIN_SIDE_PX:
        raise UnreadableImageError(
            f"{width} x {height} pixels are too few: each side needs {MIN_SIDE_PX}; give the original, not a thumbnail"
        )


def check_size_16_bit(width: int, height: int) -> None:
    """Raises UnreadableImageError as `check_size`, with a lower limit: that for 16 bits per channel."""
    check_size(width, height)
    if width * height > MAX_PIXELS_16_BIT:
        raise UnreadableImageError(
            f"{width} x {height} pixels are more than the {MAX_PIXELS_16_BIT} allowed with 16 bits per channel; "
            "save the image with 8 bits, or scale it down"
        )


def to_rgb(opened: PilImage.Image, kind: str) -> Image:
    """The pixels of a Pillow image of 8 bits per channel; transparent ones become black.

    `kind` names it in errors. Raises UnreadableImageError for pixels of another type.
    """
    has_alpha = opened.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in opened.info
    if not has_alpha and opened.mode not in ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"):
        raise UnreadableImageError(f"{kind} with pixels of type {opened.mode!r} is not supported; save it as 8-bit RGB")
    blocks = list(_row_blocks(opened.height, opened.width))
    if len(blocks) == 1:
        return np.array(_block_to_rgb(opened, has_alpha=has_alpha))
    image = np.empty((opened.height, opened.width, 3), np.uint8)
    for rows in blocks:
        block = opened.crop((0, rows.start, opened.width, rows.stop))
        image[rows] = _block_to_rgb(block, has_alpha=has_alpha)
    return image


def _block_to_rgb(block: PilImage.Image, *, has_alpha: bool) -> Image:
    if not has_alpha:
        return np.asarray(block if block.mode == "RGB" else block.convert("RGB"))
    with_alpha = block.convert("LA") if block.mode == "La" else block
    return on_black(np.asarray(with_alpha.convert("RGBA")))


def _row_blocks(height: int, width: int) -> Iterator[slice]:
    step = max(1, _BLOCK_PIXELS // width)
    return (slice(top, min(top + step, height)) for top in range(0, height, step))


def on_black(rgba: NDArray[np.uint8]) -> Image:
    """Pixels (H, W, 4) without transparency: transparent ones become black, like the surroundings of the retina."""
    weighted = rgba[..., :3].astype(np.uint16) * rgba[..., 3:] + 127
    return (weighted // 255).astype(np.uint8)


def decode_16_bit(data: bytes, kind: str) -> Image:
    """Decode 16 bits per channel by OpenCV, which does not check the size, and scale them to 8 bits.

    `kind` names the format in errors. Raises UnreadableImageError where OpenCV cannot decode the image.
    """
    decoded: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16 or decoded.shape[2:] not in ((), (3,), (4,)):
        raise UnreadableImageError(f"damaged or unsupported {kind} with 16 bits per channel; save it with 8 bits")
    return scale_to_8_bit(decoded)


def scale_to_8_bit(values: NDArray[np.uint16]) -> Image:
    """Gray (H, W), BGR or BGRA (H, W, 3 or 4) of 16 bits per channel, scaled by the bits that they use -> RGB."""
    height, width = values.shape[:2]
    table = _table_to_8_bit(largest_value(int((values if values.ndim == 2 else values[..., :3]).max())))
    image = np.empty((height, width, 3), np.uint8)
    for rows in _row_blocks(height, width):
        image[rows] = _to_8_bit(values[rows], table)
    return image


def _to_8_bit(values: NDArray[np.uint16], table: NDArray[np.uint8]) -> Image:
    """Gray, BGR or BGRA as OpenCV reads them -> RGB."""
    if values.ndim == 2:
        return np.repeat(table[values][..., np.newaxis], 3, axis=2)
    rgb = table[values[..., 2::-1]]
    if values.shape[2] == 3:
        return rgb
    alpha = (values[..., 3:] // 257).astype(np.uint8)
    return on_black(np.concatenate([rgb, alpha], axis=2))


def largest_value(brightest: int) -> int:
    """The largest value of an image in 16 bits whose brightest value is given: of 8, 10, 12, 14 or 16 bits.

    Cameras of 12 bits store 0 to 4095 in 16 bits, unscaled. On the full range such an image would be nearly black, and
    a full-range photograph whose brightest pixel is below a quarter of it shows next to nothing: the brightest pixel
    decides which it is.
    """
    return next((1 << bits) - 1 for bits in (8, 10, 12, 14, 16) if brightest >> bits == 0)


def _table_to_8_bit(full: int) -> NDArray[np.uint8]:
    """Values of 16 bits scaled from 0 to `full` to 0 to 255, rounded."""
    return np.minimum((np.arange(65536) * 255 + full // 2) // full, 255).astype(np.uint8)


def turn_upright(image: Image, orientation: int) -> Image:
    """Undo an orientation of the camera, as numbered by EXIF 2.3; unknown numbers change nothing."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)
