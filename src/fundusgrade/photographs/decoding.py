"""The bytes of an image file -> pixels, and a plain reason for everything that is not a complete image.

Pillow decodes 8 bits per channel and OpenCV 16. Pillow's plugin classes are called directly, by the first bytes of
the file, instead of `Image.open`: only these five decoders can ever run, and `Image.open` compares the size with a
process-wide limit, which warns from 89 million pixels on and could be changed only for all threads at once.
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
    check_size_16_bit,
    decode_8_bit,
    decode_16_bit,
    joined_file,
    turn_upright,
)
from fundusgrade.photographs.tiff import decode_tiff
from fundusgrade.text import error_text

_READABLE = "JPEG, PNG, TIFF, BMP or WebP"

_JPEG_START = b"\xff\xd8\xff"
# Encoders write about a dozen scans. Each makes a decoder pass over all pixels, so a few bytes could cost it hours.
_MAX_SCANS = 100
_SCAN_START = b"\xff\xda"
_MARKER_AFTER_SCAN = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")


def decode_image(data: bytes, *, at_least_px: int | None = None) -> Image:
    """Decode the bytes of an image file, turned upright, first page only.

    With `at_least_px` a JPEG may be decoded at a half, a quarter or an eighth of its size, which is faster, as long as
    its shorter side keeps that many pixels.

    Raises UnreadableImageError for everything that is not a complete image of 32 px to 200 million pixels.
    """
    try:
        return _decode(data, at_least_px)
    except UnreadableImageError:
        raise
    except MemoryError as error:
        raise UnreadableImageError(NO_MEMORY) from error
    except Exception as error:  # decoders raise anything on hostile bytes: SyntaxError, struct.error, cv2.error, ...
        raise UnreadableImageError(f"the image cannot be decoded: {error_text(error)}; {COPY_AGAIN}") from error


def original_shape(data: bytes, image: Image) -> tuple[int, int]:
    """Height and width of a file's image, upright, of which `image` is what `decode_image` made, perhaps reduced."""
    height, width = image.shape[:2]
    if not data.startswith(_JPEG_START):
        return height, width
    with _JpegWithoutExif(io.BytesIO(data)) as opened:
        longer, shorter = max(opened.size), min(opened.size)
    return (longer, shorter) if height > width else (shorter, longer)


def decode_jpeg_2000(data: bytes) -> Image:
    """Decode a JPEG 2000 codestream, as DICOM holds them. Raises UnreadableImageError as `decode_image` does."""
    return decode_8_bit(Jpeg2KImagePlugin.Jpeg2KImageFile, io.BytesIO(data), "JPEG 2000")


def _decode(data: bytes, at_least_px: int | None) -> Image:
    if data.startswith(_JPEG_START):
        return _decode_jpeg(data, at_least_px)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _decode_png(data)
    if data.startswith((b"II*\0", b"MM\0*")):
        return decode_tiff(data)
    if data.startswith(b"BM"):
        return decode_8_bit(BmpImagePlugin.BmpImageFile, io.BytesIO(data), "BMP")
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return decode_8_bit(WebPImagePlugin.WebPImageFile, io.BytesIO(data), "WebP")
    raise UnreadableImageError(f"{_name_unreadable(data)}; expected {_READABLE}; export the photograph as one of these")


def _name_unreadable(data: bytes) -> str:
    """The kind of a file that cannot be decoded, as the start of an error message."""
    if data[128:132] == b"DICM":
        return "this is a DICOM file"
    if data[4:8] == b"ftyp":
        return "this is a HEIF, AVIF or video file"
    formats = {b"GIF8": "GIF", b"%PDF": "PDF", b"PK\x03\x04": "ZIP", b"\0\0\0\x0cjP  ": "JPEG 2000"}
    formats |= {b"II+\0": "BigTIFF", b"MM\0+": "BigTIFF"}
    for start, name in formats.items():
        if data.startswith(start):
            return f"this is a {name} file"
    return "not an image"


def _decode_jpeg(data: bytes, at_least_px: int | None) -> Image:
    # An interrupted copy may end in zeros; the decoder would fill the rest of the retina with gray.
    content = data.rstrip(b"\0")
    if len(data) - len(content) >= 512 and not content.endswith(b"\xff\xd9"):
        raise UnreadableImageError(
            f"truncated JPEG: the last {len(data) - len(content)} bytes are all zero; {COPY_AGAIN}"
        )
    if data.count(_SCAN_START) > _MAX_SCANS and _num_scans(data) > _MAX_SCANS:
        raise UnreadableImageError(f"damaged JPEG: more than {_MAX_SCANS} scans; save the image again")
    return decode_8_bit(_JpegWithoutExif, io.BytesIO(data), "JPEG", at_least_px)


def _num_scans(data: bytes) -> int:
    """How many scans the first image of a JPEG file has; a video may follow its end, as in motion photographs."""
    count, position = 0, 2
    while data[position : position + 2] != b"\xff\xd9":
        is_scan = data.startswith(_SCAN_START, position)
        count += is_scan
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        # A decoder looks for the next marker too where something else follows.
        marker = _MARKER_AFTER_SCAN.search(data, position)
        if marker is None:
            break
        position = marker.start()
    return count


class _JpegWithoutExif(JpegImagePlugin.JpegImageFile):
    def getexif(self) -> PilImage.Exif:
        # Called while opening, only to learn the dots per inch: damaged EXIF would end in a warning.
        return PilImage.Exif()


def _decode_png(data: bytes) -> Image:
    """Decode a PNG from its essential chunks only: Pillow warns of, or refuses, damage in those that do not matter."""
    view = memoryview(data)
    essential, kind, orientation, position = [view[:8]], b"", 1, 8
    while kind != b"IEND":
        length = int.from_bytes(view[position : position + 4], "big")
        chunk = view[position : position + 12 + length]
        kind = bytes(chunk[4:8])
        if len(chunk) < 12 + length:
            raise UnreadableImageError(f"truncated PNG: the file ends inside of a chunk; {COPY_AGAIN}")
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):  # Pillow does not check that of the pixels
                raise UnreadableImageError(f"damaged PNG: wrong checksum in {kind.decode()}; {COPY_AGAIN}")
            essential.append(chunk)
        elif kind == b"eXIf":
            orientation = find_orientation(bytes(chunk[8:-4]))
        position += len(chunk)
    header = bytes(essential[1])
    if not header.startswith(b"IHDR", 4) or header[16] != 16:
        return turn_upright(decode_8_bit(PngImagePlugin.PngImageFile, joined_file(essential), "PNG"), orientation)
    check_size_16_bit(int.from_bytes(header[8:12], "big"), int.from_bytes(header[12:16], "big"))
    return turn_upright(decode_16_bit(b"".join(essential), "PNG"), orientation)
