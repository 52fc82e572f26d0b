"""The format of a file from its first bytes, whatever it is called."""

from __future__ import annotations

import re
import struct
from enum import StrEnum
from pathlib import PurePath

HIDDEN = "hidden"
"""The kind of files whose names begin with a point."""
_DICOM_DIRECTORY = "DICOMDIR"
HEAD_BYTES = 512
"""How much of the beginning of a file is needed to recognize it."""


class PictureFormat(StrEnum):
    """Formats that are read, by the names that people know."""

    JPEG = "JPEG"
    PNG = "PNG"
    TIFF = "TIFF"
    BMP = "BMP"
    WEBP = "WebP"
    GIF = "GIF"
    JPEG_2000 = "JPEG 2000"
    NETPBM = "PPM"
    HEIC = "HEIC"
    AVIF = "AVIF"
    DICOM = "DICOM"


_STARTS = {
    b"\xff\xd8\xff": PictureFormat.JPEG,
    b"\x89PNG\r\n\x1a\n": PictureFormat.PNG,
    b"II*\0": PictureFormat.TIFF,
    b"MM\0*": PictureFormat.TIFF,
    b"GIF87a": PictureFormat.GIF,
    b"GIF89a": PictureFormat.GIF,
    b"\0\0\0\x0cjP  \r\n\x87\n": PictureFormat.JPEG_2000,
    b"\xff\x4f\xff\x51": PictureFormat.JPEG_2000,
}
# Pictures that are not read, and other files that people mistake for photographs.
_UNREADABLE_PICTURES = {
    b"II+\0": "BigTIFF",
    b"MM\0+": "BigTIFF",
    b"II\xbc\x01": "JPEG XR",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"8BPS": "Photoshop",
    b"IIRO": "camera raw (Olympus)",
    b"IIU\0": "camera raw (Panasonic)",
    b"FUJIFILMCCD-RAW": "camera raw (Fujifilm)",
    b"v/1\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"qoif": "QOI",
    b"gimp xcf": "GIMP",
}
_OTHER_FILES = {
    b"%PDF": "PDF",
    b"PK\x03\x04": "ZIP",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "RAR",
    b"\x1f\x8b": "gzip",
    b"CMDb": "Heidelberg OCT",
    b"FOCT": "Topcon OCT",
}
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_BMP_HEADER_BYTES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
# Magic number, width, height and largest value, between them spaces and remarks, and then values: a list of patients
# may begin with "P1" too.
_GAP, _NUMBER = rb"(?:\s|#[^\n]*\n)+", rb"\d{2,6}"
_SIZE = _GAP + _NUMBER + _GAP + _NUMBER
_NETPBM = re.compile(
    rb"P(?:1" + _SIZE + rb"\s[01\s]{9}|[23]" + _SIZE + _GAP + rb"\d{1,5}\s[\d\s]{9}"
    rb"|4" + _SIZE + rb"\s|[56]" + _SIZE + _GAP + rb"\d{1,5}\s)"
)
_OTHER_NETPBM = re.compile(rb"P7\n(?:WIDTH|HEIGHT|#)|P[Ff]\s\d{2,6}\s\d{2,6}\s")

_VALUE_REPRESENTATIONS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OW PN SH SL SQ SS ST TM UC UI UL UN UR US UT".split()
)
_LONG_LENGTHS = frozenset(b"OB OD OF OW SQ UC UN UR UT".split())
_IDENTIFYING_GROUP = 0x0008
_MAX_FIRST_VALUE_BYTES = 256


def recognize_picture(head: bytes) -> PictureFormat | None:
    """The format of a picture that can be read, from the first HEAD_BYTES of its file; None for any other file."""
    for start, found in _STARTS.items():
        if head.startswith(start):
            return found
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES:
        return PictureFormat.BMP
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return PictureFormat.WEBP
    if _NETPBM.match(head):
        return PictureFormat.NETPBM
    if head[4:8] == b"ftyp":
        return _recognize_brands(head)
    return PictureFormat.DICOM if find_dicom_start(head) is not None else None


def name_unreadable_picture(head: bytes) -> str | None:
    """The format of a picture that cannot be read, from the first bytes of its file; None for any other file."""
    if head[4:11] == b"ftypcrx":
        return "camera raw (Canon)"
    if _OTHER_NETPBM.match(head):
        return "PAM or PFM"
    return next((name for start, name in _UNREADABLE_PICTURES.items() if head.startswith(start)), None)


def name_other_file(head: bytes) -> str | None:
    """The kind of a file that is no picture, from its first bytes; None where it is not known."""
    if head[4:8] == b"ftyp":
        return "video"
    return next((name for start, name in _OTHER_FILES.items() if head.startswith(start)), None)


def is_photograph(name: str, head: bytes) -> bool:
    """Whether a file is a picture, one that can be read or not, from its first bytes; a DICOMDIR is none."""
    is_picture = recognize_picture(head) is not None or name_unreadable_picture(head) is not None
    return is_picture and name.upper() != _DICOM_DIRECTORY


def kind_of_file(name: str) -> str:
    """The kind of a file that is no picture: its suffix, where its name has one."""
    suffix = PurePath(name).suffix.lower()
    is_word = re.fullmatch(r"\.(?=.*[a-z])[a-z0-9_]{1,10}", suffix) is not None  # names of DICOM files end in numbers
    return suffix if is_word else "DICOMDIR" if name.upper() == _DICOM_DIRECTORY else "without suffix"


def find_dicom_start(head: bytes) -> int | None:
    """Where the elements of a DICOM file begin: after preamble and mark, after the mark, or at 0 without both.

    None where the bytes are of no DICOM file. Without preamble they are taken for one if two elements follow one
    another as the standard orders them.
    """
    if head[128:132] == b"DICM":
        return 132
    if head.startswith(b"DICM\2\0"):
        return 4
    if head.startswith(b"\2\0") and head[4:6] in (b"UL", b"OB", b"UI"):
        return 0
    return 0 if has_elements(head, is_implicit=False) or has_elements(head, is_implicit=True) else None


def has_elements(head: bytes, *, is_implicit: bool) -> bool:
    """Whether bytes begin with two elements of a DICOM data set, of the group 0008 that comes first."""
    first = _read_element(head, 0, is_implicit=is_implicit)
    if first is None or first[0] != _IDENTIFYING_GROUP or first[1] > 0x0020:
        return False
    second = _read_element(head, first[2], is_implicit=is_implicit)
    return second is not None and second[0] == _IDENTIFYING_GROUP and second[1] > first[1]


def _read_element(head: bytes, start: int, *, is_implicit: bool) -> tuple[int, int, int] | None:
    """Group, number and end of an element with a short value; None where the bytes are none."""
    if len(head) < start + 12:
        return None
    group, number, length = struct.unpack_from("<HHL", head, start)
    if not is_implicit:
        representation = head[start + 4 : start + 6]
        if representation not in _VALUE_REPRESENTATIONS or representation in _LONG_LENGTHS:
            return None
        (length,) = struct.unpack_from("<H", head, start + 6)
    end = start + 8 + length
    return (group, number, end) if length <= _MAX_FIRST_VALUE_BYTES else None


def _recognize_brands(head: bytes) -> PictureFormat | None:
    """HEIC or AVIF, by the brands of the file's first box; None for a video."""
    length = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[start : start + 4] for start in range(16, length - 3, 4))]
    if _AVIF_BRANDS & {*brands}:
        return PictureFormat.AVIF
    return PictureFormat.HEIC if brands[0] in _HEIC_BRANDS else None
