"""The header of a DICOM file, read element by element: how the pixels are stored, which eye, which camera.

A DICOM file is full of what identifies a patient, so none of it is ever held: only elements in `_WANTED` are looked at,
and no reason quotes a value but the size of the picture. The header is not read by pydicom: it keeps all nested
sequences in memory, inflates without a limit, and warns with values in the text, which cannot be silenced for one
thread alone.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import BinaryIO

from fundusgrade.errors import UnreadableImageError
from fundusgrade.photographs.pixels import COPY_AGAIN

MAX_FRAMES = 10_000
MAX_INFLATED_BYTES = 512 * 1024**2
_MAX_ELEMENTS = 100_000
_MAX_DEPTH = 64
_MAX_VALUE_BYTES = 256 * 1024  # a palette of 65,536 entries has half of that

IMPLICIT, EXPLICIT, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"
JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
RLE = "1.2.840.10008.1.2.5"
_READABLE = frozenset({IMPLICIT, EXPLICIT, DEFLATED, *JPEG, *JPEG_2000, RLE})


class Tag(IntEnum):
    """The elements that are looked at: group and number."""

    TRANSFER_SYNTAX = 0x00020010
    MANUFACTURER = 0x00080070
    MODEL = 0x00081090
    LATERALITY = 0x00200060
    IMAGE_LATERALITY = 0x00200062
    SAMPLES = 0x00280002
    PHOTOMETRIC = 0x00280004
    PLANAR = 0x00280006
    NUM_FRAMES = 0x00280008
    ROWS = 0x00280010
    COLUMNS = 0x00280011
    BITS_ALLOCATED = 0x00280100
    BITS_STORED = 0x00280101
    HIGH_BIT = 0x00280102
    SIGNED = 0x00280103
    PIXEL_DATA = 0x7FE00010
    ITEM = 0xFFFEE000
    ITEM_END = 0xFFFEE00D
    SEQUENCE_END = 0xFFFEE0DD


PALETTE_SIZES = (0x00281101, 0x00281102, 0x00281103)
PALETTES = (0x00281201, 0x00281202, 0x00281203)
UNDEFINED = 0xFFFFFFFF
_STRUCTURE = {Tag.TRANSFER_SYNTAX, Tag.PIXEL_DATA, Tag.ITEM, Tag.ITEM_END, Tag.SEQUENCE_END}
_WANTED = frozenset({*Tag, *PALETTE_SIZES, *PALETTES} - _STRUCTURE)
_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What is kept of a header, and where the pixels are; `num_bytes` is None where they are in fragments."""

    syntax: str
    values: dict[int, bytes]
    start: int
    num_bytes: int | None

    def number(self, tag: int, default: int | None = None) -> int:
        value = self.values.get(tag, b"")
        if len(value) >= 2:
            return int.from_bytes(value[:2], "little")
        if default is None:
            raise damaged("its header does not say how the pixels are stored")
        return default

    def word(self, tag: int) -> str:
        return self.values.get(tag, b"").decode("ascii", "replace").strip(" \0")

    @property
    def num_frames(self) -> int:
        text = self.word(Tag.NUM_FRAMES) or "1"
        num_frames = int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else 0
        if num_frames < 1:
            raise damaged("its header does not say how many pictures it holds")
        if num_frames > MAX_FRAMES:
            raise UnreadableImageError(f"this DICOM file claims more than the {MAX_FRAMES} pictures allowed")
        return num_frames


def find_data_set(file: BinaryIO) -> tuple[BinaryIO, str]:
    """A file that stands where the data set begins, inflated if need be, and its transfer syntax."""
    file.seek(132)
    meta = _read_elements(file, explicit=True, wanted=frozenset({Tag.TRANSFER_SYNTAX}), end=0x00030000)
    syntax = meta.get(Tag.TRANSFER_SYNTAX, b"").decode("ascii", "replace").strip(" \0")
    if not syntax:
        raise damaged("it does not say how its pixels are stored")
    if syntax not in _READABLE:
        raise UnreadableImageError(
            f"DICOM stored as {_syntax_name(syntax)} is not supported; store it uncompressed, such as by "
            "`gdcmconv --raw FILE NEW_FILE`"
        )
    return (_inflate(file), syntax) if syntax == DEFLATED else (file, syntax)


def read_header(file: BinaryIO, syntax: str) -> Header:
    """Read a data set up to its pixels. Raises UnreadableImageError where it has none."""
    explicit = syntax != IMPLICIT
    values = _read_elements(file, explicit=explicit, wanted=_WANTED, end=Tag.PIXEL_DATA)
    element = next_element(file, explicit=explicit)
    if element is None or element.tag != Tag.PIXEL_DATA or element.length == 0:
        raise UnreadableImageError(
            "this DICOM file holds no picture, but a report, a document or a bare header; give a photograph"
        )
    num_bytes = None if element.length == UNDEFINED else element.length
    return Header(syntax=syntax, values=values, start=file.tell(), num_bytes=num_bytes)


