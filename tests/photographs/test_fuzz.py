"""Hostile files: whatever is done to a photograph, it is graded or refused with a reason. See benchmarks/fuzz.py."""

from __future__ import annotations

import io
import itertools
import struct
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest
from PIL import Image

from fundusgrade.errors import UngradableError, UnreadableImageError
from fundusgrade.photographs import loading, pixels
from fundusgrade.photographs.decoding import decode_image
from fundusgrade.photographs.ellipses import fit_trimmed
from fundusgrade.photographs.loading import load_photograph
from fundusgrade.photographs.pixels import NO_MEMORY
from fundusgrade.photographs.recipe import Method, PreprocessRecipe
from tests.drawn_eyes import plain_retina
from tests.mutations import (
    BMP,
    BYTES,
    DICOM,
    JPEG,
    PNG,
    SOS,
    TIFF,
    WEBP,
    ZIP,
    Mutator,
    dicom_bytes,
    dicom_elements,
    jpeg_bytes,
    jpeg_segments,
    mutants,
    originals_of,
    png_bytes,
    png_chunks,
)
from tests.photographs.cost import measured_cost

RECIPE = PreprocessRecipe(method=Method.NATURAL, size_px=64)
ORIGINALS = originals_of(plain_retina(160, 1).photograph)
NUM_MUTANTS = 500


def is_loaded(path: Path, data: bytes) -> bool:
    """Whether the file is a photograph; False where it is refused with a reason. Warnings fail, as all else does."""
    path.write_bytes(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert load_photograph(path, RECIPE).preprocessed.image.shape == (64, 64, 3)
    except UngradableError as error:
        assert str(error).strip()
        return False
    return True


def test_a_mutant_is_a_photograph_or_has_a_reason(tmp_path: Path) -> None:
    made = itertools.islice(mutants(ORIGINALS, seed=0), NUM_MUTANTS)
    outcomes = [is_loaded(tmp_path / "mutant.jpg", data) for _, data in made]
    assert 0.05 * NUM_MUTANTS < sum(outcomes) < 0.95 * NUM_MUTANTS, "some mutants can be read, and some cannot"


@pytest.mark.parametrize("change", [*JPEG, *PNG, *TIFF, *BMP, *WEBP], ids=lambda change: change.__name__)
def test_each_mutation_alone(change: Mutator, tmp_path: Path) -> None:
    kind = change.__name__.split("_")[0]
    for name, data in ORIGINALS.items():
        if name.startswith(kind):
            changed = change(data, Random(name))
            is_loaded(tmp_path / f"mutant.{kind}", changed)
            assert changed != data or decode_image(data).shape == (160, 160, 3)


def test_mutants_follow_from_the_seed() -> None:
    first, again, other = (list(itertools.islice(mutants(ORIGINALS, seed), 20)) for seed in (5, 5, 6))
    assert first == again != other


def test_parsing_and_writing_a_file_changes_nothing() -> None:
    ways = {
        "jpeg": lambda data: jpeg_bytes(jpeg_segments(data)),
        "png": lambda data: png_bytes(png_chunks(data)),
        "dicom": lambda data: dicom_bytes(dicom_elements(data)),
    }
    for name, data in ORIGINALS.items():
        if name.split("_")[0] in ways:
            assert ways[name.split("_")[0]](data) == data, name


@pytest.mark.parametrize("change", [*BYTES, *DICOM, *ZIP], ids=lambda change: change.__name__)
def test_every_mutation_changes_something(change: Mutator) -> None:
    named = [data for name, data in ORIGINALS.items() if name.startswith(change.__name__.split("_")[0])]
    for data in named or ORIGINALS.values():
        assert any(change(data, Random(seed)) != data for seed in range(20))


# --- Regressions ---------------------------------------------------------------------------------------------------


def scan_bomb(num_scans: int, side_px: int = 4000) -> bytes:
    """A progressive JPEG of a few kilobytes that makes a decoder walk millions of pixels for every scan."""
    segments = jpeg_segments(ORIGINALS["jpeg_progressive"])
    scans = [each for each in segments if each.marker == SOS]
    size = struct.pack(">HH", side_px, side_px)
    sized = [
        replace(each, content=each.content[:1] + size + each.content[5:]) if each.marker == 0xC2 else each
        for each in segments
    ]
    return jpeg_bytes(sized + [replace(scans[0], scan=b"")] * num_scans)


def test_a_scan_bomb_is_refused_at_once() -> None:
    bomb = scan_bomb(50_000)
    with measured_cost() as cost, pytest.raises(UnreadableImageError, match="more than 100 scans"):
        decode_image(bomb)
    assert cost.seconds < 1.0


def test_scans_hidden_behind_a_marker_without_length_are_counted() -> None:
    data = scan_bomb(200)
    start = data.index(b"\xff\xda")
    with pytest.raises(UnreadableImageError, match="more than 100 scans"):
        decode_image(data[:start] + b"\xff\x01\xff\xff" + data[start:])


def test_a_video_after_the_image_is_not_counted(tmp_path: Path) -> None:
    assert is_loaded(tmp_path / "motion.jpg", ORIGINALS["jpeg"] + b"\xff\xda" * 1000)
    assert is_loaded(tmp_path / "progressive.jpg", ORIGINALS["jpeg_progressive"])


def test_points_on_a_hyperbola_give_no_ellipse_and_no_warning() -> None:
    """A JPEG that broke off: the clear edges that were left lay on none, and the mean of nothing was taken."""
    y = np.linspace(-2, 2, 30)
    points = np.concatenate([np.stack([side * np.sqrt(1 + y**2), y], axis=1) for side in (1, -1)])
    assert not np.isfinite(fit_trimmed(points, 4)).all()
    assert np.isfinite(fit_trimmed(points, 3)).all()


@pytest.mark.parametrize(
    "name", [name for name in ORIGINALS if name.startswith(("jpeg", "png", "tiff", "bmp", "webp"))]
)
def test_blocks_of_rows_give_the_same_image(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = decode_image(ORIGINALS[name])
    monkeypatch.setattr(pixels, "_BLOCK_PIXELS", 160 * 7)
    assert np.array_equal(decode_image(ORIGINALS[name]), whole)
    assert whole.flags.writeable and whole.flags.c_contiguous


@pytest.mark.parametrize("kind", [13, 16])
def test_a_list_of_long_numbers_beyond_the_end_of_a_tiff_is_refused_without_a_warning(kind: int) -> None:
    data = ORIGINALS["tiff_jpeg"]
    tables = data.index(struct.pack("<HH", 347, 7), int.from_bytes(data[4:8], "little"))
    changed = data[: tables + 2] + struct.pack("<HI", kind, 10**6) + data[tables + 8 :]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnreadableImageError, match="truncated TIFF"):
            decode_image(changed)


def test_16_bits_have_a_lower_limit_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "MAX_PIXELS_16_BIT", 160 * 160 - 1)
    for name in ("png_16bit", "tiff_16bit"):
        with pytest.raises(UnreadableImageError, match=r"160 x 160 pixels .* with 16 bits per channel; save .* 8 bits"):
            decode_image(ORIGINALS[name])
    assert decode_image(ORIGINALS["png"]).shape == (160, 160, 3)


