"""TIFF directories and EXIF orientations, from bytes that may be damaged or hostile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PIL.ExifTags import Base


@dataclass(frozen=True, slots=True, kw_only=True)
class TiffEntry:
    """One entry of a TIFF directory; `values` is empty unless they are one to eight integers inside the file."""

    tag: int
    raw: bytes
    values: tuple[int, ...]
    is_complete: bool


MAX_PAGES = 64
_VALUE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_INTEGER_TYPES = (1, 3, 4)


def find_tiff_directories(data: bytes) -> list[int]:
    """Where the directories of a TIFF file begin, one for each page, up to MAX_PAGES and never the same twice."""
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    starts: list[int] = []
    following = int.from_bytes(data[4:8], order)
    while following and following + 2 <= len(data) and following not in starts and len(starts) < MAX_PAGES:
        starts.append(following)
        end = following + 2 + 12 * int.from_bytes(data[following : following + 2], order)
        following = int.from_bytes(data[end : end + 4], order)
    return starts


def read_tiff_directory(data: bytes, directory: int | None = None) -> list[TiffEntry]:
    """The entries of a directory of a TIFF file or EXIF block, the first if None, as far as the bytes reach."""
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"

    def integer(start: int, size: int) -> int:
        return int.from_bytes(data[start : start + size], order)

    entries = []
    directory = integer(4, 4) if directory is None else directory
    for start in range(directory + 2, directory + 2 + 12 * integer(directory, 2), 12):
        if start + 12 > len(data):
            break
        size = _VALUE_SIZES.get(integer(start + 2, 2), 0)
        count = integer(start + 4, 4)
        first = integer(start + 8, 4) if size * count > 4 else start + 8
        is_complete = first + size * count <= len(data)
        values: tuple[int, ...] = ()
        if is_complete and count <= 8 and integer(start + 2, 2) in _INTEGER_TYPES:  # longer lists are not needed
            values = tuple(integer(first + index * size, size) for index in range(count))
        tag = integer(start, 2)
        entries.append(TiffEntry(tag=tag, raw=data[start : start + 12], values=values, is_complete=is_complete))
    return entries


def find_orientation(exif: bytes) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) where the block is damaged or has none."""
    block = exif.removeprefix(b"Exif\0\0")
    for entry in read_tiff_directory(block) if block.startswith((b"II*\0", b"MM\0*")) else []:
        if entry.tag == Base.Orientation and entry.values:
            return entry.values[0]
    return 1
