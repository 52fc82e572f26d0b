"""DICOM files -> pictures, and the two things worth keeping of their headers: which eye, and which camera.

No reason quotes a value of the header but the picture's size, nor an exception of pydicom, which might.
"""

from __future__ import annotations

import io
import struct
from itertools import pairwise
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

from fundusgrade.errors import UnreadableImageError
from fundusgrade.photographs.decoding import decode_image, decode_jpeg_2000
from fundusgrade.photographs.dicom_header import (
    EXPLICIT,
    JPEG,
    JPEG_2000,
    PALETTE_SIZES,
    PALETTES,
    RLE,
    UNDEFINED,
    Header,
    Tag,
    camera,
    damaged,
    find_data_set,
    laterality,
    next_element,
    read_exactly,
    read_header,
)
from fundusgrade.photographs.pixels import Decoded, Image, check_size

DICOM_SUFFIXES: frozenset[str] = frozenset({".dcm", ".dicom"})
_MAX_FRAGMENTS = 100_000


def is_dicom(file: BinaryIO) -> bool:
    """Whether a file begins as DICOM files do; it stands at its start again afterwards."""
    start = file.read(132)
    file.seek(0)
    return start[128:] == b"DICM"


def count_frames(file: BinaryIO) -> int:
    """How many pictures a DICOM file says it holds, from its header alone; raises UnreadableImageError."""
    return read_header(*find_data_set(file)).num_frames


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
        file, syntax = find_data_set(file)
        header = read_header(file, syntax)
        image = _decode_frame(file, header, _frame_index(header, frame), at_least_px)
    except UnreadableImageError:
        raise
    except Exception:  # hostile bytes lead to any; its text may quote them
        raise damaged("its pixels cannot be decoded") from None
    return Decoded(image=image, laterality=laterality(header), camera=camera(header))


def _frame_index(header: Header, frame: int | None) -> int:
    if frame is None and header.num_frames > 1:
        raise UnreadableImageError(
            f"this DICOM file holds {header.num_frames} pictures, and one was expected; `fundusgrade predict` grades "
            "each of them"
        )
    if frame is not None and not 1 <= frame <= header.num_frames:
        raise damaged(f"it has no picture {frame}")
    return 0 if frame is None else frame - 1


def _decode_frame(file: BinaryIO, header: Header, index: int, at_least_px: int | None) -> Image:
    check_size(header.number(Tag.COLUMNS), header.number(Tag.ROWS))
    photometric = header.word(Tag.PHOTOMETRIC)
    if header.syntax not in (*JPEG, *JPEG_2000):
        return _to_image(_stored_values(file, header, index), header)
    frame = _fragmented_frame(file, header, index)
    if header.syntax in JPEG_2000:
        image = decode_jpeg_2000(frame)
        return _from_ycbcr(image) if photometric == "YBR_FULL" else _positive(image, photometric)
    if not frame.startswith(b"\xff\xd8\xff"):
        raise damaged("its pixels are not the JPEG that it says")
    return _positive(decode_image(_with_color_space(frame, photometric), at_least_px=at_least_px), photometric)