def laterality(header: Header) -> str:
    words = (header.word(Tag.IMAGE_LATERALITY), header.word(Tag.LATERALITY))
    return next((word for word in words if word in ("R", "L", "B")), "")


def camera(header: Header) -> str:
    return " ".join(filter(None, (_label(header.values.get(tag, b"")) for tag in (Tag.MANUFACTURER, Tag.MODEL))))


def _label(value: bytes) -> str:
    """A value of the kind LO as one line; "" where it is none, as when damage made it swallow what follows it."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = value.decode("latin-1")
    label = " ".join(text.strip(" \0").split())
    return label if len(label) <= 64 and label.isprintable() and "\\" not in label else ""


def _syntax_name(syntax: str) -> str:
    """The name of a transfer syntax that the standard knows; others are not even quoted."""
    try:
        from pydicom.config import IGNORE
        from pydicom.uid import UID
    except ImportError:
        return "an unknown transfer syntax"
    uid = UID(syntax, validation_mode=IGNORE)  # else it warns of odd ones
    return uid.name if uid.type == "Transfer Syntax" else "an unknown or private transfer syntax"


def _inflate(file: BinaryIO) -> BinaryIO:
    inflating = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = inflating.decompress(file.read(), MAX_INFLATED_BYTES + 1)
    except zlib.error:
        raise damaged("its compressed content is broken") from None
    if len(content) > MAX_INFLATED_BYTES:
        raise UnreadableImageError(
            f"the DICOM file inflates to more than the {MAX_INFLATED_BYTES} bytes allowed; store it uncompressed"
        )
    if not inflating.eof:
        raise damaged("its compressed content ends too early")
    return io.BytesIO(content)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Element:
    """The beginning of a data element; the file stands at its value. `vr` is empty where it is implicit."""

    tag: int
    vr: bytes
    length: int


def next_element(file: BinaryIO, *, explicit: bool) -> _Element | None:
    """The next element, or None where the file is over."""
    if file.tell() == _size_of(file):
        return None
    head = read_exactly(file, 8)
    group, number, length = struct.unpack("<HHL", head)
    tag = group << 16 | number
    if not explicit or group == 0xFFFE:
        return _Element(tag=tag, vr=b"", length=length)
    vr = head[4:6]
    if vr in _LONG_VRS:
        return _Element(tag=tag, vr=vr, length=int.from_bytes(read_exactly(file, 4), "little"))
    if vr not in _SHORT_VRS:
        raise damaged("its header cannot be followed")
    return _Element(tag=tag, vr=vr, length=length >> 16)


def _read_elements(file: BinaryIO, *, explicit: bool, wanted: frozenset[int], end: int) -> dict[int, bytes]:
    """Values of the wanted elements, not those inside of sequences; the file then stands at the first from `end` on."""
    values: dict[int, bytes] = {}
    # How elements are written: in the data set, and in each open sequence and item that does not say its length.
    forms = [explicit]
    for _ in range(_MAX_ELEMENTS):
        start = file.tell()
        # Looked at first: what follows the file's own elements may be written otherwise, or deflated.
        group, number = struct.unpack("<HH", file.read(4).ljust(4, b"\xff"))
        file.seek(start)
        if len(forms) == 1 and (group << 16 | number) >= end:
            return values
        element = next_element(file, explicit=forms[-1])
        if element is None:
            raise truncated()
        if element.tag in (Tag.ITEM_END, Tag.SEQUENCE_END):
            forms.pop()
        elif element.length == UNDEFINED:
            forms.append(forms[-1] and element.vr != b"UN")  # what is of unknown kind is written implicitly
        elif len(forms) == 1 and element.tag in wanted and element.length <= _MAX_VALUE_BYTES:
            values[element.tag] = read_exactly(file, element.length)
        else:
            file.seek(element.length, io.SEEK_CUR)
        if not 1 <= len(forms) <= _MAX_DEPTH:
            raise damaged("its header cannot be followed")
    raise damaged("its header has no end")


def _size_of(file: BinaryIO) -> int:
    position = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(position)
    return size


def read_exactly(file: BinaryIO, num_bytes: int) -> bytes:
    # Asked for first: whoever reads a claimed length gets that much memory, whatever is there.
    if file.tell() + num_bytes > _size_of(file):
        raise truncated()
    return file.read(num_bytes)


def damaged(what: str) -> UnreadableImageError:
    return UnreadableImageError(f"damaged DICOM: {what}; {COPY_AGAIN}")


def truncated() -> UnreadableImageError:
    return UnreadableImageError(f"truncated DICOM: the file ends too early; {COPY_AGAIN}")
