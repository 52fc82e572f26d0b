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
"""Suffixes of image files, in lower case."""
PHOTOGRAPH_SUFFIXES: frozenset[str] = IMAGE_SUFFIXES | DICOM_SUFFIXES
"""Suffixes of all files that hold a photograph, or several as frames."""
_MAX_FILE_BYTES = 2 * 1024**3  # 200 million pixels of four 16-bit channels are 1.6 GB


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotographSource:
    """Where a photograph is stored: a file, a `member` of a zip archive, or one `frame` of a DICOM file, from 1.

    `path` is the file. `name` identifies the photograph for people: the path as it was given or found below a folder,
    in POSIX style, such as `left/eye.jpg`, `eyes.zip/left/eye.jpg` or `scan.dcm#2`; names of archive members may
    be anything, so that only `path` and `member` say where the bytes are. `problem` is the reason why the photograph
    cannot be read, else None.
    """

    path: Path
    name: str
    member: Member | None = None
    frame: int | None = None
    problem: str | None = None

    @classmethod
    def of(cls, photograph: Path | PhotographSource) -> PhotographSource:
        """The source of a photograph given by its path, after which it is named; a source is returned unchanged."""
        return (
            photograph if isinstance(photograph, PhotographSource) else cls(path=photograph, name=photograph.as_posix())
        )


def find_images(arguments: Sequence[Path]) -> list[PhotographSource]:
    """Photographs named by files, folders and zip archives, in the order given and sorted inside of each.

    As `find_files`, but archives are listed, and a DICOM file of several frames gives one photograph for each.
    """
    return [photograph for file in find_files(arguments, archives=True) for photograph in _photographs_in(file)]


def find_files(arguments: Sequence[Path], *, archives: bool = False) -> list[PhotographSource]:
    """Files of photographs named by files and folders, in the order given and sorted inside each folder.

    A file that is named is returned whatever its suffix and even when missing, so that it is reported as unreadable.
    Folders are searched recursively; hidden names and links to folders are skipped. Raises FundusgradeError when
    a folder cannot be listed.
    """
    suffixes = PHOTOGRAPH_SUFFIXES | ({ARCHIVE_SUFFIX} if archives else set())
    found: dict[str, PhotographSource] = {}
    for argument in arguments:
        for path in _walk(argument, suffixes) if is_folder(argument) else [argument]:
            # A link to a file is not resolved: some stores of data keep equal photographs as links to one file.
            key = os.path.join(os.path.realpath(path.parent), path.name)  # noqa: PTH118 (Path.resolve fails on loops)
            found.setdefault(key, PhotographSource.of(path))
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


def _photographs_in(photograph: PhotographSource) -> list[PhotographSource]:
    """The photographs in a file: itself, unless it is an archive or has several DICOM frames. Only those are opened."""
    suffix = photograph.path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return [photograph]
    if suffix != ARCHIVE_SUFFIX:  # a file that is named may be DICOM whatever its suffix
        return _frames_of(photograph)
    try:
        with open_photograph_file(photograph) as file:
            members = find_members(file, PHOTOGRAPH_SUFFIXES)
    except UnreadableImageError as error:
        return [replace(photograph, problem=str(error))]
    inside = [
        replace(photograph, name=f"{photograph.name}/{member.name}", member=member, problem=member.problem)
        for member in members
    ]
    return [frame for source in inside for frame in (_frames_of(source) if _may_have_frames(source) else [source])]


def _may_have_frames(photograph: PhotographSource) -> bool:
    return photograph.problem is None and Path(photograph.name).suffix.lower() in DICOM_SUFFIXES


def _frames_of(photograph: PhotographSource) -> list[PhotographSource]:
    try:
        with open_photograph_file(photograph) as file:
            num_frames = count_frames(file) if is_dicom(file) else 1
    except UnreadableImageError:  # raised and reported again when the photograph is read
        return [photograph]
    if num_frames == 1:
        return [photograph]
    return [replace(photograph, name=f"{photograph.name}#{frame}", frame=frame) for frame in range(1, num_frames + 1)]


@contextlib.contextmanager
def open_photograph_file(photograph: PhotographSource) -> Iterator[BinaryIO]:
    """Open a photograph to read its bytes, from its file or its archive.

    Raises UnreadableImageError where it has a problem, is no regular file, is empty or too large, or cannot be read.
    """
    if photograph.problem is not None:
        raise UnreadableImageError(photograph.problem)
    try:
        _check_file(photograph)
        with photograph.path.open("rb") as file:
            yield file if photograph.member is None else io.BytesIO(read_member(file, photograph.member))
    except FileNotFoundError as error:
        raise UnreadableImageError("the file does not exist; check its name and folder") from error
    except PermissionError as error:
        raise UnreadableImageError("permission denied; allow this user to read the file") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise UnreadableImageError(f"the file cannot be read: {error_text(error)}; check its path and disk") from error


def _check_file(photograph: PhotographSource) -> None:
    status = photograph.path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise UnreadableImageError("this is a folder and not a file; name the photographs in it")
    if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device might never end
        raise UnreadableImageError("this is not a regular file; give an image file")
    if status.st_size == 0:
        raise UnreadableImageError(f"the file is empty (0 bytes); {COPY_AGAIN}")
    if status.st_size > _MAX_FILE_BYTES and photograph.path.suffix.lower() != ARCHIVE_SUFFIX:
        raise UnreadableImageError(
            f"the file has {status.st_size} bytes, more than the {_MAX_FILE_BYTES} allowed; compress it"
        )
