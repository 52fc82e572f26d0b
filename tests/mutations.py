"""Hostile files: structure-aware, seeded mutations of photographs in every format.

Random bytes seldom get past a header. These mutations parse a file by its format (segments, chunks, directories,
elements), change one part, and write it again with valid lengths and checksums where a decoder would check them first.
`mutant` is a pure function of originals, seed and number, so any finding can be reproduced.
"""

from __future__ import annotations

import functools
import io
import itertools
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Item = TypeVar("Item")
Mutator = Callable[[bytes, Random], bytes]

MAX_BYTES = 32 * 1024**2
SIZES = (0, 1, 2, 31, 32, 33, 1000, 14_142, 14_143, 32_767, 65_500, 65_535)
LARGE = (0, 1, 2**15, 2**16 - 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1)


def mutants(originals: Mapping[str, bytes], seed: int) -> Iterator[tuple[str, bytes]]:
    """Names and bytes without end; the name says which original was changed and how."""
    return (mutant(originals, seed, number) for number in itertools.count())


def mutant(originals: Mapping[str, bytes], seed: int, number: int) -> tuple[str, bytes]:
    """One of them: mostly a single change, sometimes two or three on top of each other."""
    rng = Random(f"{seed}-{number}")
    name = rng.choice(sorted(originals))
    data, changes = originals[name], []
    for _ in range(rng.choices((1, 2, 3), (8, 2, 1))[0]):
        change = rng.choice((*_mutators(data), splice_with(originals[rng.choice(sorted(originals))])))
        data = change(data, rng)[:MAX_BYTES]
        changes.append(change.__name__)
    return f"{number:06d}-{name}-{'-'.join(changes)}", data


def _mutators(data: bytes) -> tuple[Mutator, ...]:
    """Those of the file's format count three times as much as those of bytes; a format that was lost has none."""
    own: tuple[Mutator, ...] = ()
    if data.startswith(b"\xff\xd8"):
        own = JPEG
    elif data.startswith(b"\x89PNG"):
        own = PNG
    elif data.startswith((b"II*\0", b"MM\0*")):
        own = TIFF
    elif data.startswith(b"BM"):
        own = BMP
    elif data.startswith(b"RIFF"):
        own = WEBP
    elif data[128:132] == b"DICM":
        own = DICOM
    elif data.startswith(b"PK"):
        own = ZIP
    return own * max(1, round(3 * len(BYTES) / max(1, len(own)))) + BYTES


# ---------------------------------------------------------------------------------------------------- any bytes


def flip_bits(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 30)) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flip_header_bits(data: bytes, rng: Random) -> bytes:
    return flip_bits(data[:400], rng) + data[400:]


def run_of_bytes(data: bytes, rng: Random) -> bytes:
    start, length = rng.randrange(len(data) + 1), rng.choice((1, 4, 64, 4096))
    return data[:start] + bytes([rng.choice((0, 255, rng.randrange(256)))]) * length + data[start + length :]


def random_run(data: bytes, rng: Random) -> bytes:
    start, length = rng.randrange(len(data) + 1), rng.choice((2, 16, 512))
    return data[:start] + rng.randbytes(length) + data[start + length :]


