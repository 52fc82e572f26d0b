"""DICOM files -> pictures, and the two things worth keeping of their headers: which eye, and which camera.

A DICOM file is full of what identifies a patient, so none of it is ever held: the header is read element by element,
only those in `_WANTED` are looked at, and no reason quotes a value, nor an exception of the decoder, which might. The
header is not read by pydicom: it keeps all nested sequences in memory, inflates without a limit, and warns with values
in the text, which cannot be silenced for one thread alone.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fundusgrade.decoding import COPY_AGAIN, Decoded, Picture, check_size, decode_image, decode_jpeg_2000
from fundusgrade.errors import UnreadableImageError

DICOM_SUFFIXES: frozenset[str] = frozenset({".dcm", ".dicom"})
MAX_FRAMES = 10_000
MAX_INFLATED_BYTES = 512 * 1024**2
_MAX_ELEMENTS = 100_000
_MAX_FRAGMENTS = 100_000
_MAX_DEPTH = 64
_MAX_VALUE_BYTES = 256 * 1024  # a palette of 65,536 entries has half of that

_IMPLICIT, _EXPLICIT, _DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"
_JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
_JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_RLE = "1.2.840.10008.1.2.5"
_READABLE = frozenset({_IMPLICIT, _EXPLICIT, _DEFLATED, *_JPEG, *_JPEG_2000, _RLE})

_TRANSFER_SYNTAX = 0x00020010
_MANUFACTURER, _MODEL = 0x00080070, 0x00081090
_LATERALITY, _IMAGE_LATERALITY = 0x00200060, 0x00200062
_SAMPLES, _PHOTOMETRIC, _PLANAR, _NUM_FRAMES = 0x00280002, 0x00280004, 0x00280006, 0x00280008
_ROWS, _COLUMNS, _BITS_ALLOCATED, _BITS_STORED, _HIGH_BIT = 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102
_SIGNED = 0x00280103
_PALETTE_SIZES = (0x00281101, 0x00281102, 0x00281103)
_PALETTES = (0x00281201, 0x00281202, 0x00281203)
_PIXEL_DATA = 0x7FE00010
_WANTED = frozenset(
    {_MANUFACTURER, _MODEL, _LATERALITY, _IMAGE_LATERALITY, _SAMPLES, _PHOTOMETRIC, _PLANAR, _NUM_FRAMES, _ROWS}
    | {_COLUMNS, _BITS_ALLOCATED, _BITS_STORED, _HIGH_BIT, _SIGNED, *_PALETTE_SIZES, *_PALETTES}
)
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
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
            raise _damaged("its header does not say how the pixels are stored")
        return default

    def word(self, tag: int) -> str:
        return self.values.get(tag, b"").decode("ascii", "replace").strip(" \0")

    @property
    def num_frames(self) -> int:
        text = self.word(_NUM_FRAMES) or "1"
        num_frames = int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else 0
        if num_frames < 1:
            raise _damaged("its header does not say how many pictures it holds")
        if num_frames > MAX_FRAMES:
            raise UnreadableImageError(
                f"this DICOM file claims {num_frames} pictures, more than the {MAX_FRAMES} allowed"
            )
        return num_frames


def is_dicom(file: BinaryIO) -> bool:
    """Whether a file begins as DICOM files do; it stands at its start again afterwards."""
    start = file.read(132)
    file.seek(0)
    return start[128:] == b"DICM"


def count_frames(file: BinaryIO) -> int:
    """How many pictures a DICOM file says it holds, from its header alone; raises UnreadableImageError."""
    return _read_header(*_find_data_set(file)).num_frames


def decode_dicom(file: BinaryIO, frame: int | None = None, *, at_least_px: int | None = None) -> Decoded:
    """Decode one picture of a DICOM file; `frame` counts from 1, and None means the only one.

    With `at_least_px` a JPEG may come reduced, as from `decode_image`. Raises UnreadableImageError where pydicom is not
    installed, and for everything that is not a whole picture of 32 px to 200 million pixels.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError:
        raise UnreadableImageError(
            "this is a DICOM file, which needs one more package; run: pip install 'fundusgrade[dicom]'"
        ) from None
    try:
        file, syntax = _find_data_set(file)
        header = _read_header(file, syntax)
        picture = _decode_frame(file, header, _frame_index(header, frame), at_least_px)
    except UnreadableImageError:
        raise
    except Exception:  # hostile bytes lead to any; its text may quote them
        raise _damaged("its pixels cannot be decoded") from None
    return Decoded(picture=picture, laterality=_laterality(header), camera=_camera(header))


