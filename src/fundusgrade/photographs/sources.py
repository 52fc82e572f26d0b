"""Photographs in files, folders, zip archives and multi-frame DICOM files: found, and opened."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NoReturn

from fundusgrade.errors import FundusgradeError, UnreadableImageError
from fundusgrade.photographs.archives import ARCHIVE_SUFFIX, Member, find_members, read_member
from fundusgrade.photographs.dicom import DICOM_SUFFIXES, count_frames, is_dicom
from fundusgrade.photographs.pixels import COPY_AGAIN
from fundusgrade.text import error_text

IMAGE_SUFFIXES: frozenset[str] = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})
"""Of image files; `PHOTOGRAPH_SUFFIXES` are those of all files that hold one photograph, or several frames."""
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

    @classmethod
    def of(cls, photograph: Path | FoundImage) -> FoundImage:
        """A photograph given by its path, named by it; one that was found already is returned as it is."""
        return photograph if isinstance(photograph, FoundImage) else cls(path=photograph, name=photograph.as_posix())


def find_images(arguments: Sequence[Path]) -> list[FoundImage]:
    """Photographs named by files, folders and zip archives, in the order given and sorted inside of each.

    As `find_files`, but archives are listed, and a DICOM file of several frames gives one photograph for each.
    """
    return [photograph for file in find_files(arguments, archives=True) for photograph in _photographs_in(file)]


def find_files(arguments: Sequence[Path], *, archives: bool = False) -> list[FoundImage]:
    """Files of photographs named by files and folders, in the order given and sorted inside each folder.

    A file that is named is returned whatever its suffix and even when missing, so that it is reported as unreadable.
    Folders are searched recursively; hidden names and links to folders are skipped. Raises FundusgradeError when
    a folder cannot be listed.
    """
    suffixes = PHOTOGRAPH_SUFFIXES | ({ARCHIVE_SUFFIX} if archives else set())
    found: dict[str, FoundImage] = {}
    for argument in arguments:
        for path in _walk(argument, suffixes) if is_folder(argument) else [argument]:
            # A link to a file is not resolved: some stores of data keep equal photographs as links to one file.
            key = os.path.join(os.path.realpath(path.parent), path.name)  # noqa: PTH118 (Path.resolve fails on loops)
            found.setdefault(key, FoundImage.of(path))
    return list(found.values())


def is_folder(path: Path) -> bool:
    """Whether a path is a folder; False for one that cannot be reached."""
    return os.path.isdir(path)  # noqa: PTH112 (Path.is_dir raises on overlong names and forbidden parents)


def _walk(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    def refuse(error: OSError) -> NoReturn:
        raise FundusgradeError(f"cannot list the folder {error.filename}: {error_text(error)}; check its permissions")

    def visible() -> Iterator[Path]:
        for parent, folders, names in os.walk(folder, onerror=refuse):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                if not name.startswith(".") and Path(name).suffix.lower() in suffixes:
                    yield Path(parent, name)

    return sorted(visible(), key=Path.as_posix)


def _photographs_in(found: FoundImage) -> list[FoundImage]:
    """The photographs in a file: itself, unless it is an archive or has several DICOM frames. Only those are opened."""
    suffix = found.path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return [found]
    if suffix != ARCHIVE_SUFFIX:  # a file that is named may be DICOM whatever its suffix
        return _frames_of(found)
    try:
        with open_photograph_file(found) as file:
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
        with open_photograph_file(found) as file:
            num_frames = count_frames(file) if is_dicom(file) else 1
    except UnreadableImageError:  # it is found again, and reported, when the photograph is read
        return [found]
    if num_frames == 1:
        return [found]
    return [replace(found, name=f"{found.name}#{frame}", frame=frame) for frame in range(1, num_frames + 1)]


@contextlib.contextmanager
def open_photograph_file(found: FoundImage) -> Iterator[BinaryIO]:
    """The file of a photograph, or the bytes of an archive's member as one; raises UnreadableImageError."""
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
        raise UnreadableImageError(f"the file cannot be read: {error_text(error)}; check its path and disk") from error


def _check_file(found: FoundImage) -> None:
    status = found.path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise UnreadableImageError("this is a folder and not a file; name the photographs in it")
    if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device might never end
        raise UnreadableImageError("this is not a regular file; give an image file")
    if status.st_size == 0:
        raise UnreadableImageError(f"the file is empty (0 bytes); {COPY_AGAIN}")
    if status.st_size > _MAX_FILE_BYTES and found.path.suffix.lower() != ARCHIVE_SUFFIX:
        raise UnreadableImageError(
            f"the file has {status.st_size} bytes, more than the {_MAX_FILE_BYTES} allowed; compress it"
        )
