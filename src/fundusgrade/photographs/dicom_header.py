"""The header of a DICOM file: how its pixels are stored, which eye it shows, and which camera took it.

pydicom reads the elements one by one, from a file that bounds how much and how often it reads. It is stopped before the
elements that it would not pass safely, and those are stepped over here. `pydicom.dcmread` is not used: it follows
sequences to any depth and holds all of their values, decodes the character set with warnings that quote it, and
inflates a deflated file without a limit; its warnings can be silenced only for all threads at once.

A DICOM file identifies the patient, so nothing is held but the elements in `_KEYWORDS`, and no error quotes any value
but the size of the image. Importing this module needs pydicom.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import BinaryIO, cast

from pydicom import uid
from pydicom.config import IGNORE
from pydicom.dataelem import RawDataElement
from pydicom.filereader import data_element_generator
from pydicom.tag import BaseTag, ItemTag, SequenceDelimiterTag, Tag

from fundusgrade.errors import UnreadableImageError
from fundusgrade.photographs.dicom_kinds import check_is_photograph
from fundusgrade.photographs.formats import HEAD_BYTES, find_dicom_start, has_elements
from fundusgrade.photographs.pixels import COPY_AGAIN

MAX_FRAMES = 10_000
MAX_INFLATED_BYTES = 512 * 1024**2
MAX_FILE_CALLS = 400_000  # 10,000 frames and their header need a tenth
_MAX_DEPTH = 64
_MAX_VALUE_BYTES = 256 * 1024  # a palette of 65,536 entries has half of that

JPEG_SYNTAXES = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit)
JPEG_2000_SYNTAXES = (uid.JPEG2000Lossless, uid.JPEG2000)
_PLAIN_SYNTAXES = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian)
_READABLE_SYNTAXES = frozenset({*_PLAIN_SYNTAXES, uid.RLELossless, *JPEG_SYNTAXES, *JPEG_2000_SYNTAXES})

PALETTE_COLORS = ("Red", "Green", "Blue")
_KEYWORDS = (
    *("SOPClassUID", "Modality"),
    *("Manufacturer", "ManufacturerModelName", "Laterality", "ImageLaterality", "NumberOfFrames", "Rows", "Columns"),
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "PixelRepresentation"),
    *("BitsAllocated", "BitsStored", "HighBit"),
    *(f"{color}PaletteColorLookupTable{part}" for color in PALETTE_COLORS for part in ("Descriptor", "Data")),
)
_CHARACTER_SET = Tag("SpecificCharacterSet")
_PIXEL_DATA = Tag("PixelData")
_AFTER_META_INFORMATION = Tag(0x0003, 0x0000)
_NO_END = Tag(0xFFFF, 0xFFFF)
_UNDEFINED = 0xFFFFFFFF


class BoundedFile:
    """A file that refuses to read more than it has left, and to be used more often than any photograph needs.

    With it pydicom neither allocates a length that is only claimed, nor follows elements or fragments without end.
    """

    def __init__(self, file: BinaryIO) -> None:
        start = file.tell()
        self._file, self._num_calls, self._num_bytes = file, 0, file.seek(0, io.SEEK_END)
        file.seek(start)

    def tell(self) -> int:
        """The position in the file, in bytes."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Change the position; returns the new one."""
        self._count_call()
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        """Exactly `size` bytes, or none at the end of the file. Raises UnreadableImageError where there are fewer."""
        self._count_call()
        num_left = self._num_bytes - self._file.tell()
        if num_left and not 0 <= size <= num_left:
            raise truncated()
        return self._file.read(size)

    def inflated(self) -> BoundedFile:
        """The inflated rest of the file. Raises UnreadableImageError where that is too much or damaged."""
        inflating = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            content = inflating.decompress(self._file.read(), MAX_INFLATED_BYTES + 1)
        except zlib.error:
            raise damaged("its compressed content is broken") from None
        if len(content) > MAX_INFLATED_BYTES:
            raise UnreadableImageError(
                f"the DICOM file inflates to more than the {MAX_INFLATED_BYTES} bytes allowed; store it uncompressed"
            )
        if not inflating.eof:
            raise damaged("its compressed content ends too early")
        return BoundedFile(io.BytesIO(content))

    def _count_call(self) -> None:
        # All later calls fail too, so that it does not matter where pydicom catches every exception.
        self._num_calls += 1
        if self._num_calls > MAX_FILE_CALLS:
            raise damaged("it has more parts than any photograph needs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The elements that are needed, as bytes by keyword, and where the pixels are.

    The pixels begin at the position `pixels_start` of `file`, which is the DICOM file or what it inflates to;
    `num_pixel_bytes` is None where they are encapsulated in fragments.
    """

    file: BoundedFile
    syntax: str
    values: dict[str, bytes]
    pixels_start: int
    num_pixel_bytes: int | None

    def number(self, keyword: str, default: int | None = None) -> int:
        """An unsigned 16-bit value. Raises UnreadableImageError where it is missing and has no default."""
        value = self.values.get(keyword, b"")
        if len(value) >= 2:
            return int.from_bytes(value[:2], "little")
        if default is None:
            raise damaged("its header does not say how the pixels are stored")
        return default

    def word(self, keyword: str) -> str:
        """A value in ASCII without its padding; "" where it is missing."""
        return _word(self.values, keyword)

    @property
    def num_frames(self) -> int:
        """How many images the file says it holds. Raises UnreadableImageError beyond 1 to MAX_FRAMES."""
        text = self.word("NumberOfFrames") or "1"
        num_frames = int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else 0
        if num_frames < 1:
            raise damaged("its header does not say how many images it holds")
        if num_frames > MAX_FRAMES:
            raise UnreadableImageError(f"this DICOM file claims more than the {MAX_FRAMES} images allowed")
        return num_frames

    @property
    def laterality(self) -> str:
        """The eye: "R", "L", "B" for both, or ""."""
        words = (self.word("ImageLaterality"), self.word("Laterality"))
        return next((word for word in words if word in ("R", "L", "B")), "")

    @property
    def camera(self) -> str:
        """Manufacturer and model of the camera, as far as they are given."""
        labels = (_label(self.values.get(keyword, b"")) for keyword in ("Manufacturer", "ManufacturerModelName"))
        return " ".join(filter(None, labels))


def read_header(file: BinaryIO) -> Header:
    """Read the header of a DICOM file, which is inflated where it is deflated.

    Raises UnreadableImageError where the file is damaged, or holds no image that can be read.
    """
    try:
        head = file.read(HEAD_BYTES)
        file.seek(find_dicom_start(head) or 0)
        bounded = BoundedFile(file)
        syntax = _syntax_without_meta_information(head) or _read_syntax(bounded)
        if syntax == uid.DeflatedExplicitVRLittleEndian:
            bounded = bounded.inflated()
        return _read_data_set(bounded, syntax)
    except UnreadableImageError:
        raise
    except struct.error:
        raise truncated() from None
    except Exception:  # hostile bytes lead to any, whose text may quote them
        raise damaged("its header cannot be followed") from None


def _syntax_without_meta_information(head: bytes) -> str | None:
    """The transfer syntax of a file that begins with its data set, as some archives cut it; None for all others."""
    if find_dicom_start(head) != 0:
        return None
    if has_elements(head, is_implicit=False):
        return uid.ExplicitVRLittleEndian
    return uid.ImplicitVRLittleEndian if has_elements(head, is_implicit=True) else None


def _read_syntax(file: BoundedFile) -> str:
    """The transfer syntax that the file's meta information names; the file then stands at the data set."""
    values: dict[str, bytes] = {}
    keywords = ("MediaStorageSOPClassUID", "TransferSyntaxUID")
    _read_elements(file, values, keywords, is_implicit=False, end=_AFTER_META_INFORMATION)
    check_is_photograph(_word(values, "MediaStorageSOPClassUID"), modality="")
    syntax = _word(values, "TransferSyntaxUID")
    if not syntax:
        raise damaged("it does not say how its pixels are stored")
    if syntax not in _READABLE_SYNTAXES:
        raise UnreadableImageError(
            f"DICOM stored as {_syntax_name(syntax)} is not supported; store it uncompressed, such as by "
            "`gdcmconv --raw FILE NEW_FILE`"
        )
    return syntax


def _read_data_set(file: BoundedFile, syntax: str) -> Header:
    values: dict[str, bytes] = {}
    is_implicit = syntax == uid.ImplicitVRLittleEndian
    pixels = _read_elements(file, values, _KEYWORDS, is_implicit=is_implicit, end=_PIXEL_DATA)
    check_is_photograph(_word(values, "SOPClassUID"), _word(values, "Modality"))
    if pixels is None or pixels.tag != _PIXEL_DATA or pixels.length == 0:
        raise UnreadableImageError(
            "this DICOM file holds no image, but a report, a document or a bare header; give a photograph"
        )
    num_bytes = None if pixels.length == _UNDEFINED else pixels.length
    return Header(file=file, syntax=syntax, values=values, pixels_start=pixels.value_tell, num_pixel_bytes=num_bytes)


def _read_elements(
    file: BoundedFile,
    values: dict[str, bytes],
    keywords: Collection[str],
    *,
    is_implicit: bool,
    end: BaseTag = _NO_END,
    depth: int = 0,
) -> RawDataElement | None:
    """Fill in the values of the elements with these keywords, but of none inside of a sequence.

    Reads up to the first element from the tag `end` on, and returns it without its value; the file then stands at it.
    Returns None where the file, or the item of a sequence that it stood in, ends before.
    """
    keyword_of = {Tag(keyword): keyword for keyword in keywords}
    while (unread := _read_safe_elements(file, values, keyword_of, is_implicit, end)) and unread.tag < end:
        file.seek(unread.value_tell)
        if unread.length == _UNDEFINED:
            # A value of unknown representation (UN) is always written with implicit VRs.
            _step_over_items(file, is_implicit=is_implicit or unread.VR == "UN", depth=depth + 1)
        else:
            file.seek(unread.length, io.SEEK_CUR)
    return unread


def _read_safe_elements(
    file: BoundedFile, values: dict[str, bytes], keyword_of: dict[BaseTag, str], is_implicit: bool, end: BaseTag
) -> RawDataElement | None:
    """As `_read_elements`, but also stops before, and returns, an element that pydicom would not step over safely."""
    unread: RawDataElement | None = None

    def stop_when(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal unread
        if tag >= end or length == _UNDEFINED or tag == _CHARACTER_SET:
            unread = RawDataElement(tag, vr, length, None, file.tell(), is_implicit, True)
        elif tag in keyword_of and length > _MAX_VALUE_BYTES:
            raise damaged("its header cannot be followed")
        return unread is not None

    tags: list[BaseTag | int] = [*keyword_of, _CHARACTER_SET]  # of an empty list, pydicom would read all values
    for element in data_element_generator(
        cast(BinaryIO, file), is_implicit, True, stop_when=stop_when, specific_tags=tags
    ):
        value = cast(bytes, element.value or b"")
        if len(value) != cast(RawDataElement, element).length:
            raise truncated()
        values[keyword_of[element.tag]] = value
    return unread


def _step_over_items(file: BoundedFile, *, is_implicit: bool, depth: int) -> None:
    """Step over a value of undefined length: the items of a sequence, or the fragments of pixels."""
    while depth <= _MAX_DEPTH:
        group, number, length = struct.unpack("<HHL", file.read(8))
        tag = Tag(group, number)
        if tag == SequenceDelimiterTag:
            return
        if tag != ItemTag:
            break
        if length == _UNDEFINED:
            _read_elements(file, {}, (), is_implicit=is_implicit, depth=depth)
        else:
            file.seek(length, io.SEEK_CUR)
    raise damaged("its header cannot be followed")


def _word(values: dict[str, bytes], keyword: str) -> str:
    """A value in ASCII without its padding; "" where it is missing."""
    return values.get(keyword, b"").decode("ascii", "replace").strip(" \0")


def _label(value: bytes) -> str:
    """A short text (VR LO) as one line; "" where it is none, as when damage made it include what follows it."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = value.decode("latin-1")
    label = " ".join(text.strip(" \0").split())
    return label if len(label) <= 64 and label.isprintable() and "\\" not in label else ""


def _syntax_name(syntax: str) -> str:
    """The name of a transfer syntax that the standard knows; others are not even quoted."""
    standard = uid.UID(syntax, validation_mode=IGNORE)  # else it warns of odd ones
    return standard.name if standard.type == "Transfer Syntax" else "an unknown or private transfer syntax"


def damaged(reason: str) -> UnreadableImageError:
    """The error for a file whose content contradicts itself."""
    return UnreadableImageError(f"damaged DICOM: {reason}; {COPY_AGAIN}")


def truncated() -> UnreadableImageError:
    """The error for a file that is shorter than it says."""
    return UnreadableImageError(f"truncated DICOM: the file ends too early; {COPY_AGAIN}")
