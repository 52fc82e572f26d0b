"""The bytes of a picture file -> pixels, and a plain reason for everything that is not a whole picture.

Pillow decodes 8 bits per channel and OpenCV 16. Pillow's plugin classes are called directly, by the first bytes of
the file, instead of `Image.open`: only these five decoders can ever run, and `Image.open` compares the size with a
process-wide limit, which warns from 89 million pixels on and could be moved only for all threads at once.
"""

from __future__ import annotations

import io
import math
import re
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import IO, Any, Literal

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
# With 16 bits per channel, which OpenCV holds twice while it decodes: both limits keep a picture below 2 GB of memory.
MAX_DEEP_PIXELS = 80_000_000
MIN_SIDE_PX = 32
COPY_AGAIN = "copy the file again from its source"
NO_MEMORY = "not enough memory for this picture; close other programs, use fewer --workers, or scale the picture down"
_READABLE = "JPEG, PNG, TIFF, BMP or WebP"
_ORIENTATION_TAG = 274
# Encoders write a dozen scans. Each makes a decoder walk all of a picture, so a few bytes could cost it hours.
_MAX_SCANS = 100
_SCAN_START = b"\xff\xda"
_MARKER_AFTER_SCAN = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
# Pixels are converted by bands of rows: copies of a whole large picture would take gigabytes.
_BAND_PIXELS = 1_000_000


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
    except MemoryError as error:
        raise UnreadableImageError(NO_MEMORY) from error
    except Exception as error:  # decoders raise anything on hostile bytes: SyntaxError, struct.error, cv2.error, ...
        raise UnreadableImageError(f"the picture cannot be decoded: {in_words(error)}; {COPY_AGAIN}") from error


def decode_jpeg_2000(data: bytes) -> Picture:
    """Decode a JPEG 2000 codestream, as DICOM holds them. Raises UnreadableImageError as `decode_image` does."""
    return _load(Jpeg2KImagePlugin.Jpeg2KImageFile, io.BytesIO(data), "JPEG 2000")


def _decode(data: bytes, at_least_px: int | None) -> Picture:
    if data.startswith(b"\xff\xd8\xff"):
        return _decode_jpeg(data, at_least_px)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _decode_png(data)
    if data.startswith((b"II*\0", b"MM\0*")):
        return _decode_tiff(data)
    if data.startswith(b"BM"):
        return _load(BmpImagePlugin.BmpImageFile, io.BytesIO(data), "BMP")
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _load(WebPImagePlugin.WebPImageFile, io.BytesIO(data), "WebP")
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
    if data.count(_SCAN_START) > _MAX_SCANS and _num_scans(data) > _MAX_SCANS:
        raise UnreadableImageError(f"damaged JPEG: more than {_MAX_SCANS} scans; save the picture again")
    return _load(_JpegWithoutExif, io.BytesIO(data), "JPEG", at_least_px)


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
    def getexif(self) -> Image.Exif:
        # Called while opening, only to learn the dots per inch: damaged EXIF would end in a warning.
        return Image.Exif()


def _decode_png(data: bytes) -> Picture:
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
            orientation = _find_orientation(bytes(chunk[8:-4]))
        position += len(chunk)
    header = bytes(kept[1])
    if not header.startswith(b"IHDR", 4) or header[16] != 16:
        return _turn_upright(_load(PngImagePlugin.PngImageFile, _joined(kept), "PNG"), orientation)
    _check_deep_size(int.from_bytes(header[8:12], "big"), int.from_bytes(header[12:16], "big"))
    return _turn_upright(_decode_16_bit(b"".join(kept), "PNG"), orientation)


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


def _joined(pieces: Sequence[bytes | memoryview]) -> IO[bytes]:
    return io.BufferedReader(_Pieces(pieces), 2**16)


def _load(plugin: type[ImageFile.ImageFile], file: IO[bytes], kind: str, at_least_px: int | None = None) -> Picture:
    """Decode 8 bits per channel by one Pillow plugin; the size is checked between its header and its pixels."""
    try:
        with plugin(file) as image:
            check_size(image.width, image.height)
            if at_least_px is not None:
                share = at_least_px / min(image.size)
                image.draft(None, (math.ceil(image.width * share), math.ceil(image.height * share)))
            image.load()
            picture = _to_rgb(image, kind)
            return _turn_upright(picture, _find_orientation(image.info.get("exif", b"")))
    except (UnreadableImageError, MemoryError):
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


