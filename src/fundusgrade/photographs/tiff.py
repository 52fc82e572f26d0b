"""TIFF photographs: one page of 8 or 16 bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import ImageFile, TiffImagePlugin

from fundusgrade.errors import UnreadableImageError
from fundusgrade.photographs.exif import ORIENTATION_TAG, TiffEntry, read_tiff_directory
from fundusgrade.photographs.pixels import (
    COPY_AGAIN,
    MAX_PIXELS,
    Image,
    check_size_16_bit,
    decode_16_bit,
    joined_file,
    load_image,
    turn_upright,
)

_DECODER_TAGS = frozenset(
    # Size, bits, compression, color, strips, planes, predictor, palette, tiles, alpha, sample format, JPEG, YCbCr.
    {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332, 338, 339, 347}
    | {529, 530, 531, 532}
)

_SINGLE_VALUE_TAGS = frozenset({256, 257, 259, 262, 266, 277, 278, 284, 317, 322, 323})


def decode_tiff(data: bytes) -> Image:
    """Decode the first page from a directory that holds only what decoding needs.

    Pillow warns of damage in all other entries, follows the chain of pages, and turns the image by itself.
    """
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    entries = {entry.tag: entry for entry in read_tiff_directory(data)}
    needed = [entries[tag] for tag in sorted(entries.keys() & _DECODER_TAGS)]
    if not needed or not all(entry.is_complete for entry in needed):
        raise UnreadableImageError(f"truncated TIFF: the file ends before its directory is complete; {COPY_AGAIN}")
    if any(len(entry.values) != 1 for entry in needed if entry.tag in _SINGLE_VALUE_TAGS):
        raise UnreadableImageError(f"damaged TIFF: its directory contradicts the format; {COPY_AGAIN}")
    directory = len(needed).to_bytes(2, order) + b"".join(entry.raw for entry in needed) + bytes(4)
    padding = bytes(len(data) % 2)  # a directory begins on an even byte
    start = len(data) + len(padding)
    page: list[bytes | memoryview] = [data[:4], start.to_bytes(4, order), memoryview(data)[8:], padding, directory]
    image = _decode_page(page, entries)
    orientation = entries.get(ORIENTATION_TAG)
    return turn_upright(image, orientation.values[0] if orientation and orientation.values else 1)


class _TiffOfAnySize(TiffImagePlugin.TiffImageFile):
    def load_prepare(self) -> None:
        # Without the process-wide limit that Pillow looks up here a second time.
        ImageFile.ImageFile.load_prepare(self)


def _decode_page(page: Sequence[bytes | memoryview], entries: dict[int, TiffEntry]) -> Image:
    def value(tag: int, default: int) -> int:
        return max(entries[tag].values, default=default) if tag in entries else default

    if value(339, 1) not in (1, 4):  # 4 is "undefined", which writers use for plain numbers too
        raise UnreadableImageError("TIFF with floating-point or signed pixels is not supported; save it with 8 bits")
    if value(322, 0) * value(323, 0) > MAX_PIXELS:
        raise UnreadableImageError("damaged TIFF: it claims dangerously large tiles; save the image again")
    if value(258, 1) <= 8:
        return load_image(_TiffOfAnySize, joined_file(page), "TIFF")
    check_size_16_bit(value(256, 0), value(257, 0))
    photometric = value(262, 1)
    if value(258, 1) != 16 or photometric not in (0, 1, 2):
        raise UnreadableImageError(f"TIFF with {value(258, 1)} bits of this color type is not supported; save with 8")
    image = decode_16_bit(b"".join(page), "TIFF")
    return np.invert(image, out=image) if photometric == 0 else image  # 0 means white
