"""Photographs in files, folders, zip archives and multi-frame DICOM files, here or at URLs: found, and opened."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NoReturn

from fundusgrade.errors import FundusgradeError, UnreadableImageError
from fundusgrade.photographs import remote
from fundusgrade.photographs.archives import ARCHIVE_SUFFIX, Member, find_members, read_member
from fundusgrade.photographs.dicom import DICOM_SUFFIXES, count_frames, is_dicom
from fundusgrade.photographs.formats import HEAD_BYTES, HIDDEN, is_photograph, kind_of_file
from fundusgrade.photographs.pixels import COPY_AGAIN
from fundusgrade.text import error_text, type_name

IMAGE_SUFFIXES: frozenset[str] = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".png", ".tif", ".tiff", ".bmp", ".dib", ".webp", ".gif"),
        *(".jp2", ".j2k", ".j2c", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif", ".avif"),
    }
)
"""Suffixes of image files, in lower case; a file of another name is one too if it begins as an image."""
PHOTOGRAPH_SUFFIXES: frozenset[str] = IMAGE_SUFFIXES | DICOM_SUFFIXES
"""Suffixes of all files that hold a photograph, or several as frames."""
_HIDDEN_FOLDER, _LINK_TO_FOLDER = "hidden folder", "link to a folder"
Place = str | os.PathLike[str]
"""The path or URL of a file, a folder or an archive."""
REMOTE_THREADS = 16
"""Files at URLs that are read at the same time: a storage answers slowly, but many at once."""
_MAX_FILE_BYTES = 2 * 1024**3  # 200 million pixels of four 16-bit channels are 1.6 GB


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotographSource:
    """Where a photograph is stored: a file, a `member` of a zip archive, or one `frame` of a DICOM file, from 1.

    `path` is the file. `name` identifies the photograph for people: the path as it was given or found below a folder,
    in POSIX style, such as `left/eye.jpg`, `eyes.zip/left/eye.jpg` or `scan.dcm#2`; names of archive members may
    be anything, so that only `path` and `member` say where the bytes are. `problem` is the reason why the photograph
    cannot be read, else None. Of a file at a `url` the path gives only the name.
    """

    path: Path
    name: str
    member: Member | None = None
    frame: int | None = None
    problem: str | None = None
    url: str | None = None

    @classmethod
    def of(cls, photograph: Place | PhotographSource) -> PhotographSource:
        """The source of a photograph given by path or URL, after which it is named; a source is returned unchanged."""
        if isinstance(photograph, PhotographSource):
            return photograph
        url = remote.url_of(photograph)
        return cls(path=Path(photograph), name=Path(photograph).as_posix() if url is None else url, url=url)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPhotographs:
    """Photographs, and how many other files there are in the folders and archives that were searched, by kind."""

    photographs: tuple[PhotographSource, ...]
    num_skipped: Counter[str]


def find_images(arguments: Place | Iterable[Place]) -> list[PhotographSource]:
    """Photographs named by files, folders and zip archives, in the order given and sorted inside of each.

    As `find_files`, but archives are listed, and a DICOM file of several frames gives one photograph for each.
    Raises TypeError for what is neither a path nor several.
    """
    given = [arguments] if isinstance(arguments, str | os.PathLike) else arguments
    if isinstance(given, bytes) or not isinstance(given, Iterable):
        raise TypeError(f"find_images takes a path (str or Path) or several; this is of type {type_name(given)}")
    return list(search_images([_path(place) for place in given]).photographs)


def _path(place: object) -> Place:
    if isinstance(place, str | os.PathLike):
        return place
    raise TypeError(f"find_images takes paths (str or Path); one of these is of type {type_name(place)}")


def search_images(arguments: Sequence[Place]) -> FoundPhotographs:
    """As `find_images`, with a count of what is no photograph."""
    found = search_files(arguments, archives=True)
    num_skipped = found.num_skipped.copy()
    photographs = [each for file in found.photographs for each in _photographs_in(file, num_skipped)]
    return FoundPhotographs(photographs=tuple(photographs), num_skipped=num_skipped)


def find_files(arguments: Sequence[Path]) -> list[PhotographSource]:
    """Files of photographs named by files and folders, in the order given and sorted inside each folder.

    A file that is named is returned whatever its suffix and even when missing, so that it is reported as unreadable.
    Folders are searched recursively for names with a suffix of photographs and for files that begin as one; hidden
    names and links to folders are skipped. Raises FundusgradeError when a folder cannot be listed.
    """
    return list(search_files(arguments).photographs)


def search_files(arguments: Sequence[Place], *, archives: bool = False) -> FoundPhotographs:
    """As `find_files`, with a count of what is no photograph; with `archives` these are listed like photographs."""
    suffixes = PHOTOGRAPH_SUFFIXES | ({ARCHIVE_SUFFIX} if archives else set())
    found: dict[str, PhotographSource] = {}
    num_skipped: Counter[str] = Counter()
    real_folder = functools.cache(os.path.realpath)  # once a folder: each call asks the system about all above it
    reachable: set[str] = set()
    for argument in arguments:
        if (url := remote.url_of(argument)) is not None:
            found |= {each: PhotographSource.of(each) for each in _walk_remote(url, suffixes, num_skipped, reachable)}
            continue
        for path in _walk(Path(argument), suffixes, num_skipped) if is_folder(Path(argument)) else [Path(argument)]:
            # A link to a file is not resolved: some stores of data keep equal photographs as links to one file.
            key = os.path.join(real_folder(path.parent), path.name)  # noqa: PTH118 (Path.resolve fails on loops)
            found.setdefault(key, PhotographSource.of(path))
    return FoundPhotographs(photographs=tuple(found.values()), num_skipped=num_skipped)


def is_folder(path: Path) -> bool:
    """Whether a path is a folder; False for one that cannot be reached."""
    return os.path.isdir(path)  # noqa: PTH112 (Path.is_dir raises on overlong names and forbidden parents)


def _walk(folder: Path, suffixes: frozenset[str], num_skipped: Counter[str]) -> list[Path]:
    """The photographs below a folder, sorted; what else there is, is counted by kind in `num_skipped`."""

    def refuse(error: OSError) -> NoReturn:
        raise FundusgradeError(f"cannot list the folder {error.filename}: {error_text(error)}; check its permissions")

    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        num_skipped.update(_HIDDEN_FOLDER for name in folders if name.startswith("."))
        folders[:] = [name for name in folders if not name.startswith(".")]
        num_skipped.update(_LINK_TO_FOLDER for name in folders if os.path.islink(os.path.join(parent, name)))  # noqa: PTH114, PTH118
        for name in names:
            path = Path(parent, name)
            kind = HIDDEN if name.startswith(".") else _kind_to_skip(path, suffixes)
            if kind is None:
                found.append(path)
            else:
                num_skipped[kind] += 1
    return sorted(found, key=Path.as_posix)


def _walk_remote(url: str, suffixes: frozenset[str], num_skipped: Counter[str], reachable: set[str]) -> list[str]:
    """The photographs at a URL, as `_walk`. One whose name is that of a photograph is not looked for: a list is long.

    `reachable` are the beginnings of URLs whose storage is known to answer.
    """
    if PurePosixPath(url).suffix.lower() in suffixes:
        bucket = "/".join(url.split("/")[:3])
        if bucket not in reachable:
            remote.check_reachable(url)
            reachable.add(bucket)
        return [url]
    files = remote.list_files(url)
    if files == [url]:
        return files
    shown = [each for each in files if not _is_hidden(each.removeprefix(url))]
    num_skipped[HIDDEN] += len(files) - len(shown)
    with ThreadPoolExecutor(REMOTE_THREADS) as pool:
        kinds = list(pool.map(lambda each: _kind_to_skip(each, suffixes), shown))
    num_skipped.update(kind for kind in kinds if kind is not None)
    return [each for each, kind in zip(shown, kinds, strict=True) if kind is None]


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _kind_to_skip(file: Path | str, suffixes: frozenset[str]) -> str | None:
    """The kind of a file or URL that is no photograph, by suffix or else by content; None for a photograph."""
    path = PurePosixPath(file) if isinstance(file, str) else file
    if path.suffix.lower() in suffixes or is_photograph(path.name, _read_head(file)):
        return None
    return kind_of_file(path.name)


def _read_head(path: Path | str) -> bytes:
    """The first bytes of a regular file, or of one at a URL; b"" where they cannot be read."""
    if isinstance(path, str):
        with contextlib.suppress(Exception):  # each storage raises its own; the file is counted as none of ours
            return remote.read_file(path, first_bytes=HEAD_BYTES)
        return b""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe might never end
            return b""
        with path.open("rb", buffering=0) as file:
            return file.read(HEAD_BYTES)
    except (OSError, ValueError):
        return b""


def _photographs_in(photograph: PhotographSource, num_skipped: Counter[str]) -> list[PhotographSource]:
    """The photographs in a file: itself, unless it is an archive or has several DICOM frames. Only those are opened.

    What an archive holds besides is counted by kind in `num_skipped`.
    """
    suffix = photograph.path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return [photograph]
    if suffix != ARCHIVE_SUFFIX:  # a file that is named may be DICOM whatever its suffix
        return _frames_of(photograph)
    try:
        with open_photograph_file(photograph) as file:
            listing = find_members(file, PHOTOGRAPH_SUFFIXES)
    except UnreadableImageError as error:
        return [replace(photograph, problem=str(error))]
    num_skipped.update(listing.num_skipped)
    inside = [
        replace(photograph, name=f"{photograph.name}/{member.name}", member=member, problem=member.problem)
        for member in listing.members
    ]
    return [frame for source in inside for frame in (_frames_of(source) if _may_have_frames(source) else [source])]


def _may_have_frames(photograph: PhotographSource) -> bool:
    return photograph.problem is None and Path(photograph.name).suffix.lower() not in IMAGE_SUFFIXES


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
    if photograph.url is not None:
        with _open_remote(photograph.url, photograph.member) as file:
            yield file
        return
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


@contextlib.contextmanager
def _open_remote(url: str, member: Member | None) -> Iterator[BinaryIO]:
    """As `open_photograph_file`, a file at a URL: read whole, but for an archive, of which parts are read."""
    try:
        is_archive = PurePosixPath(url).suffix.lower() == ARCHIVE_SUFFIX
        _check_size(remote.size_of(url), is_archive=is_archive)
        file = remote.open_file(url) if is_archive else io.BytesIO(remote.read_file(url))
    except UnreadableImageError:
        raise
    except Exception as error:  # each storage raises its own
        raise UnreadableImageError(f"the file cannot be read: {remote.reason_in_words(url, error)}") from error
    with file:
        yield file if member is None else io.BytesIO(read_member(file, member))


def _check_file(photograph: PhotographSource) -> None:
    status = photograph.path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise UnreadableImageError("this is a folder and not a file; name the photographs in it")
    if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device might never end
        raise UnreadableImageError("this is not a regular file; give an image file")
    _check_size(status.st_size, is_archive=photograph.path.suffix.lower() == ARCHIVE_SUFFIX)


def _check_size(num_bytes: int, *, is_archive: bool) -> None:
    if num_bytes == 0:
        raise UnreadableImageError(f"the file is empty (0 bytes); {COPY_AGAIN}")
    if num_bytes > _MAX_FILE_BYTES and not is_archive:
        raise UnreadableImageError(
            f"the file has {num_bytes} bytes, more than the {_MAX_FILE_BYTES} allowed; compress it"
        )