def _with_color_space(jpeg: bytes, photometric: str) -> bytes:
    """A JPEG that says itself that it holds RGB, where only its DICOM header does: decoders would assume YCbCr."""
    head = jpeg[: jpeg.find(b"\xff\xda")]
    if photometric != "RGB" or any(marker in head for marker in (b"JFIF\0", b"Exif\0", b"Adobe\0")):
        return jpeg
    return jpeg[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00" + jpeg[2:]


def _fragmented_frame(file: BinaryIO, header: Header, index: int) -> bytes:
    """The bytes of one compressed picture, which may be cut into several fragments."""
    table, *fragments = _find_fragments(file, header)
    if header.num_frames == 1:
        chosen = fragments
    elif len(fragments) == header.num_frames:
        chosen = fragments[index : index + 1]
    else:
        file.seek(table[0])
        offsets = np.frombuffer(read_exactly(file, table[1] // 4 * 4), "<u4").tolist()
        if len(offsets) != header.num_frames or not fragments:
            raise damaged("it does not say where its pictures begin")
        first = fragments[0][0] + offsets[index]
        last = fragments[0][0] + offsets[index + 1] if index + 1 < len(offsets) else float("inf")
        chosen = [fragment for fragment in fragments if first <= fragment[0] < last]
    content = []
    for start, num_bytes in chosen:
        file.seek(start)
        content.append(read_exactly(file, num_bytes))
    return b"".join(content)


def _find_fragments(file: BinaryIO, header: Header) -> list[tuple[int, int]]:
    """Start and length of the table of offsets and of each fragment after it."""
    if header.num_bytes is not None:
        raise damaged("its compressed pixels are not in fragments")
    file.seek(header.start)
    found: list[tuple[int, int]] = []
    while len(found) <= _MAX_FRAGMENTS:
        item = next_element(file, explicit=False)
        if item is not None and item.tag == Tag.ITEM and item.length != UNDEFINED:
            found.append((file.tell(), item.length))
            file.seek(item.length, io.SEEK_CUR)
        elif found and (item is None or item.tag == Tag.SEQUENCE_END):
            return found
        else:
            break
    raise damaged("its compressed pixels cannot be followed")


def _stored_values(file: BinaryIO, header: Header, index: int) -> NDArray[np.integer]:
    """Values as they are stored, (rows, columns) or (rows, columns, 3): of uncompressed pixels, or of run lengths."""
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder

    _check_layout(header)
    rows, columns, samples = header.number(Tag.ROWS), header.number(Tag.COLUMNS), header.number(Tag.SAMPLES)
    bits = header.number(Tag.BITS_ALLOCATED)
    if header.syntax == RLE:
        frame = _fragmented_frame(file, header, index)
        _check_runs(frame, num_values=rows * columns)
        source = encapsulate([frame], has_bot=False)
    else:
        halved = header.word(Tag.PHOTOMETRIC) == "YBR_FULL_422"
        source = _native_frame(file, header, index, rows * columns * (2 if halved else samples) * bits // 8)
    options: dict[str, Any] = {
        "rows": rows,
        "columns": columns,
        "samples_per_pixel": samples,
        "planar_configuration": header.number(Tag.PLANAR, 0),
        "photometric_interpretation": header.word(Tag.PHOTOMETRIC),
        "bits_allocated": bits,
        "bits_stored": header.number(Tag.BITS_STORED),
        "pixel_representation": 0,
        "pixel_keyword": "PixelData",
        "number_of_frames": 1,
        "correct_unused_bits": False,
    }
    decoder = get_decoder(RLE if header.syntax == RLE else EXPLICIT)
    return np.asarray(decoder.as_array(source, index=0, raw=True, **options)[0])


def _native_frame(file: BinaryIO, header: Header, index: int, num_bytes: int) -> bytes:
    if header.num_bytes is None or header.num_bytes < header.num_frames * num_bytes:
        raise damaged("it has fewer pixels than its header says")
    file.seek(header.start + index * num_bytes)
    return read_exactly(file, num_bytes) + bytes(num_bytes % 2)


def _check_layout(header: Header) -> None:
    """Refuse what cannot be brought to 8-bit RGB, before any pixel is read."""
    samples = {"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3, "YBR_FULL": 3, "YBR_FULL_422": 3}
    photometric, planar = header.word(Tag.PHOTOMETRIC), header.number(Tag.PLANAR, 0)
    allocated, stored = header.number(Tag.BITS_ALLOCATED), header.number(Tag.BITS_STORED)
    high_bit = header.number(Tag.HIGH_BIT, stored - 1)
    if samples.get(photometric) != header.number(Tag.SAMPLES) or planar > 1:
        raise UnreadableImageError("DICOM with pixels of this color type is not supported; store it as RGB")
    if allocated not in (8, 16) or not 1 <= stored <= high_bit + 1 <= allocated or header.number(Tag.SIGNED, 0):
        raise UnreadableImageError("DICOM with pixels of this depth is not supported; store it with 8 bits, unsigned")
    if photometric.startswith("YBR") and stored != 8:
        raise UnreadableImageError("DICOM with YBR pixels of other than 8 bits is not supported; store it as RGB")
    if photometric == "YBR_FULL_422" and (header.number(Tag.COLUMNS) % 2 or planar or allocated != 8):
        raise damaged("its pixels cannot be stored as it says")


def _check_runs(frame: bytes, *, num_values: int) -> None:
    """Refuse run lengths that unpack to more than the picture holds, 64 times their own size at most."""
    num_segments = int.from_bytes(frame[:4], "little")
    if len(frame) < 64 or not 1 <= num_segments <= 15:
        raise damaged("its run lengths cannot be followed")
    bounds = [*struct.unpack(f"<{num_segments}L", frame[4 : 4 + 4 * num_segments]), len(frame)]
    for start, end in pairwise(bounds):
        position, num_unpacked = start, 0
        while position < end - 1 and num_unpacked <= num_values:
            control = frame[position]
            position += control + 2 if control < 128 else 1 if control == 128 else 2
            num_unpacked += control + 1 if control < 128 else 0 if control == 128 else 257 - control
        if num_unpacked > num_values or not 64 <= start <= end <= len(frame):
            raise damaged("its run lengths hold more pixels than its header says")


def _to_image(values: NDArray[np.integer], header: Header) -> Image:
    photometric, stored = header.word(Tag.PHOTOMETRIC), header.number(Tag.BITS_STORED)
    full = (1 << stored) - 1
    values = values >> (header.number(Tag.HIGH_BIT, stored - 1) + 1 - stored) & full
    if photometric == "PALETTE COLOR":
        return np.dstack([_palette(header, channel)[values] for channel in range(3)])
    scale = ((np.arange(full + 1) * 255 + full // 2) // full).astype(np.uint8)
    image = scale[values]
    if image.ndim == 2:
        return _positive(np.repeat(image[..., np.newaxis], 3, axis=2), photometric)
    return image if photometric == "RGB" else _from_ycbcr(image)


def _palette(header: Header, channel: int) -> NDArray[np.uint8]:
    """One color of every value that a pixel can store: the palette may begin late and end early."""
    size = header.values.get(PALETTE_SIZES[channel], b"")
    data = header.values.get(PALETTES[channel], b"")
    if len(size) != 6:
        raise damaged("its palette is missing")
    num_entries, first, bits = struct.unpack("<HHH", size)
    num_entries = num_entries or 65536
    if bits not in (8, 16) or len(data) < num_entries:
        raise damaged("its palette is incomplete")
    if len(data) >= 2 * num_entries:
        entries = np.frombuffer(data, "<u2", num_entries)
        colors = (entries >> 8 if bits == 16 else np.minimum(entries, 255)).astype(np.uint8)
    else:
        colors = np.frombuffer(data, np.uint8, num_entries)
    indices = np.arange(1 << header.number(Tag.BITS_STORED)) - first
    return np.asarray(colors[np.clip(indices, 0, num_entries - 1)], np.uint8)


def _from_ycbcr(image: Image) -> Image:
    height, width = image.shape[:2]
    return np.array(PilImage.frombytes("YCbCr", (width, height), image.tobytes()).convert("RGB"))


def _positive(image: Image, photometric: str) -> Image:
    """In DICOM's MONOCHROME1 the least value is white."""
    return 255 - image if photometric == "MONOCHROME1" else image