def insert_bytes(data: bytes, rng: Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.randbytes(rng.choice((1, 3, 100))) + data[start:]


def delete_bytes(data: bytes, rng: Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.choice((1, 3, 100, 5000)) :]


def repeat_bytes(data: bytes, rng: Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    piece = data[start : start + rng.choice((1, 30, 2000))]
    return data[:start] + piece * rng.choice((2, 3, 50)) + data[start:]


def truncate(data: bytes, rng: Random) -> bytes:
    return data[: rng.choice((rng.randrange(len(data) + 1), rng.randrange(min(600, len(data)) + 1)))]


def truncate_then_zeros(data: bytes, rng: Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + bytes(len(data) - start)


def trailing_bytes(data: bytes, rng: Random) -> bytes:
    return data + rng.choice((bytes(5000), rng.randbytes(5000), data))


def splice_with(other: bytes) -> Mutator:
    """The beginning of one file and the end of another."""

    def splice(data: bytes, rng: Random) -> bytes:
        return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]

    return splice


BYTES: tuple[Mutator, ...] = (
    *(flip_bits, flip_header_bits, run_of_bytes, random_run, insert_bytes, delete_bytes, repeat_bytes),
    *(truncate, truncate_then_zeros, trailing_bytes),
)


def _changed(items: list[bytes], rng: Random, change: Callable[[bytes], bytes]) -> list[bytes]:
    """One item of a list changed."""
    index = rng.randrange(max(1, len(items)))
    return [*items[:index], *map(change, items[index : index + 1]), *items[index + 1 :]]


def _dropped(items: list[Item], rng: Random) -> list[Item]:
    index = rng.randrange(len(items))
    return items[:index] + items[index + 1 :]


def _doubled(items: list[Item], rng: Random) -> list[Item]:
    index = rng.randrange(len(items))
    return items[:index] + [items[index]] * rng.choice((2, 2, 3, 40)) + items[index + 1 :]


def _swapped(items: list[Item], rng: Random) -> list[Item]:
    swapped, first, second = list(items), rng.randrange(len(items)), rng.randrange(len(items))
    swapped[first], swapped[second] = swapped[second], swapped[first]
    return swapped


# --------------------------------------------------------------------------------------------------------- JPEG

SOF, DHT, DQT, SOS, DRI, APP1, APP14, COMMENT = 0xC0, 0xC4, 0xDB, 0xDA, 0xDD, 0xE1, 0xEE, 0xFE
_FRAMES = tuple(marker for marker in range(0xC0, 0xD0) if marker not in (0xC4, 0xC8, 0xCC))


@dataclass(frozen=True, slots=True)
class Segment:
    """A marker with its content and the entropy-coded bytes that follow; `claimed` replaces the right length."""

    marker: int
    content: bytes
    scan: bytes = b""
    claimed: int | None = None


def jpeg_segments(data: bytes) -> list[Segment]:
    """The segments of a JPEG between its first and last marker, as far as it is one."""
    segments, position = [], 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xD9:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        content, position = data[position + 4 : position + 2 + length], position + 2 + max(2, length)
        end = position
        while marker == SOS and end + 1 < len(data) and not _ends_scan(data[end : end + 2]):
            following = data.find(b"\xff", end + 1)
            end = following if following >= 0 else len(data)
        segments.append(Segment(marker, content, data[position:end]))
        position = end
    return segments or [Segment(COMMENT, b"")]


def _ends_scan(pair: bytes) -> bool:
    return pair[0] == 0xFF and pair[1] != 0 and not 0xD0 <= pair[1] <= 0xD7


def jpeg_bytes(segments: list[Segment]) -> bytes:
    """The file again."""
    parts = [b"\xff\xd8"]
    for each in segments:
        length = len(each.content) + 2 if each.claimed is None else each.claimed
        parts += [bytes([0xFF, each.marker]), (length & 0xFFFF).to_bytes(2, "big"), each.content, each.scan]
    return b"".join([*parts, b"\xff\xd9"])


def _in_segments(name: str, change: Callable[[list[Segment], Random], list[Segment]]) -> Mutator:
    def mutate(data: bytes, rng: Random) -> bytes:
        return jpeg_bytes(change(jpeg_segments(data), rng))

    mutate.__name__ = name
    return mutate


def _in_segment(name: str, markers: tuple[int, ...], change: Callable[[Segment, Random], Segment]) -> Mutator:
    """Change one segment of these kinds; a file without any stays as it is."""

    def mutate(data: bytes, rng: Random) -> bytes:
        segments = jpeg_segments(data)
        places = [index for index, each in enumerate(segments) if each.marker in markers]
        for index in places and [rng.choice(places)]:
            segments[index] = change(segments[index], rng)
        return jpeg_bytes(segments)

    mutate.__name__ = name
    return mutate


def _set_byte(content: bytes, index: int, value: int) -> bytes:
    changed = bytearray(content)
    if changed:
        changed[index % len(changed)] = value
    return bytes(changed)


def _jpeg_size(frame: Segment, rng: Random) -> Segment:
    height, width = rng.choice(SIZES), rng.choice(SIZES)
    return replace(frame, content=frame.content[:1] + struct.pack(">HH", height, width) + frame.content[5:])


def _jpeg_precision(frame: Segment, rng: Random) -> Segment:
    return replace(frame, content=_set_byte(frame.content, 0, rng.randrange(17)))


def _jpeg_components(frame: Segment, rng: Random) -> Segment:
    count = rng.choice((0, 1, 2, 4, 5, 255))
    lists = b"".join(bytes([number & 255, 0x11, 0]) for number in range(count))
    return replace(frame, content=frame.content[:5] + bytes([count]) + rng.choice((frame.content[6:], lists)))


def _jpeg_sampling(frame: Segment, rng: Random) -> Segment:
    index = 7 + 3 * rng.randrange(4)
    return replace(frame, content=_set_byte(frame.content, index, rng.choice((0, 0x14, 0x41, 0x44, 0x33, 0xFF))))


def _jpeg_random_byte(segment: Segment, rng: Random) -> Segment:
    index = rng.randrange(len(segment.content) + 1)
    return replace(segment, content=_set_byte(segment.content, index, rng.choice((0, 1, 255, rng.randrange(256)))))


def _restart_markers(scan: Segment, rng: Random) -> Segment:
    middle = rng.randrange(len(scan.scan) + 1)
    markers = b"".join(bytes([0xFF, 0xD0 + rng.randrange(8)]) for _ in range(rng.choice((1, 5, 5000))))
    return replace(scan, scan=scan.scan[:middle] + markers + scan.scan[middle:])


def _many_scans(segments: list[Segment], rng: Random) -> list[Segment]:
    """A scan bomb: scans of a few bytes, for each of which a decoder passes over all pixels."""
    scans = [each for each in segments if each.marker == SOS]
    if not scans:
        return segments
    chosen = rng.choice(scans)
    return segments + [replace(chosen, scan=chosen.scan[: rng.choice((0, 2, 50))])] * rng.choice((20, 1000, 20_000))


def _hostile_exif(segments: list[Segment], rng: Random) -> list[Segment]:
    block = b"Exif\0\0" + _hostile_directory(rng)
    return [Segment(APP1, block[:65_000]), *(each for each in segments if each.marker != APP1)]


def _hostile_directory(rng: Random) -> bytes:
    """A TIFF directory that points to itself, or promises more than there is."""
    order, mark = rng.choice((("<", b"II*\0"), (">", b"MM\0*")))
    start = rng.choice((8, 8, 8, 0, 4, 2**31, 2**32 - 1))
    count = rng.choice((0, 1, 2, 40, 5000, 65_535))
    entry = struct.pack(f"{order}HHII", rng.choice((274, 34_665, 330, 513, 40_965)), rng.choice((1, 3, 4, 5, 99)), 1, 8)
    huge = struct.pack(f"{order}HHII", 274, rng.choice((3, 4, 12)), rng.choice(LARGE), rng.choice((8, *LARGE)))
    turned = struct.pack(f"{order}HHIHH", 274, 3, 1, rng.choice((0, 5, 9, 65_535)), 0)
    entries = b"".join(rng.choice((entry, huge, turned)) for _ in range(min(count, 60)))
    following = struct.pack(f"{order}I", 8)  # a loop
    return mark + struct.pack(f"{order}I", start) + struct.pack(f"{order}H", count) + entries + following


JPEG: tuple[Mutator, ...] = (
    _in_segments("jpeg_drop", lambda segments, rng: _dropped(segments, rng)),
    _in_segments("jpeg_double", lambda segments, rng: _doubled(segments, rng)),
    _in_segments("jpeg_swap", lambda segments, rng: _swapped(segments, rng)),
    _in_segments("jpeg_many_scans", _many_scans),
    _in_segments("jpeg_exif", _hostile_exif),
    _in_segments(
        "jpeg_comments", lambda segments, rng: [Segment(COMMENT, bytes(65_533))] * rng.choice((1, 300)) + segments
    ),
    _in_segments(
        "jpeg_restart_interval", lambda segments, rng: [Segment(DRI, rng.choice(SIZES).to_bytes(2, "big")), *segments]
    ),
    _in_segments(
        "jpeg_adobe", lambda segments, rng: [Segment(APP14, b"Adobe\0d\0\0\0\0" + rng.randbytes(1)), *segments]
    ),
    _in_segment(
        "jpeg_length", tuple(range(0xC0, 0xFF)), lambda each, rng: replace(each, claimed=rng.choice((*SIZES, 3, 4)))
    ),
    _in_segment("jpeg_size", _FRAMES, _jpeg_size),
    _in_segment("jpeg_components", _FRAMES, _jpeg_components),
    _in_segment("jpeg_sampling", _FRAMES, _jpeg_sampling),
    _in_segment(
        "jpeg_precision",
        _FRAMES,
        _jpeg_precision,
    ),
    _in_segment("jpeg_frame_kind", _FRAMES, lambda each, rng: replace(each, marker=rng.choice(_FRAMES))),
    _in_segment("jpeg_arithmetic", _FRAMES, lambda each, rng: replace(each, marker=rng.choice((0xC9, 0xCA)))),
    _in_segment("jpeg_quantization", (DQT,), _jpeg_random_byte),
    _in_segment("jpeg_huffman", (DHT,), _jpeg_random_byte),
    _in_segment("jpeg_scan_header", (SOS,), _jpeg_random_byte),
    _in_segment("jpeg_restart_markers", (SOS,), _restart_markers),
    _in_segment("jpeg_scan_cut", (SOS,), lambda each, rng: replace(each, scan=truncate(each.scan, rng))),
    _in_segment("jpeg_scan_bits", (SOS,), lambda each, rng: replace(each, scan=flip_bits(each.scan, rng))),
)


# ---------------------------------------------------------------------------------------------------------- PNG


def png_chunks(data: bytes) -> list[bytes]:
    """The chunks of a PNG, each its kind and content, as far as it is one."""
    chunks, position = [], 8
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        chunks.append(data[position + 4 : position + 8 + length])
        position += 12 + length
    return chunks or [b"IEND"]


def png_bytes(chunks: list[bytes]) -> bytes:
    """The file again, with right lengths and checksums."""
    parts = [struct.pack(">I", max(0, len(each) - 4)) + each + struct.pack(">I", zlib.crc32(each)) for each in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@functools.cache
def _packed_zeros(length: int) -> bytes:
    return zlib.compress(bytes(length), 9)


def _in_chunks(name: str, change: Callable[[list[bytes], Random], list[bytes]]) -> Mutator:
    def mutate(data: bytes, rng: Random) -> bytes:
        return png_bytes(change(png_chunks(data), rng))

    mutate.__name__ = name
    return mutate


def _png_header(chunks: list[bytes], rng: Random) -> list[bytes]:
    """Another size, or other bits, color type, compression, filter or interlacing."""
    size = struct.pack(">II", rng.choice((*SIZES, *LARGE)), rng.choice((*SIZES, *LARGE)))
    rest = bytes([rng.choice((1, 2, 4, 8, 16, 0, 255)), rng.choice((0, 2, 3, 4, 6, 1, 7))])
    rest += bytes([rng.choice((0, 0, 1)), rng.choice((0, 0, 1)), rng.choice((0, 1, 2))])
    header = chunks[0]
    return [b"IHDR" + rng.choice((size + header[12:], header[4:12] + rest, size + rest)), *chunks[1:]]


def _png_bomb(chunks: list[bytes], rng: Random) -> list[bytes]:
    """A stream of few bytes that unpacks to very many, under a header that claims little, or as much as is allowed."""
    packed = _packed_zeros(rng.choice((10**6, 10**8)))
    width, height = rng.choice(((64, 64), (10_000, 10_000), (14_000, 14_000), (200_000, 900)))
    header = struct.pack(
        ">IIBBBBB", width, height, rng.choice((1, 8, 16)), rng.choice((0, 2, 6)), 0, 0, rng.choice((0, 1))
    )
    return [b"IHDR" + header, b"IDAT" + packed * rng.choice((1, 1, 4)), b"IEND"]


def _png_texts(chunks: list[bytes], rng: Random) -> list[bytes]:
    """Text that unpacks to a hundred megabytes, or simply is very much."""
    packed = _packed_zeros(10**8)
    text = rng.choice((b"zTXtComment\0\0" + packed, b"iTXtComment\0\1\0\0\0" + packed, b"tEXtComment\0" + bytes(10**6)))
    return chunks[:1] + [text] * rng.choice((1, 20)) + chunks[1:]


def _png_profile(chunks: list[bytes], rng: Random) -> list[bytes]:
    odd = (b"iCCPx\0\0" + _packed_zeros(10**7), b"gAMA\0\0\0\0", b"cHRM" + bytes(32), b"sBIT\xff\xff\xff")
    return [*chunks[:1], rng.choice((*odd, b"eXIf" + _hostile_directory(rng), b"bKGD\xff", b"hIST\0")), *chunks[1:]]


def _png_transparency(chunks: list[bytes], rng: Random) -> list[bytes]:
    return [*chunks[:1], b"tRNS" + rng.randbytes(rng.choice((0, 1, 6, 300))), *chunks[1:]]


def _png_palette(chunks: list[bytes], rng: Random) -> list[bytes]:
    return [*chunks[:1], b"PLTE" + rng.randbytes(rng.choice((0, 1, 3, 768, 900))), *chunks[1:]]


def _png_animation(chunks: list[bytes], rng: Random) -> list[bytes]:
    control = b"acTL" + struct.pack(">II", rng.choice(LARGE), 0)
    frame = b"fcTL" + struct.pack(">IIIIIHHBB", 0, *(rng.choice((*SIZES, *LARGE)) for _ in range(4)), 1, 1, 3, 1)
    return [*chunks[:1], control, frame, *chunks[1:]]


def _png_unpacked(chunks: list[bytes], rng: Random) -> list[bytes]:
    """Filter bytes and pixels changed below the compression."""
    packed = b"".join(each[4:] for each in chunks if each[:4] == b"IDAT")
    try:
        changed = rng.choice((flip_bits, run_of_bytes, truncate, insert_bytes))(zlib.decompress(packed), rng)
    except zlib.error:
        return chunks
    others = [each for each in chunks if each[:4] not in (b"IDAT", b"IEND")]
    return [*others, b"IDAT" + zlib.compress(changed, 1), b"IEND"]


PNG: tuple[Mutator, ...] = (
    _in_chunks("png_drop", lambda chunks, rng: _dropped(chunks, rng)),
    _in_chunks("png_double", lambda chunks, rng: _doubled(chunks, rng)),
    _in_chunks("png_swap", lambda chunks, rng: _swapped(chunks, rng)),
    _in_chunks("png_cut", lambda chunks, rng: _changed(chunks, rng, lambda each: each[:4] + truncate(each[4:], rng))),
    _in_chunks("png_bits", lambda chunks, rng: _changed(chunks, rng, lambda each: each[:4] + flip_bits(each[4:], rng))),
    _in_chunks("png_kind", lambda chunks, rng: _changed(chunks, rng, lambda each: flip_bits(each[:4], rng) + each[4:])),
    _in_chunks("png_transparency", _png_transparency),
    _in_chunks("png_palette", _png_palette),
    _in_chunks("png_header", _png_header),
    _in_chunks("png_bomb", _png_bomb),
    _in_chunks("png_texts", _png_texts),
    _in_chunks("png_profile", _png_profile),
    _in_chunks("png_animation", _png_animation),
    _in_chunks("png_unpacked", _png_unpacked),
)  # fmt: skip


# --------------------------------------------------------------------------------------------------------- TIFF

_TIFF_VALUES = {
    256: SIZES, 257: SIZES, 258: (1, 2, 4, 8, 12, 16, 24, 32, 64),
    259: (1, 2, 3, 4, 5, 6, 7, 8, 32_773, 32_946, 34_712),
    262: (0, 1, 2, 3, 4, 5, 6, 8, 32_845), 266: (1, 2), 273: LARGE, 277: (0, 1, 2, 3, 4, 5, 255, 65_535),
    278: LARGE, 279: LARGE, 284: (1, 2, 3), 317: (1, 2, 3), 322: (16, *LARGE), 323: (16, *LARGE), 338: (0, 1, 2),
    339: (1, 2, 3, 4, 5, 6), 274: (0, 5, 9, 65_535),
}  # fmt: skip


def _in_entries(name: str, change: Callable[[bytes, int, str, Random], bytes]) -> Mutator:
    """Change one entry of the first directory: 12 bytes at a place, in the file's byte order."""

    def mutate(data: bytes, rng: Random) -> bytes:
        order = "<" if data.startswith(b"II") else ">"
        (directory,) = struct.unpack(f"{order}I", data[4:8].ljust(4, b"\0"))
        if directory + 2 > len(data):
            return data
        (count,) = struct.unpack(f"{order}H", data[directory : directory + 2])
        places = [place for place in range(directory + 2, directory + 2 + 12 * count, 12) if place + 12 <= len(data)]
        return change(data, rng.choice(places), order, rng) if places else data

    mutate.__name__ = name
    return mutate


def _put(data: bytes, place: int, content: bytes) -> bytes:
    return data[:place] + content + data[place + len(content) :]


def _tiff_value(data: bytes, place: int, order: str, rng: Random) -> bytes:
    tag, kind = struct.unpack(f"{order}HH", data[place : place + 4])
    value = rng.choice(_TIFF_VALUES.get(tag, LARGE))
    packed = struct.pack(f"{order}H", value & 0xFFFF) if kind == 3 else struct.pack(f"{order}I", value)
    return _put(data, place + 8, packed)


def _tiff_several(data: bytes, place: int, order: str, rng: Random) -> bytes:
    """Size, bits and compression may all lie at once."""
    for _ in range(4):
        data = _in_entries("", _tiff_value)(data, rng)
    return data


def _tiff_loop(data: bytes, place: int, order: str, rng: Random) -> bytes:
    """Pages without end: the directory that follows is the first one, or one beyond the file."""
    (directory,) = struct.unpack(f"{order}I", data[4:8])
    (count,) = struct.unpack(f"{order}H", data[directory : directory + 2])
    return _put(data, directory + 2 + 12 * count, struct.pack(f"{order}I", rng.choice((directory, 8, 2**32 - 1))))


def tiff_other_order(data: bytes, rng: Random) -> bytes:
    """The same bytes under the other byte order's mark."""
    return (b"MM\0*" if data.startswith(b"II") else b"II*\0") + data[4:]


TIFF: tuple[Mutator, ...] = (
    _in_entries("tiff_value", _tiff_value),
    _in_entries("tiff_several", _tiff_several),
    _in_entries("tiff_loop", _tiff_loop),
    _in_entries(
        "tiff_tag",
        lambda data, place, order, rng: _put(data, place, struct.pack(f"{order}H", rng.choice(list(_TIFF_VALUES)))),
    ),
    _in_entries(
        "tiff_type", lambda data, place, order, rng: _put(data, place + 2, struct.pack(f"{order}H", rng.randrange(20)))
    ),
    _in_entries(
        "tiff_count", lambda data, place, order, rng: _put(data, place + 4, struct.pack(f"{order}I", rng.choice(LARGE)))
    ),
    _in_entries(
        "tiff_offset",
        lambda data, place, order, rng: _put(data, place + 8, struct.pack(f"{order}I", rng.choice((8, *LARGE)))),
    ),
    _in_entries("tiff_entry", lambda data, place, order, rng: _put(data, place, rng.randbytes(12))),
    tiff_other_order,
)


# ------------------------------------------------------------------------------------------------- BMP and WebP


def bmp_header(data: bytes, rng: Random) -> bytes:
    """Size, planes, bits, compression, palette or the place of the pixels."""
    place, code, values = rng.choice((
        (10, "<I", LARGE), (14, "<I", (12, 16, 40, 52, 56, 64, 108, 124, *LARGE)), (18, "<i", (*SIZES, -1, -(2**31))),
        (22, "<i", (*SIZES, -1, -480, -(2**31))), (28, "<H", (1, 4, 8, 16, 24, 32, 0, 64)), (30, "<I", range(8)),
        (34, "<I", LARGE), (46, "<I", LARGE), (54, "<I", LARGE),
    ))  # fmt: skip
    return _put(data, place, struct.pack(code, rng.choice(tuple(values))))


def bmp_run_lengths(data: bytes, rng: Random) -> bytes:
    """Run-length pixels, whose commands may jump anywhere."""
    width, height = rng.choice(SIZES), rng.choice(SIZES)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 0, 0, 256, 0)
    pixels = b"".join(rng.choice((b"\0\2\xff\xff", b"\xff\x80", b"\0\0", b"\0\x09abc", b"\0\1")) for _ in range(2000))
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + header + rng.randbytes(1024) + pixels


def webp_chunk(data: bytes, rng: Random) -> bytes:
    """The length of a chunk or of the file."""
    return _put(data, rng.choice((4, 16)), struct.pack("<I", rng.choice((*LARGE, len(data)))))


def webp_header(data: bytes, rng: Random) -> bytes:
    """Size, flags and the first bits of the pixels."""
    return _put(data, rng.randrange(12, 40), rng.randbytes(rng.choice((1, 3))))


def webp_frames(data: bytes, rng: Random) -> bytes:
    """An animation whose frames claim anything."""
    canvas = b"VP8X" + struct.pack("<IBBH", 10, rng.choice((0x02, 0x12, 0x3E)), 0, 0) + rng.randbytes(6)
    frames = b"ANMF" + struct.pack("<I", rng.choice((16, *LARGE))) + rng.randbytes(16) + data[12:]
    content = b"WEBP" + canvas + b"ANIM" + struct.pack("<IIH", 6, 0, 0) + frames * rng.choice((1, 50))
    return b"RIFF" + struct.pack("<I", len(content)) + content


BMP: tuple[Mutator, ...] = (bmp_header, bmp_run_lengths)
WEBP: tuple[Mutator, ...] = (webp_chunk, webp_header, webp_frames)


# -------------------------------------------------------------------------------------------------------- DICOM

_DICOM_LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF", b"OD", b"OL", b"UC", b"UR")
_DICOM_NUMBERS = {
    (0x28, 0x02): (0, 1, 2, 3, 4, 65_535), (0x28, 0x06): (0, 1, 2), (0x28, 0x10): SIZES, (0x28, 0x11): SIZES,
    (0x28, 0x100): (0, 1, 7, 8, 12, 16, 32, 64, 65_535), (0x28, 0x101): (0, 1, 8, 12, 16, 65_535),
    (0x28, 0x102): (0, 7, 15, 65_535), (0x28, 0x103): (0, 1, 2),
}  # fmt: skip
_DICOM_WORDS = {
    (0x28, 0x04): (b"MONOCHROME1", b"MONOCHROME2", b"RGB", b"PALETTE COLOR", b"YBR_FULL", b"YBR_FULL_422", b"YBR_RCT",
                   b"YBR_ICT", b"HSV", b"", b"\xff\xfe"),
    (0x28, 0x08): (b"0", b"1", b"-1", b"2147483647", b"1e9", b"many", b""),
    (0x02, 0x10): (b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.2",
                   b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.4.57", b"1.2.840.10008.1.2.4.70",
                   b"1.2.840.10008.1.2.4.80", b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.4.201",
                   b"1.2.840.10008.1.2.5", b"1.2.3", b""),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Element:
    """A data element of explicit little-endian DICOM; `claimed` replaces the right length."""

    tag: tuple[int, int]
    kind: bytes
    value: bytes
    claimed: int | None = None


def dicom_elements(data: bytes) -> list[Element]:
    """The elements of the outermost level, as far as they can be followed; the rest is the last one's value."""
    elements, position = [], 132
    while position + 8 <= len(data):
        tag, kind = struct.unpack("<HH", data[position : position + 4]), data[position + 4 : position + 6]
        is_long = kind in _DICOM_LONG
        (length,) = struct.unpack_from("<I" if is_long else "<H", data[position + 6 + 2 * is_long :].ljust(4, b"\0"))
        start = position + (12 if is_long else 8)
        claimed = length if length == 2**32 - 1 else None
        end = len(data) if claimed is not None else start + length
        elements.append(Element(tag, kind, data[start:end], claimed))
        position = end
    return elements or [Element((8, 8), b"CS", b"")]


def dicom_bytes(elements: list[Element]) -> bytes:
    """The file again."""
    parts = [bytes(128), b"DICM"]
    for each in elements:
        length = len(each.value) if each.claimed is None else each.claimed
        size = (
            struct.pack("<HI", 0, length & 0xFFFFFFFF)
            if each.kind in _DICOM_LONG
            else struct.pack("<H", length & 0xFFFF)
        )
        parts += [struct.pack("<HH", *each.tag), each.kind, size, each.value]
    return b"".join(parts)


def _in_elements(name: str, change: Callable[[list[Element], Random], list[Element]]) -> Mutator:
    def mutate(data: bytes, rng: Random) -> bytes:
        return dicom_bytes(change(dicom_elements(data), rng))

    mutate.__name__ = name
    return mutate


def _in_element(
    name: str, change: Callable[[Element, Random], Element], tags: tuple[tuple[int, int], ...] = ()
) -> Mutator:
    """Change one element, of these tags if there are any of them."""

    def mutate(data: bytes, rng: Random) -> bytes:
        elements = dicom_elements(data)
        places = [index for index, each in enumerate(elements) if not tags or each.tag in tags]
        for index in places and [rng.choice(places)]:
            elements[index] = change(elements[index], rng)
        return dicom_bytes(elements)

    mutate.__name__ = name
    return mutate


def _dicom_kind(element: Element, rng: Random) -> Element:
    return replace(element, kind=rng.choice((*_DICOM_LONG, b"US", b"CS", b"??", b"\0\0")))


def _dicom_number(element: Element, rng: Random) -> Element:
    return replace(element, value=struct.pack("<H", rng.choice(_DICOM_NUMBERS[element.tag])))


def _dicom_word(element: Element, rng: Random) -> Element:
    word = rng.choice(_DICOM_WORDS[element.tag])
    return replace(element, value=word + (b" " if element.tag[0] == 0x28 else b"\0") * (len(word) % 2))


def _dicom_frames(element: Element, rng: Random) -> Element:
    """Fragments of encapsulated pixels cut, multiplied or with lengths that lie; other pixels likewise."""
    item = b"\xfe\xff\x00\xe0"
    pieces = element.value.split(item)
    pieces = rng.choice((_dropped, _doubled, _swapped))(pieces, rng)
    pieces = _changed(pieces, rng, lambda each: rng.choice((each, struct.pack("<I", rng.choice(LARGE)) + each[4:])))
    return replace(element, value=item.join(pieces), claimed=rng.choice((element.claimed, None, 2**32 - 1)))


def _dicom_nested(elements: list[Element], rng: Random) -> list[Element]:
    """Sequences in sequences, of undefined length or of none."""
    depth, length = rng.choice((3, 200, 5000)), rng.choice((2**32 - 1, 0, 8))
    opened = b"\xfe\xff\x00\xe0" + struct.pack("<I", length)
    inner = (opened + b"\x08\0\x15\x11SQ\0\0" + struct.pack("<I", length)) * depth
    return [*elements[:-1], Element((8, 0x1115), b"SQ", inner, length), *elements[-1:]]


_PIXELS = ((0x7FE0, 0x10),)
DICOM: tuple[Mutator, ...] = (
    _in_elements("dicom_drop", lambda elements, rng: _dropped(elements, rng)),
    _in_elements("dicom_double", lambda elements, rng: _doubled(elements, rng)),
    _in_elements("dicom_swap", lambda elements, rng: _swapped(elements, rng)),
    _in_elements("dicom_nested", _dicom_nested),
    _in_element("dicom_length", lambda each, rng: replace(each, claimed=rng.choice((*SIZES, *LARGE)))),
    _in_element("dicom_kind", _dicom_kind),
    _in_element("dicom_value", lambda each, rng: replace(each, value=flip_bits(each.value, rng))),
    _in_element("dicom_number", _dicom_number, tuple(_DICOM_NUMBERS)),
    _in_element("dicom_word", _dicom_word, tuple(_DICOM_WORDS)),
    _in_element("dicom_syntax", _dicom_word, ((0x02, 0x10),)),
    _in_element("dicom_frames", _dicom_frames, _PIXELS),
    _in_element("dicom_pixels_cut", lambda each, rng: replace(each, value=truncate(each.value, rng)), _PIXELS),
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- zip


def _in_directory(name: str, field: int, code: str, values: tuple[int, ...]) -> Mutator:
    """Change a field of an entry in the central directory, and where it is the same in the entry's own header."""

    def mutate(data: bytes, rng: Random) -> bytes:
        places = [place for place in range(len(data) - 46) if data[place : place + 4] == b"PK\1\2"]
        return _put(data, rng.choice(places) + field, struct.pack(code, rng.choice(values))) if places else data

    mutate.__name__ = name
    return mutate


def zip_names(data: bytes, rng: Random) -> bytes:
    """Names that climb out of the archive, begin at the root, hold zero bytes, or are all alike."""
    names = ("../../up.jpg", "/root.png", "a\\..\\b.jpg", "C:/x.png", "=cmd|x.png", "n\0ul.jpg", "same.png", "x" * 255)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in rng.sample(names, 3):
            archive.writestr(zipfile.ZipInfo(name), data[:5000])
    return out.getvalue()


def zip_bomb(data: bytes, rng: Random) -> bytes:
    """Images of zeros that unpack to a hundred megabytes each, or an archive within an archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(rng.choice((1, 4))):
            archive.writestr(f"{number}.png", rng.choice((b"\x89PNG\r\n\x1a\n" + bytes(10**8), data)))
        archive.writestr("inner.zip", data)
    return out.getvalue()


ZIP: tuple[Mutator, ...] = (
    _in_directory("zip_flags", 8, "<H", (0, 1, 8, 0x41, 0x800, 65_535)),
    _in_directory("zip_method", 10, "<H", (0, 8, 9, 12, 14, 93, 95, 99)),
    _in_directory("zip_packed_size", 20, "<I", LARGE),
    _in_directory("zip_size", 24, "<I", LARGE),
    _in_directory("zip_name_length", 28, "<H", SIZES),
    _in_directory("zip_offset", 42, "<I", LARGE),
    zip_names,
    zip_bomb,
)


# ---------------------------------------------------------------------------------------------------- originals


def originals_of(image: NDArray[np.uint8], *, with_dicom: bool = True) -> dict[str, bytes]:
    """A photograph (H, W, 3) in every format and in the kinds of it that decoders treat differently."""
    original = Image.fromarray(image)
    gray16 = np.asarray(original.convert("L")).astype(np.uint16) * 257
    jpeg = _saved(original, "JPEG", quality=85)
    made = {
        "jpeg": jpeg,
        "jpeg_progressive": _saved(original, "JPEG", progressive=True),
        "jpeg_full_chroma": _saved(original, "JPEG", subsampling=0, quality=95),
        "jpeg_gray": _saved(original.convert("L"), "JPEG"),
        "jpeg_cmyk": _saved(original.convert("CMYK"), "JPEG"),
        "jpeg_restarts": _saved(original, "JPEG", restart_marker_rows=1),
        "png": _saved(original, "PNG", compress_level=1),
        "png_palette": _saved(original.convert("P"), "PNG", transparency=1),
        "png_alpha": _saved(original.convert("RGBA"), "PNG", compress_level=1),
        "png_16bit": _saved(Image.fromarray(gray16), "PNG"),
        "png_animated": _saved(original, "PNG", save_all=True, append_images=[original.rotate(90)]),
        "tiff": _saved(original, "TIFF"),
        "tiff_lzw": _saved(original, "TIFF", compression="tiff_lzw"),
        "tiff_deflate": _saved(original, "TIFF", compression="tiff_adobe_deflate"),
        "tiff_jpeg": _saved(original, "TIFF", compression="jpeg"),
        "tiff_fax": _saved(original.convert("1"), "TIFF", compression="group4"),
        "tiff_16bit": _saved(Image.fromarray(gray16), "TIFF"),
        "bmp": _saved(original, "BMP"),
        "bmp_palette": _saved(original.convert("P"), "BMP"),
        "webp": _saved(original, "WEBP"),
        "webp_lossless": _saved(original, "WEBP", lossless=True, quality=0, method=0),
        "webp_alpha": _saved(original.convert("RGBA"), "WEBP"),
        "gif": _saved(original, "GIF"),
        "avif": _saved(original, "AVIF"),
        "jp2": _saved(original, "JPEG2000"),
        "j2k": _saved(original, "JPEG2000", no_jp2=True, irreversible=True),
        "ppm": _saved(original, "PPM"),
        "pgm": b"P5\n%d %d\n65535\n" % original.size + gray16.astype(">u2").tobytes(),
        "zip": _zipped({"eye.jpg": jpeg, "b/other.webp": _saved(original, "WEBP")}),
    }
    if with_dicom:
        made |= {"dicom": dicom_of_pixels(image), "dicom_jpeg": dicom_of_jpeg(image, jpeg)}
        made |= {"bare_dicom": made["dicom"][132:]}
    return made


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def _zipped(members: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # with a fixed date, so that seeds give the same bytes
    return out.getvalue()


def dicom_of_pixels(image: NDArray[np.uint8]) -> bytes:
    """A photograph (H, W, 3) as an uncompressed DICOM file."""
    return _dicom(image.shape, "1.2.840.10008.1.2.1", "RGB", image.tobytes())


def dicom_of_jpeg(image: NDArray[np.uint8], jpeg: bytes) -> bytes:
    """A DICOM file around the bytes of a JPEG of that photograph (H, W, 3)."""
    from pydicom.encaps import encapsulate

    return _dicom(image.shape, "1.2.840.10008.1.2.4.50", "YBR_FULL_422", encapsulate([jpeg]))


def _dicom(shape: tuple[int, ...], syntax: str, photometric: str, pixels: bytes) -> bytes:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.filewriter import dcmwrite

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = syntax, "1.2.840.10008.5.1.4.1.1.77.1.5.1"
    meta.MediaStorageSOPInstanceUID = meta.ImplementationClassUID = "1.2.3"
    file = Dataset()
    file.file_meta = meta
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.Rows, file.Columns, file.SamplesPerPixel, file.PlanarConfiguration = shape[0], shape[1], 3, 0
    file.PhotometricInterpretation, file.NumberOfFrames = photometric, 1
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 8, 8, 7, 0
    file.PixelData = pixels
    file["PixelData"].VR = "OB"
    file["PixelData"].is_undefined_length = syntax.startswith("1.2.840.10008.1.2.4")
    out = io.BytesIO()
    dcmwrite(out, file, enforce_file_format=True)
    return out.getvalue()
