"""The bytes of a picture file -> pixels, and a plain reason for everything that is not a whole picture.

Pillow decodes 8 bits per channel and OpenCV 16. Pillow's plugin classes are called directly, by the first bytes of
the file, instead of `Image.open`: only these five decoders can ever run, and `Image.open` compares the size with a
process-wide limit, which warns from 89 million pixels on and could be moved only for all threads at once.
"""

from __future__ import annotations

import io
import re
import zlib

from PIL import BmpImagePlugin, Jpeg2KImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
from PIL import Image as PilImage

from fundusgrade.errors import UnreadableImageError
from fundusgrade.photographs.exif import find_orientation
from fundusgrade.photographs.pixels import (
    COPY_AGAIN,
    NO_MEMORY,
    Image,
    check_deep_size,
    decode_16_bit,
    join_pieces,
    load_image,
    turn_upright,
)
from fundusgrade.photographs.tiff import decode_tiff
from fundusgrade.text import error_text

_READABLE = "JPEG, PNG, TIFF, BMP or WebP"

# Encoders write a dozen scans. Each makes a decoder walk all of a picture, so a few bytes could cost it hours.
_MAX_SCANS = 100
_SCAN_START = b"\xff\xda"
_MARKER_AFTER_SCAN = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")


def decode_image(data: bytes, *, at_least_px: int | None = None) -> Image:
    """Decode the bytes of a picture file, turned upright, first page only.

    With `at_least_px` a JPEG may be decoded at a half, a quarter or an eighth of its size, which its format makes
    cheap, as long as its shorter side keeps that many pixels.

    Raises UnreadableImageError for everything that is not a whole picture of 32 px to 200 million pixels.
    """
    try:
        return _decode(data, at_least_px)
    except UnreadableImageError:
        raise
    except MemoryError as error:
        raise UnreadableImageError(NO_MEMORY) from error
    except Exception as error:  # decoders raise anything on hostile bytes: SyntaxError, struct.error, cv2.error, ...
        raise UnreadableImageError(f"the picture cannot be decoded: {error_text(error)}; {COPY_AGAIN}") from error


def decode_jpeg_2000(data: bytes) -> Image:
    """Decode a JPEG 2000 codestream, as DICOM holds them. Raises UnreadableImageError as `decode_image` does."""
    return load_image(Jpeg2KImagePlugin.Jpeg2KImageFile, io.BytesIO(data), "JPEG 2000")


def _decode(data: bytes, at_least_px: int | None) -> Image:
    if data.startswith(b"\xff\xd8\xff"):
        return _decode_jpeg(data, at_least_px)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _decode_png(data)
    if data.startswith((b"II*\0", b"MM\0*")):
        return decode_tiff(data)
    if data.startswith(b"BM"):
        return load_image(BmpImagePlugin.BmpImageFile, io.BytesIO(data), "BMP")
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return load_image(WebPImagePlugin.WebPImageFile, io.BytesIO(data), "WebP")
    raise UnreadableImageError(f"{_name_foreign(data)}; expected {_READABLE}; export the photograph as one of these")


def _name_foreign(data: bytes) -> str:
    """What a file is that no decoder takes, in words."""
    if data[128:132] == b"DICM":
        return "this is a DICOM file"
    if data[4:8] == b"ftyp":
        return "this is a HEIF, AVIF or video file"
    known = {b"GIF8": "GIF", b"%PDF": "PDF", b"PK\x03\x04": "ZIP", b"\0\0\0\x0cjP  ": "JPEG 2000"}
    known |= {b"II+\0": "BigTIFF", b"MM\0+": "BigTIFF"}
    for start, name in known.items():
        if data.startswith(start):
            return f"this is a {name} file"
    return "not an image"


def _decode_jpeg(data: bytes, at_least_px: int | None) -> Image:
    # A copy that broke off into reserved space ends in zeros; the decoder would fill the rest of the retina with gray.
    content = data.rstrip(b"\0")
    if len(data) - len(content) >= 512 and not content.endswith(b"\xff\xd9"):
        raise UnreadableImageError(
            f"truncated JPEG: the last {len(data) - len(content)} bytes are all zero; {COPY_AGAIN}"
        )
    if data.count(_SCAN_START) > _MAX_SCANS and _num_scans(data) > _MAX_SCANS:
        raise UnreadableImageError(f"damaged JPEG: more than {_MAX_SCANS} scans; save the picture again")
    return load_image(_JpegWithoutExif, io.BytesIO(data), "JPEG", at_least_px)


def _num_scans(data: bytes) -> int:
    """How many scans the first picture of a JPEG file has; what follows its end may be a whole film."""
    count, position = 0, 2
    while data[position : position + 2] != b"\xff\xd9":
        is_scan = data.startswith(_SCAN_START, position)
        count += is_scan
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        # A decoder looks for the next marker too where something else follows.
        found = _MARKER_AFTER_SCAN.search(data, position)
        if found is None:
            break
        position = found.start()
    return count


class _JpegWithoutExif(JpegImagePlugin.JpegImageFile):
    def getexif(self) -> PilImage.Exif:
        # Called while opening, only to learn the dots per inch: damaged EXIF would end in a warning.
        return PilImage.Exif()


def _decode_png(data: bytes) -> Image:
    """Decode a PNG from its essential chunks alone: Pillow warns of, or refuses, damage in those that do not matter."""
    view = memoryview(data)
    kept, kind, orientation, position = [view[:8]], b"", 1, 8
    while kind != b"IEND":
        length = int.from_bytes(view[position : position + 4], "big")
        chunk = view[position : position + 12 + length]
        kind = bytes(chunk[4:8])
        if len(chunk) < 12 + length:
            raise UnreadableImageError(f"truncated PNG: the file ends inside of a chunk; {COPY_AGAIN}")
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):  # Pillow does not check the pixels'
                raise UnreadableImageError(f"damaged PNG: wrong checksum in {kind.decode()}; {COPY_AGAIN}")
            kept.append(chunk)
        elif kind == b"eXIf":
            orientation = find_orientation(bytes(chunk[8:-4]))
        position += len(chunk)
    header = bytes(kept[1])
    if not header.startswith(b"IHDR", 4) or header[16] != 16:
        return turn_upright(load_image(PngImagePlugin.PngImageFile, join_pieces(kept), "PNG"), orientation)
    check_deep_size(int.from_bytes(header[8:12], "big"), int.from_bytes(header[12:16], "big"))
    return turn_upright(decode_16_bit(b"".join(kept), "PNG"), orientation)