def _check_deep_size(width: int, height: int) -> None:
    """The same for 16 bits per channel."""
    check_size(width, height)
    if width * height > MAX_DEEP_PIXELS:
        raise UnreadableImageError(
            f"{width} x {height} pixels are more than the {MAX_DEEP_PIXELS} allowed with 16 bits per channel; "
            "save the picture with 8 bits, or scale it down"
        )


def _to_rgb(image: Image.Image, kind: str) -> Picture:
    has_alpha = image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info
    if not has_alpha and image.mode not in ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"):
        raise UnreadableImageError(f"{kind} with pixels of type {image.mode!r} is not supported; save it as 8-bit RGB")
    picture = np.empty((image.height, image.width, 3), np.uint8)
    for rows in _bands(image.height, image.width):
        band = image.crop((0, rows.start, image.width, rows.stop))
        if band.mode == "La":
            band = band.convert("LA")
        picture[rows] = _composite(np.asarray(band.convert("RGBA"))) if has_alpha else np.asarray(band.convert("RGB"))
    return picture


def _bands(height: int, width: int) -> Iterator[slice]:
    step = max(1, _BAND_PIXELS // width)
    return (slice(top, min(top + step, height)) for top in range(0, height, step))


def _composite(rgba: NDArray[np.uint8]) -> Picture:
    weighted = rgba[..., :3].astype(np.uint16) * rgba[..., 3:] + 127
    return (weighted // 255).astype(np.uint8)


def _decode_16_bit(data: bytes, kind: str) -> Picture:
    decoded: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16 or decoded.shape[2:] not in ((), (3,), (4,)):
        raise UnreadableImageError(f"damaged or unsupported {kind} with 16 bits per channel; save it with 8 bits")
    height, width = decoded.shape[:2]
    table = _table_to_8_bit(int((decoded if decoded.ndim == 2 else decoded[..., :3]).max()))
    picture = np.empty((height, width, 3), np.uint8)
    for rows in _bands(height, width):
        picture[rows] = _to_8_bit(decoded[rows], table)
    return picture


def _to_8_bit(values: NDArray[np.uint16], table: NDArray[np.uint8]) -> Picture:
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
_VALUE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
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
    page: list[bytes | memoryview] = [data[:4], start.to_bytes(4, order), memoryview(data)[8:], padding, directory]
    picture = _decode_page(page, entries)
    orientation = entries.get(_ORIENTATION_TAG)
    return _turn_upright(picture, orientation.values[0] if orientation and orientation.values else 1)


class _TiffOfAnySize(TiffImagePlugin.TiffImageFile):
    def load_prepare(self) -> None:
        # Without the process-wide limit that Pillow looks up here a second time.
        ImageFile.ImageFile.load_prepare(self)


def _decode_page(page: Sequence[bytes | memoryview], entries: dict[int, _Entry]) -> Picture:
    def value(tag: int, default: int) -> int:
        return max(entries[tag].values, default=default) if tag in entries else default

    if value(339, 1) not in (1, 4):  # 4 is "undefined", which writers use for plain numbers too
        raise UnreadableImageError("TIFF with floating-point or signed pixels is not supported; save it with 8 bits")
    if value(322, 0) * value(323, 0) > MAX_PIXELS:
        raise UnreadableImageError("damaged TIFF: it claims dangerously large tiles; save the picture again")
    if value(258, 1) <= 8:
        return _load(_TiffOfAnySize, _joined(page), "TIFF")
    _check_deep_size(value(256, 0), value(257, 0))
    photometric = value(262, 1)
    if value(258, 1) != 16 or photometric not in (0, 1, 2):
        raise UnreadableImageError(f"TIFF with {value(258, 1)} bits of this color type is not supported; save with 8")
    picture = _decode_16_bit(b"".join(page), "TIFF")
    return np.invert(picture, out=picture) if photometric == 0 else picture  # 0 means white


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
