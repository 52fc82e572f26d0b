"""The bytes of an image file -> pixels, and a plain reason for everything that is not a complete image.

Pillow decodes 8 bits per channel and OpenCV 16. Pillow's plugin classes are called directly, by the first bytes of
the file, instead of `Image.open`: only these decoders can ever run, and `Image.open` compares the size with a
process-wide limit, which warns from 89 million pixels on and could be changed only for all threads at once.
"""

from __future__ import annotations

import io
import re
import struct
import zlib

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)
from PIL import Image as PilImage

from fundusgrade.errors import UnreadableImageError
from fundusgrade.photographs.exif import find_orientation
from fundusgrade.photographs.formats import (
    HEAD_BYTES,
    PictureFormat,
    name_other_file,
    name_unreadable_picture,
    recognize_picture,
)
from fundusgrade.photographs.netpbm import decode_netpbm
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

_READABLE = "JPEG, PNG, TIFF, BMP, WebP, GIF, JPEG 2000, PPM, HEIC, AVIF or DICOM"

_JPEG_START = b"\xff\xd8\xff"
# Encoders write about a dozen scans. Each makes a decoder pass over all pixels, so a few bytes could cost it hours.
_MAX_SCANS = 100
_SCAN_START = b"\xff\xda"
_FRAME_START = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf\xf7]..[\x02-\x10]", re.DOTALL)
_CODESTREAM_START = b"\xff\x4f\xff\x51"
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
    """Decode JPEG 2000, a file or a codestream as DICOM holds them, of any depth.

    Raises UnreadableImageError as `decode_image` does.
    """
    start = data.find(_CODESTREAM_START)
    siz = data[start + 8 : start + 43]
    if start < 0 or len(siz) < 35 or (siz[34] & 0x7F) + 1 <= 8:
        return decode_8_bit(Jpeg2KImagePlugin.Jpeg2KImageFile, io.BytesIO(data), "JPEG 2000")
    check_size_16_bit(*(max(0, end - first) for end, first in zip(*_corners(siz), strict=True)))
    return decode_16_bit(data, "JPEG 2000")


def _corners(siz: bytes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Far and near corner, x and y, of the image that a SIZ segment describes."""
    far_x, far_y, near_x, near_y = struct.unpack_from(">4L", siz)
    return (far_x, far_y), (near_x, near_y)


def _decode(data: bytes, at_least_px: int | None) -> Image:
    found = recognize_picture(data[:HEAD_BYTES])
    match found:
        case PictureFormat.JPEG:
            return _decode_jpeg(data, at_least_px)
        case PictureFormat.PNG:
            return _decode_png(data)
        case PictureFormat.TIFF:
            return decode_tiff(data)
        case PictureFormat.JPEG_2000:
            return decode_jpeg_2000(data)
        case PictureFormat.NETPBM:
            return decode_netpbm(data)
        case PictureFormat.HEIC:
            return _decode_heic(data)
    if found in _PLUGINS:
        return decode_8_bit(_PLUGINS[found], io.BytesIO(data), found)
    raise UnreadableImageError(f"{_name_unreadable(data)}; expected {_READABLE}; export the photograph as one of these")


_PLUGINS: dict[PictureFormat, type[ImageFile.ImageFile]] = {
    PictureFormat.BMP: BmpImagePlugin.BmpImageFile,
    PictureFormat.WEBP: WebPImagePlugin.WebPImageFile,
    PictureFormat.GIF: GifImagePlugin.GifImageFile,
    PictureFormat.AVIF: AvifImagePlugin.AvifImageFile,
}


def _decode_heic(data: bytes) -> Image:
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise UnreadableImageError(
            "this is a HEIC file, which needs one more package; run: pip install 'fundusgrade[heic]', or save it as a "
            "JPEG"
        ) from None
    return decode_8_bit(HeifImageFile, io.BytesIO(data), "HEIC")


def _name_unreadable(data: bytes) -> str:
    """The kind of a file that cannot be decoded, as the start of an error message."""
    head = data[:HEAD_BYTES]
    name = "DICOM" if recognize_picture(head) is PictureFormat.DICOM else None
    name = name or name_unreadable_picture(head) or name_other_file(head)
    return "not an image" if name is None else f"this is a {name} file"


def _decode_jpeg(data: bytes, at_least_px: int | None) -> Image:
    # An interrupted copy may end in zeros; the decoder would fill the rest of the retina with gray.
    content = data.rstrip(b"\0")
    if len(data) - len(content) >= 512 and not content.endswith(b"\xff\xd9"):
        raise UnreadableImageError(
            f"truncated JPEG: the last {len(data) - len(content)} bytes are all zero; {COPY_AGAIN}"
        )
    if _num_possible_scans(data) > _MAX_SCANS and _num_scans(data) > _MAX_SCANS:
        raise UnreadableImageError(f"damaged JPEG: more than {_MAX_SCANS} scans; save the image again")
    try:
        return decode_8_bit(_JpegWithoutExif, io.BytesIO(data), "JPEG", at_least_px)
    except UnreadableImageError as error:
        kind = _name_unusual_jpeg(data)
        if kind is None:
            raise
        raise UnreadableImageError(f"{kind} is not supported; save it as an ordinary JPEG, or as a PNG") from error


def _name_unusual_jpeg(data: bytes) -> str | None:
    """What kind of JPEG a file is that decoders of photographs do not read; None for the usual kinds."""
    frame = _FRAME_START.search(data, 2)
    marker, num_bits = (data[frame.start() + 1], data[frame.start() + 4]) if frame else (0, 8)
    if marker == 0xF7:
        return "JPEG-LS"
    if marker in (0xC3, 0xC7, 0xCB, 0xCF):
        return "lossless JPEG"
    return f"JPEG with {num_bits} bits per channel" if num_bits in (12, 16) else None


def _num_possible_scans(data: bytes) -> int:
    """How often the marker of a scan occurs, also where it is none; ten times as fast as `bytes.count`."""
    values = np.frombuffer(data, np.uint8)
    return int(np.count_nonzero((values[:-1] == _SCAN_START[0]) & (values[1:] == _SCAN_START[1])))


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
