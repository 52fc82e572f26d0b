"""The bytes of a picture file -> pixels, and a plain reason for everything that is not a whole picture.

Pillow decodes 8 bits per channel and OpenCV 16. Pillow's plugin classes are called directly, by the first bytes of
the file, instead of `Image.open`: only these five decoders can ever run, and `Image.open` compares the size with a
process-wide limit, which warns from 89 million pixels on and could be moved only for all threads at once.
"""

from __future__ import annotations

import io
import math
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from fundusgrade.errors import UnreadableImageError

Picture = NDArray[np.uint8]
"""A picture (height, width, 3), RGB."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decoded:
    """A picture and what its file says of it: eye "R", "L" or "B" for both, and camera; "" where it does not say."""

    picture: Picture
    laterality: str = ""
    camera: str = ""


MAX_PIXELS = 200_000_000
MIN_SIDE_PX = 32
COPY_AGAIN = "copy the file again from its source"
_READABLE = "JPEG, PNG, TIFF, BMP or WebP"
_ORIENTATION_TAG = 274


def decode_image(data: bytes, *, at_least_px: int | None = None) -> Picture:
    """Decode the bytes of a picture file, turned upright, first page only.

    With `at_least_px` a JPEG may be decoded at a half, a quarter or an eighth of its size, which its format makes
    cheap, as long as its shorter side keeps that many pixels.

    Raises UnreadableImageError for everything that is not a whole picture of 32 px to 200 million pixels.
    """
    try:
        return _decode(data, at_least_px)
    except UnreadableImageError:
        raise
    except Exception as error:  # decoders raise anything on hostile bytes: SyntaxError, struct.error, cv2.error, ...
        raise UnreadableImageError(f"the picture cannot be decoded: {in_words(error)}; {COPY_AGAIN}") from error


def decode_jpeg_2000(data: bytes) -> Picture:
    """Decode a JPEG 2000 codestream, as DICOM holds them. Raises UnreadableImageError as `decode_image` does."""
    return _load(Jpeg2KImagePlugin.Jpeg2KImageFile, data, "JPEG 2000")


def _decode(data: bytes, at_least_px: int | None) -> Picture:
    if data.startswith(b"\xff\xd8\xff"):
        return _decode_jpeg(data, at_least_px)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _decode_png(data)
    if data.startswith((b"II*\0", b"MM\0*")):
        return _decode_tiff(data)
    if data.startswith(b"BM"):
        return _load(BmpImagePlugin.BmpImageFile, data, "BMP")
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _load(WebPImagePlugin.WebPImageFile, data, "WebP")
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


def _decode_jpeg(data: bytes, at_least_px: int | None) -> Picture:
    # A copy that broke off into reserved space ends in zeros; the decoder would fill the rest of the retina with gray.
    content = data.rstrip(b"\0")
    if len(data) - len(content) >= 512 and not content.endswith(b"\xff\xd9"):
        raise UnreadableImageError(
            f"truncated JPEG: the last {len(data) - len(content)} bytes are all zero; {COPY_AGAIN}"
        )
    return _load(_JpegWithoutExif, data, "JPEG", at_least_px)


class _JpegWithoutExif(JpegImagePlugin.JpegImageFile):
    def getexif(self) -> Image.Exif:
        # Called while opening, only to learn the dots per inch: damaged EXIF would end in a warning.
        return Image.Exif()


def _decode_png(data: bytes) -> Picture:
    """Decode a PNG from its essential chunks alone: Pillow warns of, or refuses, damage in those that do not matter."""
    kept, orientation, position = [data[:8]], 1, 8
    while not kept[-1].startswith(b"IEND", 4):
        length = int.from_bytes(data[position : position + 4], "big")
        chunk = data[position : position + 12 + length]
        if len(chunk) < 12 + length:
            raise UnreadableImageError(f"truncated PNG: the file ends inside of a chunk; {COPY_AGAIN}")
        if chunk[4:8] in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):  # Pillow does not check the pixels'
                raise UnreadableImageError(f"damaged PNG: wrong checksum in {chunk[4:8].decode()}; {COPY_AGAIN}")
            kept.append(chunk)
        elif chunk[4:8] == b"eXIf":
            orientation = _find_orientation(chunk[8:-4])
        position += len(chunk)
    essential = b"".join(kept)
    if essential[12:16] != b"IHDR" or essential[24] != 16:
        return _turn_upright(_load(PngImagePlugin.PngImageFile, essential, "PNG"), orientation)
    check_size(int.from_bytes(essential[16:20], "big"), int.from_bytes(essential[20:24], "big"))
    return _turn_upright(_decode_16_bit(essential, "PNG"), orientation)


def _load(plugin: type[ImageFile.ImageFile], data: bytes, kind: str, at_least_px: int | None = None) -> Picture:
    """Decode 8 bits per channel by one Pillow plugin; the size is checked between its header and its pixels."""
    try:
        with plugin(io.BytesIO(data)) as image:
            check_size(image.width, image.height)
            if at_least_px is not None:
                share = at_least_px / min(image.size)
                image.draft(None, (math.ceil(image.width * share), math.ceil(image.height * share)))
            image.load()
            picture = _to_rgb(image, kind)
            return _turn_upright(picture, _find_orientation(image.info.get("exif", b"")))
    except UnreadableImageError:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"the {kind} has too many pixels for its decoder; scale it down") from error
    except Exception as error:
        state = "truncated" if "truncated" in str(error).lower() else "damaged"
        detail = in_words(error).replace("not identified by this driver", "its header is incomplete")
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


def _to_rgb(image: Image.Image, kind: str) -> Picture:
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("RGBA", "RGBa", "LA", "PA") or "transparency" in image.info:
        return _composite(np.asarray(image.convert("RGBA")))
    if image.mode not in ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"):
        raise UnreadableImageError(f"{kind} with pixels of type {image.mode!r} is not supported; save it as 8-bit RGB")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _composite(rgba: NDArray[np.uint8]) -> Picture:
    weighted = rgba[..., :3].astype(np.uint16) * rgba[..., 3:] + 127
    return (weighted // 255).astype(np.uint8)


def _decode_16_bit(data: bytes, kind: str) -> Picture:
    decoded: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16 or decoded.shape[2:] not in ((), (3,), (4,)):
        raise UnreadableImageError(f"damaged or unsupported {kind} with 16 bits per channel; save it with 8 bits")
    if decoded.ndim == 2:
        return np.repeat(_scale_to_8_bit(decoded)[..., np.newaxis], 3, axis=2)
    rgb = _scale_to_8_bit(decoded[..., 2::-1])
    if decoded.shape[2] == 4:
        alpha = (decoded[..., 3:] // 257).astype(np.uint8)
        return _composite(np.concatenate([rgb, alpha], axis=2))
    return rgb


def _scale_to_8_bit(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Scale by 4095 or 65535 to 255, rounded.

    Cameras of 12 bits store 0 to 4095 in 16 bits, unscaled. On the full range such a picture would be all but black,
    and a full-range photograph whose brightest pixel is below 4096 shows nothing: the maximum tells the two apart.
    """
    full = 4095 if values.max() < 4096 else 65535
    table = np.minimum((np.arange(65536) * 255 + full // 2) // full, 255).astype(np.uint8)
    return table[values]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One entry of a TIFF directory; `values` is empty unless they are one to eight integers inside the file."""

    tag: int
    raw: bytes
    values: tuple[int, ...]
    is_whole: bool


_DECODER_TAGS = frozenset(
    # Size, bits, compression, color, strips, planes, predictor, palette, tiles, alpha, sample format, JPEG, YCbCr.
    {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332, 338, 339, 347}
    | {529, 530, 531, 532}
)
_VALUE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_INTEGER_TYPES = (1, 3, 4)
_SINGLE_VALUE_TAGS = frozenset({256, 257, 259, 262, 266, 277, 278, 284, 317, 322, 323})


def _decode_tiff(data: bytes) -> Picture:
    """Decode the first page from a directory that holds only what decoding needs.

    Pillow warns of damage in all other entries, follows the chain of pages, and turns the picture by itself.
    """
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    entries = {entry.tag: entry for entry in _read_directory(data)}
    kept = [entries[tag] for tag in sorted(entries.keys() & _DECODER_TAGS)]
    if not kept or not all(entry.is_whole for entry in kept):
        raise UnreadableImageError(f"truncated TIFF: the file ends before its directory is complete; {COPY_AGAIN}")
    if any(len(entry.values) != 1 for entry in kept if entry.tag in _SINGLE_VALUE_TAGS):
        raise UnreadableImageError(f"damaged TIFF: its directory contradicts the format; {COPY_AGAIN}")
    directory = len(kept).to_bytes(2, order) + b"".join(entry.raw for entry in kept) + bytes(4)
    padding = bytes(len(data) % 2)  # a directory begins on an even byte
    start = len(data) + len(padding)
    page = data[:4] + start.to_bytes(4, order) + data[8:] + padding + directory
    picture = _decode_page(page, entries)
    orientation = entries.get(_ORIENTATION_TAG)
    return _turn_upright(picture, orientation.values[0] if orientation and orientation.values else 1)


class _TiffOfAnySize(TiffImagePlugin.TiffImageFile):
    def load_prepare(self) -> None:
        # Without the process-wide limit that Pillow looks up here a second time.
        ImageFile.ImageFile.load_prepare(self)


def _decode_page(page: bytes, entries: dict[int, _Entry]) -> Picture:
    def value(tag: int, default: int) -> int:
        return max(entries[tag].values, default=default) if tag in entries else default

    if value(339, 1) not in (1, 4):  # 4 is "undefined", which writers use for plain numbers too
        raise UnreadableImageError("TIFF with floating-point or signed pixels is not supported; save it with 8 bits")
    if value(322, 0) * value(323, 0) > MAX_PIXELS:
        raise UnreadableImageError("damaged TIFF: it claims dangerously large tiles; save the picture again")
    if value(258, 1) <= 8:
        return _load(_TiffOfAnySize, page, "TIFF")
    check_size(value(256, 0), value(257, 0))
    photometric = value(262, 1)
    if value(258, 1) != 16 or photometric not in (0, 1, 2):
        raise UnreadableImageError(f"TIFF with {value(258, 1)} bits of this color type is not supported; save with 8")
    picture = _decode_16_bit(page, "TIFF")
    return 255 - picture if photometric == 0 else picture  # 0 means white


def _read_directory(data: bytes) -> list[_Entry]:
    """The entries of the first directory of a TIFF file or EXIF block, as far as the bytes reach."""
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"

    def integer(start: int, size: int) -> int:
        return int.from_bytes(data[start : start + size], order)

    entries = []
    directory = integer(4, 4)
    for start in range(directory + 2, directory + 2 + 12 * integer(directory, 2), 12):
        if start + 12 > len(data):
            break
        size = _VALUE_SIZES.get(integer(start + 2, 2), 0)
        count = integer(start + 4, 4)
        first = integer(start + 8, 4) if size * count > 4 else start + 8
        is_whole = first + size * count <= len(data)
        values: tuple[int, ...] = ()
        if is_whole and count <= 8 and integer(start + 2, 2) in _INTEGER_TYPES:  # longer lists are not for us
            values = tuple(integer(first + index * size, size) for index in range(count))
        tag = integer(start, 2)
        entries.append(_Entry(tag=tag, raw=data[start : start + 12], values=values, is_whole=is_whole))
    return entries


def _find_orientation(exif: bytes) -> int:
    """The EXIF orientation, 1 to 8; 1 when the block is damaged or silent, which is how cameras mean it."""
    block = exif.removeprefix(b"Exif\0\0")
    for entry in _read_directory(block) if block.startswith((b"II*\0", b"MM\0*")) else []:
        if entry.tag == _ORIENTATION_TAG and entry.values:
            return entry.values[0]
    return 1


def _turn_upright(picture: Picture, orientation: int) -> Picture:
    """Undo the way the camera was held, as numbered by EXIF 2.3; unknown numbers change nothing."""
    if orientation in (5, 6, 7, 8):
        picture = picture.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)


def in_words(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__
