"""TIFF photographs: one page of 8 or 16 bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import ImageFile, TiffImagePlugin
from PIL.ExifTags import Base

from fundusgrade.errors import UnreadableImageError
from fundusgrade.photographs.exif import TiffEntry, find_tiff_directories, read_tiff_directory
from fundusgrade.photographs.pixels import (
    COPY_AGAIN,
    MAX_PIXELS,
    Image,
    check_size_16_bit,
    decode_8_bit,
    decode_16_bit,
    joined_file,
    turn_upright,
)

_SINGLE_VALUE_TAGS = frozenset(
    {
        *(Base.ImageWidth, Base.ImageLength, Base.Compression, Base.PhotometricInterpretation, Base.FillOrder),
        *(Base.SamplesPerPixel, Base.RowsPerStrip, Base.PlanarConfiguration, Base.Predictor),
        *(Base.TileWidth, Base.TileLength),
    }
)
_DECODER_TAGS = _SINGLE_VALUE_TAGS | {
    *(Base.BitsPerSample, Base.SampleFormat, Base.ExtraSamples, Base.ColorMap, Base.InkSet),
    *(Base.StripOffsets, Base.StripByteCounts, Base.TileOffsets, Base.TileByteCounts),
    *(Base.T4Options, Base.T6Options, Base.JPEGTables),
    *(Base.YCbCrCoefficients, Base.YCbCrSubSampling, Base.YCbCrPositioning, Base.ReferenceBlackWhite),
}
_UNSIGNED, _UNDEFINED = 1, 4  # sample formats; writers use "undefined" for unsigned numbers too
_REDUCED, _TRANSPARENCY = 1, 4  # bits of NewSubfileType
_MIN_PAGE_FRACTION = 0.5
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2


def decode_tiff(data: bytes) -> Image:
    """Decode the first page from a directory that holds only what decoding needs.

    Pillow warns of damage in all other entries, follows the chain of pages, and turns the image by itself. Raises
    UnreadableImageError where other pages are photographs too, and not reduced copies of the first.
    """
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    entries = {entry.tag: entry for entry in read_tiff_directory(data)}
    _refuse_camera_raw(data, entries)
    _refuse_several_pages(data, entries)
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
    orientation = entries.get(Base.Orientation)
    return turn_upright(image, orientation.values[0] if orientation and orientation.values else 1)


def _refuse_camera_raw(data: bytes, entries: dict[int, TiffEntry]) -> None:
    """The first page of a camera's raw file is a small preview."""
    is_preview = bool(_first_value(entries, Base.NewSubfileType) & _REDUCED)
    if data[8:10] == b"CR" or Base.DNGVersion in entries or (is_preview and Base.SubIFDs in entries):
        raise UnreadableImageError("this is a camera raw file, which is not supported; export it as a JPEG or TIFF")


def _refuse_several_pages(data: bytes, entries: dict[int, TiffEntry]) -> None:
    """Thumbnails and the levels of a pyramid are smaller than the first page, and mostly marked as reduced."""
    num_large, least_pixels = 1, _num_pixels(entries) * _MIN_PAGE_FRACTION
    for start in find_tiff_directories(data)[1:]:
        page = {entry.tag: entry for entry in read_tiff_directory(data, start)}
        is_other = _first_value(page, Base.NewSubfileType) & (_REDUCED | _TRANSPARENCY)
        num_large += not is_other and _num_pixels(page) >= least_pixels
    if num_large > 1:
        raise UnreadableImageError(f"the TIFF holds {num_large} pictures; save each of them as a file of its own")


def _num_pixels(entries: dict[int, TiffEntry]) -> int:
    return _first_value(entries, Base.ImageWidth) * _first_value(entries, Base.ImageLength)


def _first_value(entries: dict[int, TiffEntry], tag: int) -> int:
    return entries[tag].values[0] if tag in entries and entries[tag].values else 0


class _TiffOfAnySize(TiffImagePlugin.TiffImageFile):
    def load_prepare(self) -> None:
        # Without the process-wide limit that Pillow looks up here a second time.
        ImageFile.ImageFile.load_prepare(self)


def _decode_page(page: Sequence[bytes | memoryview], entries: dict[int, TiffEntry]) -> Image:
    def value(tag: int, default: int) -> int:
        return max(entries[tag].values, default=default) if tag in entries else default

    if value(Base.SampleFormat, _UNSIGNED) not in (_UNSIGNED, _UNDEFINED):
        raise UnreadableImageError("TIFF with floating-point or signed pixels is not supported; save it with 8 bits")
    if value(Base.TileWidth, 0) * value(Base.TileLength, 0) > MAX_PIXELS:
        raise UnreadableImageError("damaged TIFF: it claims dangerously large tiles; save the image again")
    num_bits = value(Base.BitsPerSample, 1)
    if num_bits <= 8:
        return decode_8_bit(_TiffOfAnySize, joined_file(page), "TIFF")
    check_size_16_bit(value(Base.ImageWidth, 0), value(Base.ImageLength, 0))
    photometric = value(Base.PhotometricInterpretation, _BLACK_IS_ZERO)
    if num_bits != 16 or photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
        raise UnreadableImageError(f"TIFF with {num_bits} bits of this color type is not supported; save with 8")
    image = decode_16_bit(b"".join(page), "TIFF")
    return np.invert(image, out=image) if photometric == _WHITE_IS_ZERO else image