@pytest.mark.parametrize("error", [MemoryError(), "cv2"])
def test_too_little_memory_is_an_error_with_a_reason(
    error: Exception | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        if isinstance(error, Exception):
            raise error
        raised = cv2.error("Insufficient memory")
        raised.code = cv2.Error.StsNoMem
        raise raised

    monkeypatch.setattr(loading, "find_field_of_view", fail)
    (tmp_path / "eye.png").write_bytes(ORIGINALS["png"])
    with pytest.raises(UnreadableImageError) as caught:
        load_photograph(tmp_path / "eye.png", RECIPE)
    assert str(caught.value) == NO_MEMORY


SIDE_PX = 4000
_PEAK = """
import sys
from fundusgrade.photographs.images import read_image
from pathlib import Path
image = read_image(Path(sys.argv[1]))
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print(1024 * (int(status["VmHWM"].split()[0])) / (image.size / 3))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_a_large_image_is_in_memory_twice_and_not_more(kind: str, tmp_path: Path) -> None:
    """At 200 million pixels, 8 bytes a pixel are 1.6 GB: four in Pillow and three in our array."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)).save(buffer, kind)
    (tmp_path / "large").write_bytes(buffer.getvalue())
    command = [sys.executable, "-c", _PEAK, str(tmp_path / "large")]
    bytes_per_pixel = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    libraries = 60e6 / SIDE_PX**2  # Python and what it imports
    assert bytes_per_pixel < 8 + libraries + len(buffer.getvalue()) / SIDE_PX**2
