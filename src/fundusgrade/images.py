"""Photographs and pictures on disk: read any common format safely, write atomically, list a folder.

Pillow decodes 8 bits per channel and OpenCV 16. Pillow's plugin classes are called directly, by the first bytes of
the file, instead of `Image.open`: only these five decoders can ever run, and `Image.open` compares the size with a
process-wide limit, which warns from 89 million pixels on and could be moved only for all threads at once.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import uuid
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import BmpImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from fundusgrade.errors import FundusgradeError, StoreError, UnreadableImageError

Picture = NDArray[np.uint8]
"""A picture (height, width, 3), RGB."""

IMAGE_SUFFIXES: frozenset[str] = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})
MAX_PIXELS = 200_000_000
MIN_SIDE_PX = 32
_MAX_FILE_BYTES = 2 * 1024**3  # 200 million pixels of four 16-bit channels are 1.6 GB
_READABLE = "JPEG, PNG, TIFF, BMP or WebP"

_ORIENTATION_TAG = 274
_COPY_AGAIN = "copy the file again from its source"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundImage:
    """A photograph to grade; `name` is the path as reached from the argument given, in POSIX style."""

    path: Path
    name: str


def read_image(path: Path) -> Picture:
    """Decode a photograph, turned upright as its EXIF orientation says, first page only.

    Transparent pixels become black, like the surroundings of the retina. Safe in threads: no global state is touched.
    Raises UnreadableImageError for everything that is not a whole picture of 32 px to 200 million pixels.
    """
    try:
        return _decode(_read_bytes(path))
    except UnreadableImageError:
        raise
    except Exception as error:  # decoders raise anything on hostile bytes: SyntaxError, struct.error, cv2.error, ...
        raise UnreadableImageError(f"the picture cannot be decoded: {_in_words(error)}; {_COPY_AGAIN}") from error


def write_image(path: Path, picture: Picture) -> None:
    """Write a picture in the format of its suffix (png, jpg, webp, tif), whole or not at all.

    Raises StoreError when the suffix is unknown, the folder is missing, or the file cannot be written.
    """
    encoded = _encode(picture, path)
    if not _is_folder(path.parent):
        raise StoreError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    # Not `tempfile`: its files are private to the owner, and the finished picture would stay so.
    temporary = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        temporary.write_bytes(encoded)
        temporary.replace(path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {_in_words(error)}; check space, permission and name") from error
    finally:
        temporary.unlink(missing_ok=True)


def encode_png(picture: Picture) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def find_images(arguments: Sequence[Path]) -> list[FoundImage]:
    """Photographs named by files and folders, in the order given and sorted inside each folder.

    A file is kept whatever its suffix and even when missing, so that it shows up as unreadable instead of vanishing.
    Folders are searched to the bottom; hidden names and links to folders are skipped. Raises FundusgradeError when
    a folder cannot be listed.
    """
    found: dict[str, FoundImage] = {}
    for argument in arguments:
        for path in _walk(argument) if _is_folder(argument) else [argument]:
            # Links of the file itself are not resolved: stores of linked files let equal photographs share one target.
            key = os.path.join(os.path.realpath(path.parent), path.name)  # noqa: PTH118 (Path.resolve fails on loops)
            found.setdefault(key, FoundImage(path=path, name=path.as_posix()))
    return list(found.values())


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes in hexadecimal; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 (Path.is_dir raises on overlong names and forbidden parents)


def _walk(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> NoReturn:
        raise FundusgradeError(f"cannot list the folder {error.filename}: {_in_words(error)}; check its permissions")

    def visible() -> Iterator[Path]:
        for parent, folders, names in os.walk(folder, onerror=refuse):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                    yield Path(parent, name)

    return sorted(visible(), key=Path.as_posix)


def _encode(picture: Picture, path: Path) -> bytes:
    options: dict[str, dict[str, Any]] = {
        ".png": {"format": "PNG"},
        ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
        ".webp": {"format": "WEBP", "quality": 95},
        ".tif": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
    }
    suffix = {".jpeg": ".jpg", ".tiff": ".tif"}.get(path.suffix.lower(), path.suffix.lower())
    if suffix not in options:
        raise StoreError(f"cannot write {path}: unknown picture suffix {path.suffix!r}; use .png, .jpg, .webp or .tif")
    buffer = io.BytesIO()
    try:
        Image.fromarray(picture).save(buffer, **options[suffix])
    except (OSError, ValueError) as error:  # JPEG ends at 65,535 px and WebP at 16,383
        raise StoreError(f"cannot write {path}: {_in_words(error)}; another format such as .png may do") from error
    return buffer.getvalue()


def _read_bytes(path: Path) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UnreadableImageError("this is a folder, not a picture; name the pictures in it")
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device might never end
            raise UnreadableImageError("this is not a regular file; give a picture file")
        if status.st_size == 0:
            raise UnreadableImageError(f"the file is empty (0 bytes); {_COPY_AGAIN}")
        if status.st_size > _MAX_FILE_BYTES:
            raise UnreadableImageError(
                f"the file has {status.st_size} bytes, more than the {_MAX_FILE_BYTES} allowed; compress it"
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UnreadableImageError("the file does not exist; check its name and folder") from error
    except PermissionError as error:
        raise UnreadableImageError("permission denied; allow this user to read the file") from error
    except OSError as error:
        raise UnreadableImageError(f"the file cannot be read: {_in_words(error)}; check its path and disk") from error


def _decode(data: bytes) -> Picture:
    if data.startswith(b"\xff\xd8\xff"):
        return _decode_jpeg(data)
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


def _decode_jpeg(data: bytes) -> Picture:
    # A copy that broke off into reserved space ends in zeros; the decoder would fill the rest of the retina with gray.
    content = data.rstrip(b"\0")
    if len(data) - len(content) >= 512 and not content.endswith(b"\xff\xd9"):
        raise UnreadableImageError(
            f"truncated JPEG: the last {len(data) - len(content)} bytes are all zero; {_COPY_AGAIN}"
        )
    return _load(_JpegWithoutExif, data, "JPEG")


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
            raise UnreadableImageError(f"truncated PNG: the file ends inside of a chunk; {_COPY_AGAIN}")
        if chunk[4:8] in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):  # Pillow does not check the pixels'
                raise UnreadableImageError(f"damaged PNG: wrong checksum in {chunk[4:8].decode()}; {_COPY_AGAIN}")
            kept.append(chunk)
        elif chunk[4:8] == b"eXIf":
            orientation = _find_orientation(chunk[8:-4])
        position += len(chunk)
    essential = b"".join(kept)
    if essential[12:16] != b"IHDR" or essential[24] != 16:
        return _turn_upright(_load(PngImagePlugin.PngImageFile, essential, "PNG"), orientation)
    _check_size(int.from_bytes(essential[16:20], "big"), int.from_bytes(essential[20:24], "big"))
    return _turn_upright(_decode_16_bit(essential, "PNG"), orientation)


def _load(plugin: type[ImageFile.ImageFile], data: bytes, kind: str) -> Picture:
    """Decode 8 bits per channel by one Pillow plugin; the size is checked between its header and its pixels."""
    try:
        with plugin(io.BytesIO(data)) as image:
            _check_size(image.width, image.height)
            image.load()
            picture = _to_rgb(image, kind)
            return _turn_upright(picture, _find_orientation(image.info.get("exif", b"")))
    except UnreadableImageError:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"the {kind} has too many pixels for its decoder; scale it down") from error
    except Exception as error:
        state = "truncated" if "truncated" in str(error).lower() else "damaged"
        detail = _in_words(error).replace("not identified by this driver", "its header is incomplete")
        raise UnreadableImageError(f"{state} {kind}: {detail}; {_COPY_AGAIN}") from error


def _check_size(width: int, height: int) -> None:
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
        raise UnreadableImageError(f"truncated TIFF: the file ends before its directory is complete; {_COPY_AGAIN}")
    if any(len(entry.values) != 1 for entry in kept if entry.tag in _SINGLE_VALUE_TAGS):
        raise UnreadableImageError(f"damaged TIFF: its directory contradicts the format; {_COPY_AGAIN}")
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
    _check_size(value(256, 0), value(257, 0))
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


def _in_words(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__
