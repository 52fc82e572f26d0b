"""The pixels of a DICOM file -> an RGB image: one frame, however it is stored.

pydicom unpacks uncompressed pixels and run lengths, and finds the fragments of compressed ones; JPEG and JPEG 2000 are
decoded as they are outside of DICOM. Importing this module needs pydicom.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from itertools import islice, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import encapsulate, generate_fragments, parse_basic_offsets, parse_fragments
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from fundusgrade.errors import UnreadableImageError
from fundusgrade.photographs.decoding import decode_image, decode_jpeg_2000
from fundusgrade.photographs.dicom_colors import mark_color_space, to_rgb
from fundusgrade.photographs.dicom_header import (
    JPEG_2000_SYNTAXES,
    JPEG_SYNTAXES,
    MAX_FRAMES,
    PALETTE_COLORS,
    Header,
    damaged,
    truncated,
)
from fundusgrade.photographs.formats import HEAD_BYTES, PictureFormat, recognize_picture
from fundusgrade.photographs.pixels import Image, check_size, largest_value


def decode_frame(header: Header, index: int, *, at_least_px: int | None = None) -> Image:
    """Decode the frame of this index, counted from 0.

    Raises UnreadableImageError for everything that is not a complete image of 32 px to 200 million pixels.
    """
    try:
        return _decode_frame(header, index, at_least_px)
    except UnreadableImageError:
        raise
    except Exception:  # hostile bytes lead to any, whose text may quote them
        raise damaged("its pixels cannot be decoded") from None


def _decode_frame(header: Header, index: int, at_least_px: int | None) -> Image:
    check_size(header.number("Columns"), header.number("Rows"))
    photometric = header.word("PhotometricInterpretation")
    if header.syntax not in (*JPEG_SYNTAXES, *JPEG_2000_SYNTAXES):
        return _to_image(_stored_values(header, index), header)
    frame = _encapsulated_frame(header, index)
    found = recognize_picture(frame[:HEAD_BYTES])
    if found is PictureFormat.JPEG_2000:
        return _positive(to_rgb(decode_jpeg_2000(frame), is_ycbcr=photometric == "YBR_FULL"), photometric)
    if found is PictureFormat.JPEG:
        return _positive(decode_image(mark_color_space(frame, photometric), at_least_px=at_least_px), photometric)
    name = "JPEG" if header.syntax in JPEG_SYNTAXES else "JPEG 2000"
    raise UnreadableImageError(
        f"the DICOM file's pixels are not a {name}, as its header says: scrambled by its maker, as by Zeiss, or damaged"
        "; export the photograph as a JPEG, or as DICOM that other programs can read"
    )


def _encapsulated_frame(header: Header, index: int) -> bytes:
    """The bytes of one compressed frame, which may be cut into several fragments.

    Not `pydicom.encaps.get_frame`: it relies on an offset table even where there is one fragment for each frame, and
    looks for the ends of frames, with warnings, where there is none.
    """
    if header.num_pixel_bytes is not None:
        raise damaged("its compressed pixels are not in fragments")
    header.file.seek(header.pixels_start)
    (table_length,) = struct.unpack("<4xL", header.file.read(8))
    if table_length > 4 * MAX_FRAMES:
        raise damaged("it does not say where its images begin")
    header.file.seek(header.pixels_start)
    offsets = parse_basic_offsets(header.file)
    num_fragments, starts = parse_fragments(header.file)
    if header.num_frames == 1:
        first, last = 0, num_fragments
    elif num_fragments == header.num_frames:
        first, last = index, index + 1
    elif len(offsets) == header.num_frames:
        bounds = [bisect_left(starts, starts[0] + offset) for offset in offsets] + [num_fragments]
        first, last = bounds[index], bounds[index + 1]
    else:
        raise damaged("it does not say where its images begin")
    header.file.seek(starts[first])
    return b"".join(islice(generate_fragments(header.file), max(0, last - first)))


def _stored_values(header: Header, index: int) -> NDArray[np.integer]:
    """Values as they are stored, (rows, columns) or (rows, columns, 3): of uncompressed pixels, or of run lengths."""
    _check_layout(header)
    rows, columns, samples = header.number("Rows"), header.number("Columns"), header.number("SamplesPerPixel")
    bits, photometric = header.number("BitsAllocated"), header.word("PhotometricInterpretation")
    is_rle = header.syntax == RLELossless
    if is_rle:
        frame = _encapsulated_frame(header, index)
        _check_runs(frame, num_values=rows * columns)
        source = encapsulate([frame], has_bot=False)
    else:
        is_halved = photometric == "YBR_FULL_422"
        if is_halved and _has_length(header, header.num_frames * rows * columns * samples):
            photometric, is_halved = "YBR_FULL", False  # it was decompressed and the header left as it was
        source = _native_frame(header, index, rows * columns * (2 if is_halved else samples) * bits // 8)
    options: dict[str, Any] = {
        "rows": rows,
        "columns": columns,
        "samples_per_pixel": samples,
        "planar_configuration": header.number("PlanarConfiguration", 0),
        "photometric_interpretation": photometric,
        "bits_allocated": bits,
        "bits_stored": header.number("BitsStored"),
        "pixel_representation": 0,
        "pixel_keyword": "PixelData",
        "number_of_frames": 1,
        "correct_unused_bits": False,
    }
    decoder = get_decoder(RLELossless if is_rle else ExplicitVRLittleEndian)
    return np.asarray(decoder.as_array(source, index=0, raw=True, **options)[0])


def _native_frame(header: Header, index: int, num_bytes: int) -> bytes:
    if not _has_length(header, header.num_frames * num_bytes):
        rows, columns, num_found = header.number("Rows"), header.number("Columns"), header.num_pixel_bytes
        has = "are in fragments" if num_found is None else f"have {num_found} bytes"
        raise damaged(
            f"wrong length: its pixels {has}, and its header says {header.num_frames * num_bytes} bytes, for "
            f"{header.num_frames} of {columns} x {rows} pixels"
        )
    header.file.seek(header.pixels_start + index * num_bytes)
    content = header.file.read(num_bytes)
    if len(content) != num_bytes:
        raise truncated()
    return content + bytes(num_bytes % 2)


def _has_length(header: Header, num_bytes: int) -> bool:
    """Whether the pixels have this many bytes, and less than a row of padding."""
    padding = None if header.num_pixel_bytes is None else header.num_pixel_bytes - num_bytes
    return padding is not None and 0 <= padding < max(2, header.number("Columns"))


def _check_layout(header: Header) -> None:
    """Refuse what cannot be brought to 8-bit RGB, before any pixel is read."""
    samples = {"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3, "YBR_FULL": 3, "YBR_FULL_422": 3}
    photometric, planar = header.word("PhotometricInterpretation"), header.number("PlanarConfiguration", 0)
    allocated, stored = header.number("BitsAllocated"), header.number("BitsStored")
    high_bit, is_signed = header.number("HighBit", stored - 1), header.number("PixelRepresentation", 0) != 0
    if samples.get(photometric) != header.number("SamplesPerPixel") or planar > 1:
        raise UnreadableImageError("DICOM with pixels of this color type is not supported; store it as RGB")
    if allocated not in (8, 16) or not 1 <= stored <= high_bit + 1 <= allocated or is_signed:
        raise UnreadableImageError("DICOM with pixels of this depth is not supported; store it with 8 bits, unsigned")
    if photometric.startswith("YBR") and stored != 8:
        raise UnreadableImageError("DICOM with YBR pixels of other than 8 bits is not supported; store it as RGB")
    if photometric == "YBR_FULL_422" and (header.number("Columns") % 2 or planar or allocated != 8):
        raise damaged("its pixels cannot be stored as its header says")


def _check_runs(frame: bytes, *, num_values: int) -> None:
    """Refuse run lengths that unpack to more pixels than the image has; they could be 64 times their own size."""
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
    photometric, stored = header.word("PhotometricInterpretation"), header.number("BitsStored")
    full = (1 << stored) - 1
    values = values >> (header.number("HighBit", stored - 1) + 1 - stored) & full
    if photometric == "PALETTE COLOR":
        return np.dstack([_palette(header, color)[values] for color in PALETTE_COLORS])
    if stored > 8:
        full = min(full, largest_value(int(values.max())))
    scale = ((np.arange(full + 1) * 255 + full // 2) // full).astype(np.uint8)
    image = scale[values]
    if image.ndim == 2:
        return _positive(np.repeat(image[..., np.newaxis], 3, axis=2), photometric)
    return to_rgb(image, is_ycbcr=photometric != "RGB")


def _palette(header: Header, color: str) -> NDArray[np.uint8]:
    """One color for each value that a pixel can have; the palette may cover a part of them, whose ends continue."""
    size = header.values.get(f"{color}PaletteColorLookupTableDescriptor", b"")
    data = header.values.get(f"{color}PaletteColorLookupTableData", b"")
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
    indices = np.arange(1 << header.number("BitsStored")) - first
    return np.asarray(colors[np.clip(indices, 0, num_entries - 1)], np.uint8)


def _positive(image: Image, photometric: str) -> Image:
    """Invert gray where the lowest value is white (MONOCHROME1)."""
    return 255 - image if photometric == "MONOCHROME1" else image
