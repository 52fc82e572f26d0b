"""Zip archives of photographs: their members, and the bytes of one member; nothing is ever unpacked to disk.

The directory of an archive is read once, and each member then by itself from where it begins: no file handle stays open
or is shared between threads, and the directory is not read again for each member.
"""

from __future__ import annotations

import re
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import BinaryIO

from fundusgrade.errors import UnreadableImageError
from fundusgrade.photographs.formats import HEAD_BYTES, HIDDEN, is_photograph, kind_of_file
from fundusgrade.photographs.pixels import COPY_AGAIN

ARCHIVE_SUFFIX = ".zip"
MAX_MEMBER_BYTES = 512 * 1024**2  # several are unpacked at once, in memory
_MAX_NAME_BYTES, _MAX_PART_BYTES = 1024, 200  # figures and rows are named after a member, with a few letters more


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A photograph in an archive: its name, where its bytes are, and with `problem` the reason why it is not read."""

    name: str
    offset: int
    num_packed_bytes: int
    num_bytes: int
    crc: int
    is_deflated: bool
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The photographs in an archive, sorted by name, and how many other files it holds by kind (`kind_of_file`)."""

    members: tuple[Member, ...]
    num_skipped: Counter[str]


def find_members(file: BinaryIO, suffixes: Set[str]) -> Listing:
    """List members whose names have one of these suffixes, or whose content is a picture; hidden ones are skipped.

    A member whose name is not unique or leaves the archive's folder, or that cannot be read, has a `problem`. Raises
    UnreadableImageError where the archive is damaged.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    except Exception:  # BadZipFile, struct.error, NotImplementedError, ...: hostile bytes lead to any
        raise UnreadableImageError(f"damaged zip archive: its list of files cannot be read; {COPY_AGAIN}") from None
    num_skipped: Counter[str] = Counter()
    found = []
    for entry in entries:
        kind = _kind_to_skip(file, entry, suffixes)
        if kind is None:
            found.append(_member(entry))
        else:
            num_skipped[kind] += 1
    return Listing(members=tuple(_unique(_check_overlaps(found))), num_skipped=num_skipped)


def _unique(members: list[Member]) -> list[Member]:
    """The members sorted by name, each name once, with a problem where there are several of a name."""
    unique = {member.name: member for member in members}
    num_with_name = Counter(member.name for member in members)
    return [
        member if num_with_name[name] == 1 else replace(member, problem=_not_unique(num_with_name[name]))
        for name, member in sorted(unique.items())
    ]


def _check_overlaps(members: list[Member]) -> list[Member]:
    """The members, with a problem for those that begin inside of another: a few bytes could unpack to many files."""
    end, checked = 0, []
    for member in sorted(members, key=lambda member: member.offset):
        overlaps = member.offset < end
        end = max(end, member.offset + member.num_packed_bytes) if member.problem is None else end
        checked.append(replace(member, problem=_OVERLAPPING) if overlaps and member.problem is None else member)
    return checked


def read_member(file: BinaryIO, member: Member) -> bytes:
    """The bytes of a member. Raises UnreadableImageError where they do not match the archive's directory."""
    _seek_content(file, member)
    content = _unpack(file.read(member.num_packed_bytes), member)
    if len(content) != member.num_bytes or zlib.crc32(content) != member.crc:
        raise _damaged()
    return content


def _seek_content(file: BinaryIO, member: Member) -> None:
    """Set the position of the archive to the packed bytes of a member. Raises UnreadableImageError if it has none."""
    size = file.seek(0, 2)
    file.seek(member.offset)
    header = file.read(30)
    if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
        raise _damaged()
    start = file.seek(sum(struct.unpack("<HH", header[26:])), 1)
    if start + member.num_packed_bytes > size:
        raise _damaged()


def _read_head(file: BinaryIO, member: Member) -> bytes:
    """The first bytes of a member, b"" where they cannot be read."""
    if member.problem is not None:
        return b""
    try:
        _seek_content(file, member)
        return _unpack(file.read(min(member.num_packed_bytes, 2 * HEAD_BYTES)), member, HEAD_BYTES)
    except (UnreadableImageError, OSError):
        return b""


def _unpack(packed: bytes, member: Member, limit: int | None = None) -> bytes:
    # One byte more than stated, so that a member that is longer than stated is noticed.
    limit = limit or min(member.num_bytes, MAX_MEMBER_BYTES) + 1
    if not member.is_deflated:
        return packed[:limit]
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, limit)
    except zlib.error:
        raise _damaged() from None


def _kind_to_skip(file: BinaryIO, entry: zipfile.ZipInfo, suffixes: Set[str]) -> str | None:
    """The kind of a file that is no photograph; None for a photograph, and for an archive inside of this one."""
    path = PurePosixPath(entry.filename)
    if any(re.match(r"\.(?!\.)|__MACOSX$", part) for part in path.parts):
        return HIDDEN
    if path.suffix.lower() in {*suffixes, ARCHIVE_SUFFIX}:
        return None
    return None if is_photograph(path.name, _read_head(file, _member(entry))) else kind_of_file(path.name)


def _member(entry: zipfile.ZipInfo) -> Member:
    is_inside = _is_inside(entry)
    return Member(
        name=PurePosixPath(entry.filename).as_posix() if is_inside else entry.filename,
        offset=entry.header_offset,
        num_packed_bytes=entry.compress_size,
        num_bytes=entry.file_size,
        crc=entry.CRC,
        is_deflated=entry.compress_type == zipfile.ZIP_DEFLATED,
        problem=_problem(entry) if is_inside else _MISLEADING,
    )


def _is_inside(entry: zipfile.ZipInfo) -> bool:
    """Whether a member's name is a relative path that stays inside of the archive on every system."""
    name = entry.filename
    parts = name.split("/")
    return (
        entry.orig_filename == name
        and not name.startswith("/")
        and not re.search(r"^[A-Za-z]:|[\\\x00-\x1f\x7f]", name)
        and ".." not in parts
    )


_MISLEADING = (
    "its name in the archive is not a plain relative path (it is absolute, or has .., a backslash or control "
    "characters); pack it again under another name"
)


def _problem(entry: zipfile.ZipInfo) -> str | None:
    """Why a member cannot be read, from the archive's directory alone; None if it can."""
    if entry.filename.lower().endswith(ARCHIVE_SUFFIX):
        return "an archive inside of an archive is not opened; unpack the outer one"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "it is a symbolic link, which an archive cannot resolve; pack the photograph itself"
    if entry.flag_bits & 0x1:
        return "it is encrypted; unpack the archive with its password"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "it is compressed in a way that is not supported; pack it with the usual deflate method"
    if max(entry.file_size, entry.compress_size) > MAX_MEMBER_BYTES:
        return f"it has {entry.file_size} bytes, more than the {MAX_MEMBER_BYTES} allowed in archives; unpack it"
    encoded = [len(part.encode()) for part in entry.filename.split("/")]
    if max(encoded) > _MAX_PART_BYTES or sum(encoded) > _MAX_NAME_BYTES:
        return "its name is too long; pack it again under a shorter one"
    return None


_OVERLAPPING = "it overlaps with another file in the archive, as in a zip bomb; pack it again"


def _not_unique(num_members: int) -> str:
    return f"the archive holds {num_members} files of this name, which cannot be told apart; pack it again"


def _damaged() -> UnreadableImageError:
    return UnreadableImageError(f"damaged zip archive: this file does not match the list of files; {COPY_AGAIN}")
