"""Photographs and pictures on disk: read any common format safely, write atomically, list folders and archives."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import cv2
import numpy as np
from PIL import Image

from fundusgrade.archives import ARCHIVE_SUFFIX, Member, find_members, read_member
from fundusgrade.decoding import COPY_AGAIN, Decoded, Picture, decode_image, in_words
from fundusgrade.dicom import DICOM_SUFFIXES, count_frames, decode_dicom, is_dicom
from fundusgrade.errors import FundusgradeError, StoreError, UnreadableImageError

__all__ = [
    "IMAGE_SUFFIXES",
    "PHOTOGRAPH_SUFFIXES",
    "FoundImage",
    "Picture",
    "encode_png",
    "find_files",
    "find_images",
    "halved",
    "hash_file",
    "jpeg_quantization",
    "printable",
    "read_image",
    "read_photograph",
    "reduced",
    "write_image",
]

IMAGE_SUFFIXES: frozenset[str] = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})
"""Of pictures as such; `PHOTOGRAPH_SUFFIXES` are those of all files that hold one photograph, or a few."""
PHOTOGRAPH_SUFFIXES: frozenset[str] = IMAGE_SUFFIXES | DICOM_SUFFIXES
_MAX_FILE_BYTES = 2 * 1024**3  # 200 million pixels of four 16-bit channels are 1.6 GB


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundImage:
    """A photograph to grade; `name` is the path as reached from the argument given, in POSIX style.

    It is the file itself, a `member` of the archive that the file is, or one `frame` of a DICOM, counted from 1; names
    tell them apart: `eyes.zip/left/eye.jpg`, `scan.dcm#2`. With a `problem` it cannot be read, for this reason. A name
    from an archive may be anything: only `path` and `member` say where things are.
    """

    path: Path
    name: str
    member: Member | None = None
    frame: int | None = None
    problem: str | None = None


def read_image(path: Path, *, at_least_px: int | None = None) -> Picture:
    """Decode a photograph, turned upright as its EXIF orientation says, first page only.

    Transparent pixels become black, like the surroundings of the retina. Safe in threads: no global state is touched.
    With `at_least_px` the picture may come reduced, its shorter side not below that many pixels.
    Raises UnreadableImageError for everything that is not a whole picture of 32 px to 200 million pixels.
    """
    return read_photograph(path, at_least_px=at_least_px).picture


def read_photograph(photograph: Path | FoundImage, *, at_least_px: int | None = None) -> Decoded:
    """The same with what a DICOM says of eye and camera; also a member of an archive, or one of several frames."""
    if isinstance(photograph, Path):
        photograph = FoundImage(path=photograph, name=photograph.as_posix())
    with _opened(photograph) as file:
        if is_dicom(file):
            return decode_dicom(file, photograph.frame, at_least_px=at_least_px)
        return Decoded(picture=decode_image(file.read(), at_least_px=at_least_px))


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
    """Photographs named by files, folders and zip archives, in the order given and sorted inside of each.

    As `find_files`, but archives are listed, and a DICOM of several pictures gives one photograph for each.
    """
    return [photograph for file in find_files(arguments, archives=True) for photograph in _photographs_in(file)]


def find_files(arguments: Sequence[Path], *, archives: bool = False) -> list[FoundImage]:
    """Files of photographs named by files and folders, in the order given and sorted inside each folder.

    A file is kept whatever its suffix and even when missing, so that it shows up as unreadable instead of vanishing.
    Folders are searched to the bottom; hidden names and links to folders are skipped. Raises FundusgradeError when
    a folder cannot be listed.
    """
    suffixes = PHOTOGRAPH_SUFFIXES | ({ARCHIVE_SUFFIX} if archives else set())
    found: dict[str, FoundImage] = {}
    for argument in arguments:
        for path in _walk(argument, suffixes) if _is_folder(argument) else [argument]:
            # Links of the file itself are not resolved: stores of linked files let equal photographs share one target.
            key = os.path.join(os.path.realpath(path.parent), path.name)  # noqa: PTH118 (Path.resolve fails on loops)
            found.setdefault(key, FoundImage(path=path, name=path.as_posix()))
    return list(found.values())


def printable(text: str) -> str:
    """Text with the undecodable bytes of file names, which Python keeps as lone surrogates, written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


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


def _walk(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    def refuse(error: OSError) -> NoReturn:
        raise FundusgradeError(f"cannot list the folder {error.filename}: {in_words(error)}; check its permissions")

    def visible() -> Iterator[Path]:
        for parent, folders, names in os.walk(folder, onerror=refuse):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                if not name.startswith(".") and Path(name).suffix.lower() in suffixes:
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


def _photographs_in(found: FoundImage) -> list[FoundImage]:
    """What a file holds: itself, unless it is an archive or a DICOM of several pictures. Only those are opened."""
    suffix = found.path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return [found]
    if suffix != ARCHIVE_SUFFIX:  # a file that is named may be a DICOM whatever its suffix
        return _frames_of(found)
    try:
        with _opened(found) as file:
            members = find_members(file, PHOTOGRAPH_SUFFIXES)
    except UnreadableImageError as error:
        return [replace(found, problem=str(error))]
    inside = [
        replace(found, name=f"{found.name}/{member.name}", member=member, problem=member.problem) for member in members
    ]
    return [frame for each in inside for frame in (_frames_of(each) if _may_have_frames(each) else [each])]


def _may_have_frames(found: FoundImage) -> bool:
    return found.problem is None and Path(found.name).suffix.lower() in DICOM_SUFFIXES


def _frames_of(found: FoundImage) -> list[FoundImage]:
    try:
        with _opened(found) as file:
            num_frames = count_frames(file) if is_dicom(file) else 1
    except UnreadableImageError:  # to be found again, and said, when it is graded
        return [found]
    if num_frames == 1:
        return [found]
    return [replace(found, name=f"{found.name}#{frame}", frame=frame) for frame in range(1, num_frames + 1)]


@contextlib.contextmanager
def _opened(found: FoundImage) -> Iterator[BinaryIO]:
    """A file to read a photograph from, or the bytes of an archive's member as one."""
    if found.problem is not None:
        raise UnreadableImageError(found.problem)
    try:
        _check_file(found)
        with found.path.open("rb") as file:
            yield file if found.member is None else io.BytesIO(read_member(file, found.member))
    except FileNotFoundError as error:
        raise UnreadableImageError("the file does not exist; check its name and folder") from error
    except PermissionError as error:
        raise UnreadableImageError("permission denied; allow this user to read the file") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise UnreadableImageError(f"the file cannot be read: {in_words(error)}; check its path and disk") from error


def _check_file(found: FoundImage) -> None:
    status = found.path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise UnreadableImageError("this is a folder, not a picture; name the pictures in it")
    if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device might never end
        raise UnreadableImageError("this is not a regular file; give a picture file")
    if status.st_size == 0:
        raise UnreadableImageError(f"the file is empty (0 bytes); {COPY_AGAIN}")
    if status.st_size > _MAX_FILE_BYTES and found.path.suffix.lower() != ARCHIVE_SUFFIX:
        raise UnreadableImageError(
            f"the file has {status.st_size} bytes, more than the {_MAX_FILE_BYTES} allowed; compress it"
        )