def _frame_index(header: _Header, frame: int | None) -> int:
    if frame is None and header.num_frames > 1:
        raise UnreadableImageError(
            f"this DICOM file holds {header.num_frames} pictures, and one was expected; `fundusgrade predict` grades "
            "each of them"
        )
    if frame is not None and not 1 <= frame <= header.num_frames:
        raise _damaged(f"it has no picture {frame}")
    return 0 if frame is None else frame - 1


def _laterality(header: _Header) -> str:
    words = (header.word(_IMAGE_LATERALITY), header.word(_LATERALITY))
    return next((word for word in words if word in ("R", "L", "B")), "")


def _camera(header: _Header) -> str:
    return " ".join(filter(None, (_label(header.values.get(tag, b"")) for tag in (_MANUFACTURER, _MODEL))))


def _label(value: bytes) -> str:
    """A value of the kind LO as one line; "" where it is none, as when damage made it swallow what follows it."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = value.decode("latin-1")
    label = " ".join(text.strip(" \0").split())
    return label if len(label) <= 64 and label.isprintable() and "\\" not in label else ""


def _find_data_set(file: BinaryIO) -> tuple[BinaryIO, str]:
    """A file that stands where the data set begins, inflated if need be, and its transfer syntax."""
    file.seek(132)
    meta = _read_elements(file, explicit=True, wanted=frozenset({_TRANSFER_SYNTAX}), end=0x00030000)
    syntax = meta.get(_TRANSFER_SYNTAX, b"").decode("ascii", "replace").strip(" \0")
    if not syntax:
        raise _damaged("it does not say how its pixels are stored")
    if syntax not in _READABLE:
        raise UnreadableImageError(
            f"DICOM stored as {_syntax_name(syntax)} is not supported; store it uncompressed, such as by "
            "`gdcmconv --raw FILE NEW_FILE`"
        )
    return (_inflate(file), syntax) if syntax == _DEFLATED else (file, syntax)


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
        raise _damaged("its compressed content is broken") from None
    if len(content) > MAX_INFLATED_BYTES:
        raise UnreadableImageError(
            f"the DICOM file inflates to more than the {MAX_INFLATED_BYTES} bytes allowed; store it uncompressed"
        )
    if not inflating.eof:
        raise _damaged("its compressed content ends too early")
    return io.BytesIO(content)


def _read_header(file: BinaryIO, syntax: str) -> _Header:
    """Read a data set up to its pixels. Raises UnreadableImageError where it has none."""
    explicit = syntax != _IMPLICIT
    values = _read_elements(file, explicit=explicit, wanted=_WANTED, end=_PIXEL_DATA)
    element = _next_element(file, explicit=explicit)
    if element is None or element.tag != _PIXEL_DATA or element.length == 0:
        raise UnreadableImageError(
            "this DICOM file holds no picture, but a report, a document or a bare header; give a photograph"
        )
    num_bytes = None if element.length == _UNDEFINED else element.length
    return _Header(syntax=syntax, values=values, start=file.tell(), num_bytes=num_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Element:
    """The beginning of a data element; the file stands at its value. `vr` is empty where it is implicit."""

    tag: int
    vr: bytes
    length: int


def _next_element(file: BinaryIO, *, explicit: bool) -> _Element | None:
    """The next element, or None where the file is over."""
    if file.tell() == _size_of(file):
        return None
    head = _read_exactly(file, 8)
    group, number, length = struct.unpack("<HHL", head)
    tag = group << 16 | number
    if not explicit or group == 0xFFFE:
        return _Element(tag=tag, vr=b"", length=length)
    vr = head[4:6]
    if vr in _LONG_VRS:
        return _Element(tag=tag, vr=vr, length=int.from_bytes(_read_exactly(file, 4), "little"))
    if vr not in _SHORT_VRS:
        raise _damaged("its header cannot be followed")
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
        element = _next_element(file, explicit=forms[-1])
        if element is None:
            raise _truncated()
        if element.tag in (_ITEM_END, _SEQUENCE_END):
            forms.pop()
        elif element.length == _UNDEFINED:
            forms.append(forms[-1] and element.vr != b"UN")  # what is of unknown kind is written implicitly
        elif len(forms) == 1 and element.tag in wanted and element.length <= _MAX_VALUE_BYTES:
            values[element.tag] = _read_exactly(file, element.length)
        else:
            file.seek(element.length, io.SEEK_CUR)
        if not 1 <= len(forms) <= _MAX_DEPTH:
            raise _damaged("its header cannot be followed")
    raise _damaged("its header has no end")


def _size_of(file: BinaryIO) -> int:
    position = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(position)
    return size


def _read_exactly(file: BinaryIO, num_bytes: int) -> bytes:
    # Asked for first: whoever reads a claimed length gets that much memory, whatever is there.
    if file.tell() + num_bytes > _size_of(file):
        raise _truncated()
    return file.read(num_bytes)


def _decode_frame(file: BinaryIO, header: _Header, index: int, at_least_px: int | None) -> Picture:
    check_size(header.number(_COLUMNS), header.number(_ROWS))
    photometric = header.word(_PHOTOMETRIC)
    if header.syntax not in (*_JPEG, *_JPEG_2000):
        return _to_picture(_stored_values(file, header, index), header)
    frame = _fragmented_frame(file, header, index)
    if header.syntax in _JPEG_2000:
        picture = decode_jpeg_2000(frame)
        return _from_ycbcr(picture) if photometric == "YBR_FULL" else _positive(picture, photometric)
    if not frame.startswith(b"\xff\xd8\xff"):
        raise _damaged("its pixels are not the JPEG that it says")
    return _positive(decode_image(_with_color_space(frame, photometric), at_least_px=at_least_px), photometric)


def _with_color_space(jpeg: bytes, photometric: str) -> bytes:
    """A JPEG that says itself that it holds RGB, where only its DICOM header does: decoders would assume YCbCr."""
    head = jpeg[: jpeg.find(b"\xff\xda")]
    if photometric != "RGB" or any(marker in head for marker in (b"JFIF\0", b"Exif\0", b"Adobe\0")):
        return jpeg
    return jpeg[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00" + jpeg[2:]


def _fragmented_frame(file: BinaryIO, header: _Header, index: int) -> bytes:
    """The bytes of one compressed picture, which may be cut into several fragments."""
    table, *fragments = _find_fragments(file, header)
    if header.num_frames == 1:
        chosen = fragments
    elif len(fragments) == header.num_frames:
        chosen = fragments[index : index + 1]
    else:
        file.seek(table[0])
        offsets = np.frombuffer(_read_exactly(file, table[1] // 4 * 4), "<u4").tolist()
        if len(offsets) != header.num_frames or not fragments:
            raise _damaged("it does not say where its pictures begin")
        first = fragments[0][0] + offsets[index]
        last = fragments[0][0] + offsets[index + 1] if index + 1 < len(offsets) else float("inf")
        chosen = [fragment for fragment in fragments if first <= fragment[0] < last]
    content = []
    for start, num_bytes in chosen:
        file.seek(start)
        content.append(_read_exactly(file, num_bytes))
    return b"".join(content)


def _find_fragments(file: BinaryIO, header: _Header) -> list[tuple[int, int]]:
    """Start and length of the table of offsets and of each fragment after it."""
    if header.num_bytes is not None:
        raise _damaged("its compressed pixels are not in fragments")
    file.seek(header.start)
    found: list[tuple[int, int]] = []
    while len(found) <= _MAX_FRAGMENTS:
        item = _next_element(file, explicit=False)
        if item is not None and item.tag == _ITEM and item.length != _UNDEFINED:
            found.append((file.tell(), item.length))
            file.seek(item.length, io.SEEK_CUR)
        elif found and (item is None or item.tag == _SEQUENCE_END):
            return found
        else:
            break
    raise _damaged("its compressed pixels cannot be followed")


def _stored_values(file: BinaryIO, header: _Header, index: int) -> NDArray[np.integer]:
    """Values as they are stored, (rows, columns) or (rows, columns, 3): of uncompressed pixels, or of run lengths."""
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder

    _check_layout(header)
    rows, columns, samples = header.number(_ROWS), header.number(_COLUMNS), header.number(_SAMPLES)
    bits = header.number(_BITS_ALLOCATED)
    if header.syntax == _RLE:
        frame = _fragmented_frame(file, header, index)
        _check_runs(frame, num_values=rows * columns)
        source = encapsulate([frame], has_bot=False)
    else:
        halved = header.word(_PHOTOMETRIC) == "YBR_FULL_422"
        source = _native_frame(file, header, index, rows * columns * (2 if halved else samples) * bits // 8)
    options: dict[str, Any] = {
        "rows": rows,
        "columns": columns,
        "samples_per_pixel": samples,
        "planar_configuration": header.number(_PLANAR, 0),
        "photometric_interpretation": header.word(_PHOTOMETRIC),
        "bits_allocated": bits,
        "bits_stored": header.number(_BITS_STORED),
        "pixel_representation": 0,
        "pixel_keyword": "PixelData",
        "number_of_frames": 1,
        "correct_unused_bits": False,
    }
    decoder = get_decoder(_RLE if header.syntax == _RLE else _EXPLICIT)
    return np.asarray(decoder.as_array(source, index=0, raw=True, **options)[0])


def _native_frame(file: BinaryIO, header: _Header, index: int, num_bytes: int) -> bytes:
    if header.num_bytes is None or header.num_bytes < header.num_frames * num_bytes:
        raise _damaged("it has fewer pixels than its header says")
    file.seek(header.start + index * num_bytes)
    return _read_exactly(file, num_bytes) + bytes(num_bytes % 2)


def _check_layout(header: _Header) -> None:
    """Refuse what cannot be brought to 8-bit RGB, before any pixel is read."""
    samples = {"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3, "YBR_FULL": 3, "YBR_FULL_422": 3}
    photometric, planar = header.word(_PHOTOMETRIC), header.number(_PLANAR, 0)
    allocated, stored = header.number(_BITS_ALLOCATED), header.number(_BITS_STORED)
    high_bit = header.number(_HIGH_BIT, stored - 1)
    if samples.get(photometric) != header.number(_SAMPLES) or planar > 1:
        raise UnreadableImageError("DICOM with pixels of this color type is not supported; store it as RGB")
    if allocated not in (8, 16) or not 1 <= stored <= high_bit + 1 <= allocated or header.number(_SIGNED, 0):
        raise UnreadableImageError("DICOM with pixels of this depth is not supported; store it with 8 bits, unsigned")
    if photometric.startswith("YBR") and stored != 8:
        raise UnreadableImageError("DICOM with YBR pixels of other than 8 bits is not supported; store it as RGB")
    if photometric == "YBR_FULL_422" and (header.number(_COLUMNS) % 2 or planar or allocated != 8):
        raise _damaged("its pixels cannot be stored as it says")


def _check_runs(frame: bytes, *, num_values: int) -> None:
    """Refuse run lengths that unpack to more than the picture holds, 64 times their own size at most."""
    num_segments = int.from_bytes(frame[:4], "little")
    if len(frame) < 64 or not 1 <= num_segments <= 15:
        raise _damaged("its run lengths cannot be followed")
    bounds = [*struct.unpack(f"<{num_segments}L", frame[4 : 4 + 4 * num_segments]), len(frame)]
    for start, end in pairwise(bounds):
        position, num_unpacked = start, 0
        while position < end - 1 and num_unpacked <= num_values:
            control = frame[position]
            position += control + 2 if control < 128 else 1 if control == 128 else 2
            num_unpacked += control + 1 if control < 128 else 0 if control == 128 else 257 - control
        if num_unpacked > num_values or not 64 <= start <= end <= len(frame):
            raise _damaged("its run lengths hold more pixels than its header says")


def _to_picture(values: NDArray[np.integer], header: _Header) -> Picture:
    photometric, stored = header.word(_PHOTOMETRIC), header.number(_BITS_STORED)
    full = (1 << stored) - 1
    values = values >> (header.number(_HIGH_BIT, stored - 1) + 1 - stored) & full
    if photometric == "PALETTE COLOR":
        return np.dstack([_palette(header, channel)[values] for channel in range(3)])
    scale = ((np.arange(full + 1) * 255 + full // 2) // full).astype(np.uint8)
    picture = scale[values]
    if picture.ndim == 2:
        return _positive(np.repeat(picture[..., np.newaxis], 3, axis=2), photometric)
    return picture if photometric == "RGB" else _from_ycbcr(picture)


def _palette(header: _Header, channel: int) -> NDArray[np.uint8]:
    """One color of every value that a pixel can store: the palette may begin late and end early."""
    size = header.values.get(_PALETTE_SIZES[channel], b"")
    data = header.values.get(_PALETTES[channel], b"")
    if len(size) != 6:
        raise _damaged("its palette is missing")
    num_entries, first, bits = struct.unpack("<HHH", size)
    num_entries = num_entries or 65536
    if bits not in (8, 16) or len(data) < num_entries:
        raise _damaged("its palette is incomplete")
    if len(data) >= 2 * num_entries:
        entries = np.frombuffer(data, "<u2", num_entries)
        colors = (entries >> 8 if bits == 16 else np.minimum(entries, 255)).astype(np.uint8)
    else:
        colors = np.frombuffer(data, np.uint8, num_entries)
    indices = np.arange(1 << header.number(_BITS_STORED)) - first
    return np.asarray(colors[np.clip(indices, 0, num_entries - 1)], np.uint8)


def _from_ycbcr(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    return np.array(Image.frombytes("YCbCr", (width, height), picture.tobytes()).convert("RGB"))


def _positive(picture: Picture, photometric: str) -> Picture:
    """In DICOM's MONOCHROME1 the least value is white."""
    return 255 - picture if photometric == "MONOCHROME1" else picture


def _damaged(what: str) -> UnreadableImageError:
    return UnreadableImageError(f"damaged DICOM: {what}; {COPY_AGAIN}")


def _truncated() -> UnreadableImageError:
    return UnreadableImageError(f"truncated DICOM: the file ends too early; {COPY_AGAIN}")
