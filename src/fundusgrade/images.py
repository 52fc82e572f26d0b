"""Photographs and pictures on disk: read any common format safely, write atomically, list a folder."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
from PIL import Image

from fundusgrade.decoding import COPY_AGAIN, Picture, decode_image, in_words
from fundusgrade.errors import FundusgradeError, StoreError, UnreadableImageError

__all__ = [
    "IMAGE_SUFFIXES",
    "FoundImage",
    "Picture",
    "encode_png",
    "find_images",
    "halved",
    "hash_file",
    "jpeg_quantization",
    "read_image",
    "reduced",
    "write_image",
]

IMAGE_SUFFIXES: frozenset[str] = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})
_MAX_FILE_BYTES = 2 * 1024**3  # 200 million pixels of four 16-bit channels are 1.6 GB


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundImage:
    """A photograph to grade; `name` is the path as reached from the argument given, in POSIX style."""

    path: Path
    name: str


def read_image(path: Path, *, at_least_px: int | None = None) -> Picture:
    """Decode a photograph, turned upright as its EXIF orientation says, first page only.

    Transparent pixels become black, like the surroundings of the retina. Safe in threads: no global state is touched.
    With `at_least_px` the picture may come reduced, its shorter side not below that many pixels.
    Raises UnreadableImageError for everything that is not a whole picture of 32 px to 200 million pixels.
    """
    return decode_image(_read_bytes(path), at_least_px=at_least_px)


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
        raise StoreError(f"cannot write {path}: {in_words(error)}; check space, permission and name") from error
    finally:
        temporary.unlink(missing_ok=True)


def encode_jpeg(picture: Picture, quality: int = 85) -> bytes:
    """A picture as the bytes of a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


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


def halved(picture: Picture) -> Picture:
    """A picture of half the size, each pixel the mean of four: whole factors are reduced much faster than others."""
    half = (picture.shape[1] // 2, picture.shape[0] // 2)
    return np.asarray(cv2.resize(picture, half, interpolation=cv2.INTER_AREA), np.uint8)


def reduced(picture: Picture, factor: int) -> Picture:
    """A picture `factor` times smaller, each pixel the mean of factor x factor, rounded once.

    Halving several times would round as often, and Ben Graham's contrast makes four levels of one.
    """
    height, width = picture.shape[0] // factor, picture.shape[1] // factor
    whole = picture[: height * factor, : width * factor]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def jpeg_quantization(path: Path) -> float:
    """Mean of a JPEG file's first quantization table: the higher, the more it was compressed; 0 for other files.

    Raises OSError.
    """
    with path.open("rb") as file:
        data = file.read(65536)
    start = data.find(b"\xff\xdb") if data.startswith(b"\xff\xd8") else -1
    table = data[start + 5 : start + 69]
    return sum(table) / len(table) if start >= 0 and table else 0.0


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 (Path.is_dir raises on overlong names and forbidden parents)


def _walk(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> NoReturn:
        raise FundusgradeError(f"cannot list the folder {error.filename}: {in_words(error)}; check its permissions")

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
        raise StoreError(f"cannot write {path}: {in_words(error)}; another format such as .png may do") from error
    return buffer.getvalue()


def _read_bytes(path: Path) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UnreadableImageError("this is a folder, not a picture; name the pictures in it")
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device might never end
            raise UnreadableImageError("this is not a regular file; give a picture file")
        if status.st_size == 0:
            raise UnreadableImageError(f"the file is empty (0 bytes); {COPY_AGAIN}")
        if status.st_size > _MAX_FILE_BYTES:
            raise UnreadableImageError(
                f"the file has {status.st_size} bytes, more than the {_MAX_FILE_BYTES} allowed; compress it"
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UnreadableImageError("the file does not exist; check its name and folder") from error
    except PermissionError as error:
        raise UnreadableImageError("permission denied; allow this user to read the file") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise UnreadableImageError(f"the file cannot be read: {in_words(error)}; check its path and disk") from error
