"""Reading, writing and finding photographs: complete images are read exactly, damaged ones refused with a reason."""

from __future__ import annotations

import hashlib
import io
import os
import random
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as PilImage
from PIL import ImageOps

from fundusgrade.errors import FundusgradeError, StoreError, UnreadableImageError
from fundusgrade.files import hash_file
from fundusgrade.photographs import pixels
from fundusgrade.photographs.images import encode_jpeg, jpeg_quantization, read_image, reduced, write_image
from fundusgrade.photographs.pixels import NO_MEMORY, Image
from fundusgrade.photographs.sources import find_images
from tests.photographs.cost import measured_cost

HEIGHT, WIDTH = 48, 64


def make_image(height: int = HEIGHT, width: int = WIDTH) -> Image:
    """Smooth, different in every channel, and unlike any of its reflections."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 200 // width, y * 250 // height, (x + 2 * y) * 150 // (width + 2 * height)], -1).astype(
        np.uint8
    )


def encode(image: PilImage.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def encode_cv2(suffix: str, values: np.ndarray) -> bytes:
    """Values in RGB, RGBA or gray; OpenCV wants BGR."""
    if values.ndim == 3:
        values = np.concatenate([values[..., 2::-1], values[..., 3:]], axis=2)
    return bytes(cv2.imencode(suffix, values)[1])


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def patched(data: bytes, position: int, replacement: bytes) -> bytes:
    return data[:position] + replacement + data[position + len(replacement) :]


def read_data(folder: Path, data: bytes) -> Image:
    path = folder / "photograph.jpg"  # the content decides, not the suffix
    path.write_bytes(data)
    return read_image(path)


def reason(folder: Path, data: bytes) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        read_data(folder, data)
    return str(caught.value)


def assert_close(actual: Image, expected: Image, tolerance: float) -> None:
    assert actual.shape == expected.shape
    assert float(np.abs(actual.astype(int) - expected.astype(int)).mean()) <= tolerance


PIXELS = make_image()
PIL_IMAGE = PilImage.fromarray(PIXELS)
DEEP = PIXELS.astype(np.uint16) * 257
WHOLE = {
    "JPEG": encode(PIL_IMAGE, "JPEG", quality=95, subsampling=0),
    "progressive JPEG": encode(PIL_IMAGE, "JPEG", quality=95, progressive=True),
    "PNG": encode(PIL_IMAGE, "PNG"),
    "TIFF": encode(PIL_IMAGE, "TIFF"),
    "LZW TIFF": encode(PIL_IMAGE, "TIFF", compression="tiff_lzw"),
    "JPEG TIFF": encode(PIL_IMAGE, "TIFF", compression="jpeg", quality=95),
    "BMP": encode(PIL_IMAGE, "BMP"),
    "WebP": encode(PIL_IMAGE, "WEBP", quality=95),
    "lossless WebP": encode(PIL_IMAGE, "WEBP", lossless=True),
    "16-bit PNG": encode_cv2(".png", DEEP),
    "16-bit TIFF": encode_cv2(".tif", DEEP),
}
LOSSY = {"JPEG", "progressive JPEG", "JPEG TIFF", "WebP"}


# --- Complete images --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WHOLE)
def test_every_format_is_read(kind: str, tmp_path: Path) -> None:
    image = read_data(tmp_path, WHOLE[kind])
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous and image.flags.writeable
    assert_close(image, PIXELS, 3.0 if kind in LOSSY else 0.0)


@pytest.mark.parametrize("compression", ["tiff_adobe_deflate", "packbits", "tiff_lzw"])
@pytest.mark.parametrize("mode", ["L", "P", "1", "RGB"])
def test_compressed_tiff_of_every_mode(mode: str, compression: str, tmp_path: Path) -> None:
    original = PIL_IMAGE.convert(mode)
    image = read_data(tmp_path, encode(original, "TIFF", compression=compression))
    np.testing.assert_array_equal(image, np.asarray(original.convert("RGB")))


@pytest.mark.parametrize("mode", ["1", "L", "P"])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_gray_palette_and_one_bit_become_rgb(mode: str, kind: str, tmp_path: Path) -> None:
    original = PIL_IMAGE.convert(mode)
    image = read_data(tmp_path, encode(original, kind))
    np.testing.assert_array_equal(image, np.asarray(original.convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_has_the_colors_of_rgb(kind: str, tmp_path: Path) -> None:
    assert_close(read_data(tmp_path, encode(PIL_IMAGE.convert("CMYK"), kind)), PIXELS, 3.0)


def test_only_the_first_page_is_read(tmp_path: Path) -> None:
    other = PilImage.new("L", (90, 40), 200)
    thumbnail = PilImage.new("L", (32, 24), 200)
    data = encode(PIL_IMAGE, "TIFF", save_all=True, append_images=[thumbnail, thumbnail])
    np.testing.assert_array_equal(read_data(tmp_path, data), PIXELS)
    stereo = encode(PIL_IMAGE, "MPO", save_all=True, append_images=[other.convert("RGB")], quality=95)
    assert_close(read_data(tmp_path, stereo), PIXELS, 5.0)


def test_white_is_zero_is_inverted(tmp_path: Path) -> None:
    gray = PIL_IMAGE.convert("L")
    for image in (gray, PilImage.fromarray(np.asarray(gray).astype(np.uint16) * 257)):
        plain = read_data(tmp_path, encode(image, "TIFF"))
        np.testing.assert_array_equal(plain[..., 0], np.asarray(gray))
    # Pillow, writing 16 bits, sets the tag but leaves the values as they are.
    data = encode(PilImage.fromarray(np.asarray(gray).astype(np.uint16) * 257), "TIFF", tiffinfo={262: 0})
    np.testing.assert_array_equal(read_data(tmp_path, data)[..., 0], 255 - np.asarray(gray))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "lossless WebP"])
def test_transparent_pixels_become_black(kind: str, tmp_path: Path) -> None:
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[:, 20:40], alpha[:, 40:] = 128, 255
    image = PIL_IMAGE.copy()
    image.putalpha(PilImage.fromarray(alpha))
    options = {"format": "WEBP", "lossless": True, "exact": True} if "WebP" in kind else {"format": kind}
    buffer = io.BytesIO()
    image.save(buffer, **options)
    expected = np.round(PIXELS * (alpha[..., np.newaxis] / 255))
    assert_close(read_data(tmp_path, buffer.getvalue()), expected.astype(np.uint8), 0.01)


def test_transparent_gray_palette_and_key_color_become_black(tmp_path: Path) -> None:
    gray_alpha = PilImage.merge("LA", [PilImage.new("L", (40, 40), 200), PilImage.new("L", (40, 40), 51)])
    assert (read_data(tmp_path, encode(gray_alpha, "PNG")) == 40).all()
    keyed = PilImage.new("RGB", (40, 40), (9, 9, 9))
    keyed.paste((100, 50, 25), (0, 0, 20, 40))
    image = read_data(tmp_path, encode(keyed, "PNG", transparency=(100, 50, 25)))
    assert (image[:, :20] == 0).all() and (image[:, 20:] == 9).all()
    palette = keyed.quantize(2)
    levels = bytes([255 if palette.getpixel((0, 0)) == 0 else 0, 255 if palette.getpixel((0, 0)) == 1 else 0])
    image = read_data(tmp_path, encode(palette, "PNG", transparency=levels))
    assert (image[:, :20] == (100, 50, 25)).all() and (image[:, 20:] == 0).all()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_are_scaled_exactly(suffix: str, channels: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (40, 50, channels), dtype=np.uint16)
    values[..., 3:] = 65535
    data = encode_cv2(suffix, values[..., 0] if channels == 1 else values)
    expected = np.round(np.repeat(values, 3, axis=2) / 257.0 if channels == 1 else values[..., :3] / 257.0)
    np.testing.assert_array_equal(read_data(tmp_path, data), expected)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_fewer_bits_in_files_of_16_are_scaled_by_their_own_range(bits: int, suffix: str, tmp_path: Path) -> None:
    full = 2**bits - 1
    values = np.random.default_rng(0).integers(0, full + 1, (40, 50, 3), dtype=np.uint16)
    values[0, 0, 0] = full
    image = read_data(tmp_path, encode_cv2(suffix, values))
    np.testing.assert_array_equal(image, np.round(values / full * 255.0))
    values[0, 0, 0] = full + 1
    assert read_data(tmp_path, encode_cv2(suffix, values)).max() == 64


def test_16_bit_alpha_is_composited(tmp_path: Path) -> None:
    values = np.full((40, 40, 4), 65535, np.uint16)
    values[..., 3] = 51 * 257
    assert (read_data(tmp_path, encode_cv2(".png", values)) == 51).all()


@pytest.mark.parametrize("samples", [1, 2, 3, 4, 5])
def test_16_bit_tiff_of_any_number_of_samples_is_rgb_or_refused(
    samples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "MIN_SIDE_PX", 1)
    height = HEIGHT * 3 // (2 * samples)
    photometric = 2 if samples > 2 else 1
    changed = ((257, height), (278, height), (277, samples), (262, photometric))
    try:
        assert read_data(tmp_path, make_tiff((258, 3, 1, 16), changed=changed)).shape == (height, WIDTH, 3)
    except UnreadableImageError as error:
        assert samples in (2, 4, 5) and "16 bits per channel" in str(error)


def test_damaged_metadata_does_not_matter(tmp_path: Path) -> None:
    """Any of these makes Pillow warn or refuse by itself; warnings are errors in the tests."""
    bad_exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0" + b"\x0f\x01\x02\0\xff\xff\xff\x7f\xff\xff\xff\x7f"
    for exif in (bad_exif, b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff"):
        jpeg = WHOLE["JPEG"]
        without_jfif = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[20:]
        assert_close(read_data(tmp_path, without_jfif), PIXELS, 3.0)
        for kind in ("PNG", "WEBP"):
            assert_close(read_data(tmp_path, encode(PIL_IMAGE, kind, exif=exif)), PIXELS, 5.0)
    head, rest = WHOLE["PNG"][:33], WHOLE["PNG"][33:]
    extras = (
        chunk(b"acTL", bytes(8)) * 2 + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(5_000_000))) + chunk(b"gAMA", b"")
    )
    np.testing.assert_array_equal(read_data(tmp_path, head + extras + rest), PIXELS)
    for extra in ((271, 2, 4000, 0x7FFFFFFF), (305, 2, 100_000, 8), (282, 5, 9, 8), (700, 99, 1, 0)):
        np.testing.assert_array_equal(read_data(tmp_path, make_tiff(extra)), PIXELS)


def make_tiff(*extra: tuple[int, int, int, int], changed: tuple[tuple[int, int], ...] = ()) -> bytes:
    """An uncompressed TIFF; `extra` are entries (tag, type, count, value), `changed` replaces values by tag."""
    pixels = PIXELS.tobytes()
    single = {256: WIDTH, 257: HEIGHT, 258: 8, 259: 1, 262: 2, 273: 8, 277: 3, 278: HEIGHT, 279: len(pixels)}
    single |= dict(changed)
    entries = sorted([(tag, 4, 1, value) for tag, value in single.items() if tag != 258] + list(extra))
    if 258 not in [entry[0] for entry in extra]:
        bits = single[258].to_bytes(2, "little") * 3
        entries = sorted([*entries, (258, 3, 3, 8 + len(pixels))])
    else:
        bits = b""
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels) + len(bits)) + pixels + bits + directory


# --- EXIF -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_every_orientation_gives_the_same_upright_image(kind: str, orientation: int, tmp_path: Path) -> None:
    # The way back of each transposition: only the two quarter turns are not their own inverse.
    stored_by = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = PIL_IMAGE.transpose(PilImage.Transpose(stored_by[orientation])) if orientation > 1 else PIL_IMAGE
    exif = PilImage.Exif()
    exif[274] = orientation
    options: dict[str, Any] = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    data = encode(stored, kind, exif=exif, **options)
    assert_close(read_data(tmp_path, data), PIXELS, 2.0 if kind == "JPEG" else 0.0)
    by_pillow = np.asarray(ImageOps.exif_transpose(PilImage.open(io.BytesIO(data))).convert("RGB"))
    np.testing.assert_array_equal(read_data(tmp_path, data), by_pillow)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_unknown_orientation_changes_nothing(orientation: int, tmp_path: Path) -> None:
    exif = PilImage.Exif()
    exif[274] = orientation
    assert_close(read_data(tmp_path, encode(PIL_IMAGE, "JPEG", exif=exif)), PIXELS, 5.0)


def test_16_bit_tiff_is_turned_too(tmp_path: Path) -> None:
    gray = DEEP[..., 0]
    data = encode(PilImage.fromarray(np.rot90(gray).copy()), "TIFF", tiffinfo={274: 6})
    np.testing.assert_array_equal(read_data(tmp_path, data)[..., 0], PIXELS[..., 0])


# --- Damaged images --------------------------------------------------------------------------------------------------

JPEG, PNG, TIFF = WHOLE["JPEG"], WHOLE["PNG"], WHOLE["TIFF"]
FRAME = JPEG.index(b"\xff\xc0")
BROKEN = {
    "empty": (b"", "the file is empty (0 bytes)"),
    "text": (b"this is no image\n" * 50, "not an image; expected JPEG, PNG, TIFF, BMP, WebP, GIF"),
    "truncated GIF": (encode(PIL_IMAGE, "GIF")[:-900], "truncated GIF"),
    "DICOM": (bytes(128) + b"DICM" + bytes(500), "truncated DICOM"),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(500), "HEIC"),
    "video": (b"\0\0\0\x18ftypmp42" + bytes(500), "this is a video file"),
    "BigTIFF": (b"II+\0\x08\0\0\0" + bytes(500), "this is a BigTIFF file"),
    "truncated JPEG": (JPEG[: len(JPEG) * 2 // 3], "truncated JPEG: image file is truncated"),
    "JPEG cut by a byte": (JPEG[:-1], "truncated JPEG"),
    "JPEG header only": (JPEG[:FRAME], "damaged JPEG: its header is incomplete"),
    "JPEG in reserved space": (JPEG[: len(JPEG) * 2 // 3] + bytes(4096), "bytes are all zero"),
    "JPEG of noise": (JPEG[:2] + b"\xff" + random.Random(0).randbytes(2000), "damaged JPEG"),
    "truncated PNG": (PNG[: len(PNG) // 2], "truncated PNG"),
    "PNG without end": (PNG[:-12], "truncated PNG"),
    "PNG with a flipped bit": (patched(PNG, 60, bytes([PNG[60] ^ 1])), "damaged PNG: wrong checksum in IDAT"),
    "PNG without pixels": (png_header(64, 48) + chunk(b"IEND", b""), "damaged PNG"),
    "PNG with too few pixels": (
        png_header(64, 48) + chunk(b"IDAT", zlib.compress(bytes(900))) + chunk(b"IEND", b""),
        "truncated PNG",
    ),
    "PNG without header": (PNG[:8] + PNG[33:], "damaged PNG"),
    "truncated 16-bit PNG": (WHOLE["16-bit PNG"][:-40], "truncated PNG"),
    "truncated TIFF": (patched(TIFF, 4, struct.pack("<I", len(TIFF) + 1000)), "truncated TIFF"),
    "TIFF without its last pixels": (make_tiff(changed=((273, 5000),)), "truncated TIFF"),
    "truncated 16-bit TIFF": (WHOLE["16-bit TIFF"][:-30], "truncated TIFF"),
    "TIFF with two widths": (make_tiff((284, 3, 2, 65537)), "damaged TIFF: its directory contradicts the format"),
    "TIFF with huge tiles": (make_tiff((322, 4, 1, 65536), (323, 4, 1, 65536)), "dangerously large tiles"),
    "float TIFF": (encode(PilImage.new("F", (64, 48)), "TIFF"), "TIFF with floating-point or signed pixels"),
    "32-bit TIFF": (make_tiff(changed=((258, 32),)), "TIFF with 32 bits"),
    "16-bit CMYK TIFF": (make_tiff(changed=((258, 16), (262, 5))), "TIFF with 16 bits of this color type"),
    "Lab TIFF": (make_tiff(changed=((262, 8),)), "TIFF with pixels of type 'LAB' is not supported"),
    "truncated BMP": (WHOLE["BMP"][:2000], "truncated BMP"),
    "truncated WebP": (WHOLE["WebP"][:100], "damaged WebP"),
    "WebP of noise": (b"RIFF\x88\x13\0\0WEBPVP8 " + random.Random(0).randbytes(5000), "damaged WebP"),
    "too narrow": (encode(PilImage.new("RGB", (31, 400)), "PNG"), "31 x 400 pixels are too few: each side needs 32"),
    "too low": (encode(PilImage.new("L", (400, 31)), "JPEG"), "400 x 31 pixels are too few"),
    "too small, 16-bit": (encode_cv2(".png", np.zeros((8, 9), np.uint16)), "9 x 8 pixels are too few"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_damaged_files_are_refused_with_a_reason(name: str, tmp_path: Path) -> None:
    data, expected = BROKEN[name]
    message = reason(tmp_path, data)
    assert expected in message
    assert "; " in message, "the remedy is missing"
    assert str(tmp_path) not in message and "object at 0x" not in message


@pytest.mark.parametrize(
    "kind", ["JPEG", "progressive JPEG", "PNG", "LZW TIFF", "BMP", "WebP", "16-bit PNG", "16-bit TIFF"]
)
def test_every_truncation_is_noticed(kind: str, tmp_path: Path) -> None:
    data = WHOLE[kind]
    for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
        reason(tmp_path, data[: int(len(data) * share)])


def make_huge() -> dict[str, bytes]:
    pixels = chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")
    deep = bytearray(png_header(60_000, 60_000))
    deep[24] = 16
    deep[29:33] = struct.pack(">I", zlib.crc32(bytes(deep[12:29])))
    return {
        "PNG": png_header(60_000, 60_000) + pixels,
        "16-bit PNG": bytes(deep) + pixels,
        "JPEG": patched(JPEG, FRAME + 5, struct.pack(">HH", 60_000, 60_000)),
        "BMP": patched(WHOLE["BMP"], 18, struct.pack("<II", 60_000, 60_000)),
        "TIFF": make_tiff(changed=((256, 60_000), (257, 60_000))),
        "16-bit TIFF": make_tiff(changed=((256, 60_000), (257, 60_000), (258, 16))),
        "WebP": b"RIFF\x1e\0\0\0WEBPVP8L\x11\0\0\0\x2f" + struct.pack("<I", 16383 | 16383 << 14) + bytes(13),
    }


HUGE = make_huge()


@pytest.mark.parametrize("kind", HUGE)
def test_decompression_bombs_are_refused_from_their_header(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(HUGE[kind])
    with measured_cost() as cost, pytest.raises(UnreadableImageError) as caught:
        read_image(path)
    assert cost.seconds < 1.0 and cost.peak_bytes < 1_000_000
    assert "are more than the 200000000 allowed" in str(caught.value) or "too many pixels" in str(caught.value)


@pytest.mark.parametrize("kind", [kind for kind in WHOLE if "WebP" not in kind])
def test_the_pixel_limit_is_independent_of_pillows(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PilImage, "MAX_IMAGE_PIXELS", 1000)
    assert read_data(tmp_path, WHOLE[kind]).shape == PIXELS.shape
    monkeypatch.setattr(pixels, "MAX_PIXELS", HEIGHT * WIDTH - 1)
    assert "64 x 48 pixels are more than the 3071 allowed" in reason(tmp_path, WHOLE[kind])


def test_files_that_cannot_be_opened_are_refused_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def message(path: Path) -> str:
        with pytest.raises(UnreadableImageError) as caught:
            read_image(path)
        return str(caught.value)

    assert message(tmp_path / "missing.png").startswith("the file does not exist")
    assert message(tmp_path).startswith("this is a folder")
    assert message(tmp_path / ("a" * 400)).startswith("the file cannot be read: file name too long")
    (tmp_path / "file").write_bytes(PNG)
    assert message(tmp_path / "file" / "below.png").startswith("the file cannot be read: not a directory")
    assert "null" in message(Path("a\0b.png"))
    loop = tmp_path / "loop.png"
    loop.symlink_to(loop)
    assert "too many levels of symbolic links" in message(loop)

    def deny(path: Path, mode: str) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", deny)
    assert message(tmp_path / "file") == "permission denied; allow this user to read the file"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UnreadableImageError, match="not a regular file"):
        read_image(tmp_path / "pipe.png")


def test_file_size_is_limited(tmp_path: Path) -> None:
    path = tmp_path / "large.tif"
    with path.open("wb") as file:
        file.truncate(3 * 1024**3)  # sparse: takes no space
    with pytest.raises(UnreadableImageError, match="more than the 2147483648 allowed"):
        read_image(path)


@pytest.mark.parametrize("error", [MemoryError(), OverflowError("too big"), ValueError(), cv2.error("bad")])
def test_every_exception_of_a_decoder_becomes_a_reason(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(cv2, "imdecode", fail)
    monkeypatch.setattr(PilImage.Image, "convert", fail)
    message = reason(tmp_path, WHOLE["16-bit PNG"])
    of_pillow = reason(tmp_path, encode(PilImage.new("L", (64, 48)), "JPEG"))
    if isinstance(error, MemoryError):
        assert message == of_pillow == NO_MEMORY
    else:
        assert message.startswith("the image cannot be decoded: ") and ": ;" not in message
        assert of_pillow.startswith("damaged JPEG: ")


FUZZED = {
    **{
        kind: WHOLE[kind]
        for kind in ("JPEG", "progressive JPEG", "PNG", "TIFF", "LZW TIFF", "WebP", "BMP", "16-bit TIFF")
    },
    "EXIF JPEG": encode(
        PIL_IMAGE, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    ),
    "palette PNG": encode(PIL_IMAGE.convert("P"), "PNG", transparency=3),
    "animated PNG": encode(PIL_IMAGE, "PNG", save_all=True, append_images=[PIL_IMAGE.rotate(90)]),
    "fax TIFF": encode(PIL_IMAGE.convert("1"), "TIFF", compression="group4"),
}


@pytest.mark.parametrize("kind", FUZZED)
def test_changed_bytes_raise_no_other_error(kind: str, tmp_path: Path) -> None:
    rng = random.Random(kind)
    for _ in range(120):
        data = bytearray(FUZZED[kind])
        reach = rng.choice([len(data), min(300, len(data))])  # half of the blows hit the header
        for _ in range(rng.choice([1, 1, 2, 5])):
            place = rng.randrange(4, reach) if rng.random() < 0.7 else rng.randrange(max(4, len(data) - 200), len(data))
            data[place] = rng.choice([0, 1, 128, 255, rng.randrange(256)])
        if kind.endswith("PNG") and rng.random() < 0.5:
            data[8:] = with_right_checksums(bytes(data[8:]))
        try:
            image = read_data(tmp_path, bytes(data))
        except UnreadableImageError:
            continue
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3


def with_right_checksums(chunks: bytes) -> bytes:
    """Lets changed bytes through to the decoder itself."""
    fixed, position = b"", 0
    while position + 12 <= len(chunks):
        length = int.from_bytes(chunks[position : position + 4], "big")
        if position + 12 + length > len(chunks):
            break
        fixed += chunk(chunks[position + 4 : position + 8], chunks[position + 8 : position + 8 + length])
        position += 12 + length
    return fixed + chunks[position:]


def test_threads_read_the_same_pixels(tmp_path: Path) -> None:
    paths = []
    for kind, data in WHOLE.items():
        paths.append(tmp_path / kind)
        paths[-1].write_bytes(data)
    one_by_one = [read_image(path) for path in paths]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(read_image, paths * 20))
    for index, image in enumerate(together):
        np.testing.assert_array_equal(image, one_by_one[index % len(paths)])


# --- Writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".tif", ".tiff", ".jpg", ".jpeg", ".webp"])
def test_a_written_image_is_read_back(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    write_image(path, np.zeros_like(PIXELS))
    write_image(path, PIXELS)
    assert_close(read_image(path), PIXELS, 0.0 if suffix.lower() in (".png", ".tif", ".tiff") else 3.0)
    assert list(tmp_path.iterdir()) == [path]


def test_views_with_negative_strides_are_written_correctly(tmp_path: Path) -> None:
    write_image(tmp_path / "out.png", PIXELS[:, ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / "out.png"), PIXELS[:, ::-1])


def test_a_jpeg_in_memory_is_larger_for_a_higher_quality(tmp_path: Path) -> None:
    assert_close(read_data(tmp_path, encode_jpeg(PIXELS, quality=95)), PIXELS, 3.0)
    assert len(encode_jpeg(PIXELS, quality=40)) < len(encode_jpeg(PIXELS)) < len(encode_jpeg(PIXELS, quality=95))


@pytest.mark.parametrize("name", ["out.gif", "out", "out.jpg.exe"])
def test_unknown_suffix_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"unknown image suffix .*; use \.png, \.jpg, \.webp or \.tif"):
        write_image(tmp_path / name, PIXELS)
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist; create it first"):
        write_image(tmp_path / "missing" / "out.png", PIXELS)
    assert list(tmp_path.iterdir()) == []


def test_format_limits_are_explained(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"try another format such as \.png"):
        write_image(tmp_path / "out.webp", np.zeros((32, 17_000, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_image_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.png"
    write_image(path, PIXELS)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for method in ("replace", "open"):
        with monkeypatch.context() as patch, pytest.raises(StoreError, match="no space left on device"):
            patch.setattr(Path, method, fail)
            write_image(path, np.zeros_like(PIXELS))
        assert list(tmp_path.iterdir()) == [path]
        np.testing.assert_array_equal(read_image(path), PIXELS)


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_image(tmp_path / "out.png", PIXELS)
    assert list(tmp_path.iterdir()) == []


def test_written_images_have_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_image(tmp_path / "out.png", PIXELS)
    assert (tmp_path / "out.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


# --- Finding ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def eyes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of empty files, with the current folder beside it."""
    names = [
        "b.PNG",
        "a/2.jpg",
        "a/10.jpeg",
        "a-b.tif",
        "c.webp",
        "notes.txt",
        ".hidden.png",
        ".git/x.png",
        "a/.d/y.png",
    ]
    for name in names:
        path = tmp_path / "eyes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "eyes"


