"""Netpbm photographs (PPM, PGM, PBM): whole numbers after a header of text."""

from __future__ import annotations

import io
import re

import numpy as np
from PIL import PpmImagePlugin

from fundusgrade.errors import UnreadableImageError
from fundusgrade.photographs.pixels import COPY_AGAIN, Image, check_size_16_bit, decode_8_bit, scale_to_8_bit

_SPACE = rb"(?:\s|#[^\n]*\n)"
_HEADER = re.compile(rb"P([56])" + _SPACE + rb"+(\d{1,9})" + _SPACE + rb"+(\d{1,9})" + _SPACE + rb"+(\d{1,5})\s")
_MAX_HEADER_BYTES = 4096


def decode_netpbm(data: bytes) -> Image:
    """Decode a PPM, PGM or PBM. Raises UnreadableImageError where it is damaged, too large or too small.

    Values of 16 bits are scaled by the bits that they use, as those of other formats, or by the largest value that the
    header names, if that is smaller.
    """
    header = _HEADER.match(data[:_MAX_HEADER_BYTES])
    if header is None or int(header[4]) <= 255:
        return decode_8_bit(PpmImagePlugin.PpmImageFile, io.BytesIO(data), "PPM")
    width, height, largest = (int(header[index]) for index in (2, 3, 4))
    check_size_16_bit(width, height)
    num_channels = 3 if header[1] == b"6" else 1
    num_values = width * height * num_channels
    if len(data) - header.end() < 2 * num_values:
        raise UnreadableImageError(f"truncated PPM: the file ends before its pixels are complete; {COPY_AGAIN}")
    values = np.frombuffer(data, ">u2", num_values, header.end()).astype(np.uint16)
    if largest not in (1023, 4095, 16383, 65535):
        values = np.minimum(values.astype(np.uint32) * 65535 // largest, 65535).astype(np.uint16)
    shaped = values.reshape(height, width, num_channels)
    return scale_to_8_bit(shaped[..., 0] if num_channels == 1 else shaped[..., ::-1])