def names_of(*arguments: str | Path) -> list[str]:
    return [found.name for found in find_images([Path(argument) for argument in arguments])]


def test_folders_are_searched_in_order(eyes: Path) -> None:
    expected = ["eyes/a-b.tif", "eyes/a/10.jpeg", "eyes/a/2.jpg", "eyes/b.PNG", "eyes/c.webp"]
    assert names_of("eyes") == names_of("eyes/") == expected
    assert [found.path for found in find_images([Path("eyes")])] == [Path(name) for name in expected]
    assert names_of(eyes)[0] == (eyes / "a-b.tif").as_posix()


def test_names_start_at_the_argument(eyes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(eyes)
    assert names_of("a", ".") == ["a/10.jpeg", "a/2.jpg", "a-b.tif", "b.PNG", "c.webp"]
    assert names_of("../eyes/a") == ["../eyes/a/10.jpeg", "../eyes/a/2.jpg"]
    assert names_of(".git") == [".git/x.png"], "a hidden folder that is named is meant"


def test_named_files_are_listed_whatever_they_are(eyes: Path) -> None:
    assert names_of("eyes/notes.txt", "eyes/.hidden.png", "missing.png", "eyes/c.webp") == [
        "eyes/notes.txt",
        "eyes/.hidden.png",
        "missing.png",
        "eyes/c.webp",
    ]
    assert names_of("a" * 400, "eyes/c.webp/below") == ["a" * 400, "eyes/c.webp/below"]


def test_a_file_reached_twice_is_listed_once(eyes: Path) -> None:
    assert names_of("eyes/c.webp", "eyes", eyes, "eyes/../eyes/a/2.jpg", "eyes/a", "missing", "./missing") == [
        "eyes/c.webp",
        "eyes/a-b.tif",
        "eyes/a/10.jpeg",
        "eyes/a/2.jpg",
        "eyes/b.PNG",
        "missing",
    ]


def test_links_to_folders_are_followed_only_where_they_are_named(eyes: Path) -> None:
    (eyes / "a" / "loop").symlink_to(eyes, target_is_directory=True)
    (eyes / "a" / "loop.png").symlink_to(eyes / "a" / "loop.png")
    (eyes / "a" / "same.jpg").symlink_to(eyes / "a" / "2.jpg")
    (eyes / "a" / "gone.jpg").symlink_to(eyes / "nowhere.jpg")
    assert names_of("eyes/a") == [f"eyes/a/{name}" for name in ("10.jpeg", "2.jpg", "gone.jpg", "loop.png", "same.jpg")]
    assert names_of("eyes/a/2.jpg", "eyes/a/loop/a/2.jpg") == ["eyes/a/2.jpg"]
    (eyes.parent / "link").symlink_to(eyes, target_is_directory=True)
    assert names_of("link")[0] == "link/a-b.tif", "a link that is named is followed"


def test_empty_folder_finds_nothing(tmp_path: Path) -> None:
    assert find_images([tmp_path]) == []
    assert find_images([]) == []


def test_a_folder_that_cannot_be_listed_is_an_error(eyes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def deny(path: Any) -> Any:
        if os.fspath(path).endswith("a"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", deny)
    with pytest.raises(FundusgradeError, match=r"cannot list the folder .*eyes/a: permission denied"):
        find_images([eyes])


def test_the_hash_of_a_file_is_sha_256(tmp_path: Path) -> None:
    content = random.Random(0).randbytes(3_000_000)
    (tmp_path / "file").write_bytes(content)
    assert hash_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_jpeg_may_be_reduced_but_not_below_the_size_requested(tmp_path: Path) -> None:
    gradient = np.repeat(np.linspace(0, 255, 1200, dtype=np.uint8)[None], 800, axis=0)
    PilImage.fromarray(np.dstack([gradient] * 3)).save(tmp_path / "a.jpg", quality=95)
    for at_least_px, height in ((None, 800), (801, 800), (500, 800), (400, 400), (200, 200), (110, 200), (90, 100)):
        image = read_image(tmp_path / "a.jpg", at_least_px=at_least_px)
        assert image.shape == (height, height * 3 // 2, 3)
        assert np.abs(image[0, :, 0].astype(int) - np.linspace(0, 255, image.shape[1])).max() < 4


def test_the_strength_of_jpeg_compression_is_read_without_decoding(tmp_path: Path) -> None:
    noise = PilImage.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))
    for quality in (30, 90):
        noise.save(tmp_path / f"{quality}.jpg", quality=quality)
    noise.save(tmp_path / "a.png")
    (tmp_path / "empty.jpg").touch()
    assert jpeg_quantization(tmp_path / "30.jpg") > 3 * jpeg_quantization(tmp_path / "90.jpg") > 0
    assert jpeg_quantization(tmp_path / "a.png") == jpeg_quantization(tmp_path / "empty.jpg") == 0


def test_a_reduced_image_is_the_mean_of_its_pixels_not_rounded() -> None:
    image = np.random.default_rng(0).integers(0, 256, (67, 91, 3), dtype=np.uint8)
    for factor in (2, 4, 8):
        height, width = 67 // factor, 91 // factor
        blocks = image[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
        small = reduced(image, factor)
        assert small.shape == (height, width, 3)
        assert np.abs(small - blocks.mean(axis=(1, 3))).max() <= 0.5 + 1e-6
