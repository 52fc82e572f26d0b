"""Every way to store pixels in a DICOM file gives the same image, and nothing else leaves the file."""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from typer.testing import CliRunner

from fundusgrade.commands.app import app
from fundusgrade.data.label_files import LabelColumns
from fundusgrade.data.labels import find_samples
from fundusgrade.data.prepare import prepare_dataset
from fundusgrade.errors import UnreadableImageError
from fundusgrade.grades import Prediction, Ungraded
from fundusgrade.grading.grader import Grader
from fundusgrade.options import DeviceName, Precision
from fundusgrade.photographs import dicom_header
from fundusgrade.photographs.decoding import decode_image
from fundusgrade.photographs.dicom import count_frames, decode_dicom
from fundusgrade.photographs.dicom_header import read_header
from fundusgrade.photographs.images import read_image, read_photograph
from fundusgrade.photographs.pixels import DecodedPhotograph
from fundusgrade.photographs.recipe import PreprocessRecipe
from fundusgrade.photographs.sources import PhotographSource, find_images
from tests.dicoms import SECRETS, dataset_of, encapsulated, file_bytes, identify, jpeg_bytes
from tests.models_for_tests import drawn_photograph, install_model
from tests.photographs.cost import measured_cost

RNG = np.random.default_rng(0)
COLOR = RNG.integers(0, 256, (40, 50, 3)).astype(np.uint8)
GRAY = COLOR[..., 0]
RAMP = np.linspace(0, 4095, 40 * 50).reshape(40, 50).astype(np.uint16)


def decoded(data: bytes, frame: int | None = None, **options: Any) -> DecodedPhotograph:
    return decode_dicom(io.BytesIO(data), frame, **options)


def image_of(dataset: Any) -> NDArray[np.uint8]:
    return decoded(file_bytes(dataset)).image


def reason(data: bytes, frame: int | None = None) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        decoded(data, frame)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def in_three(gray: NDArray[Any]) -> NDArray[np.uint8]:
    return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2)


# --- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_uncompressed_color_is_decoded_exactly(syntax: str) -> None:
    assert np.array_equal(image_of(dataset_of(COLOR, syntax=syntax)), COLOR)
    odd = COLOR[:33, :37]
    assert np.array_equal(image_of(dataset_of(odd, syntax=syntax)), odd)


@pytest.mark.parametrize("values", [COLOR, GRAY, RAMP], ids=["color", "gray", "12 bits"])
def test_run_lengths_are_decoded_exactly(values: NDArray[Any]) -> None:
    dataset = dataset_of(values, BitsStored=12 if values is RAMP else 8, HighBit=11 if values is RAMP else 7)
    plain = image_of(dataset)
    dataset.compress(RLELossless, generate_instance_uid=False)
    assert np.array_equal(image_of(dataset), plain)
    assert not np.array_equal(plain, np.zeros_like(plain))


def test_color_by_planes_is_decoded_exactly() -> None:
    planes = np.ascontiguousarray(COLOR.transpose(2, 0, 1)).tobytes()
    assert np.array_equal(image_of(dataset_of(COLOR, PlanarConfiguration=1, PixelData=planes)), COLOR)


def test_gray_and_inverted_gray_are_decoded_exactly() -> None:
    assert np.array_equal(image_of(dataset_of(GRAY)), in_three(GRAY))
    assert np.array_equal(image_of(dataset_of(GRAY, PhotometricInterpretation="MONOCHROME1")), in_three(255 - GRAY))


@pytest.mark.parametrize("bits", [6, 8, 10, 12, 16])
def test_depths_are_scaled_by_the_bits_that_are_stored(bits: int) -> None:
    full = (1 << bits) - 1
    values = np.linspace(0, full, 40 * 50).round().reshape(40, 50).astype(np.uint16)
    expected = in_three(np.floor(values * 255.0 / full + 0.5))
    assert np.array_equal(image_of(dataset_of(values, BitsStored=bits, HighBit=bits - 1)), expected)
    if bits < 16:  # at the upper end of the word, with something else below
        shifted = (values << (16 - bits)) | 1
        assert np.array_equal(image_of(dataset_of(shifted, BitsStored=bits, HighBit=15)), expected)
        overlay = values | 0x8000
        assert np.array_equal(image_of(dataset_of(overlay, BitsStored=bits, HighBit=bits - 1)), expected)


def test_color_of_twelve_bits_is_scaled_to_eight() -> None:
    values = (COLOR.astype(np.uint16) << 4) | (COLOR >> 4)
    assert np.array_equal(image_of(dataset_of(values, BitsStored=12, HighBit=11)), COLOR)


@pytest.mark.parametrize("photometric", ["YBR_FULL", "YBR_FULL_422"])
def test_ybr_is_converted_to_rgb(photometric: str) -> None:
    smooth = np.array(Image.fromarray(COLOR[:4, :5]).resize((50, 40), Image.Resampling.BICUBIC))
    ycbcr = np.array(Image.fromarray(smooth).convert("YCbCr"))
    dataset = dataset_of(ycbcr, PhotometricInterpretation=photometric)
    expected = ycbcr.copy()
    if photometric == "YBR_FULL_422":  # Y1 Y2 Cb Cr for each two pixels
        pairs = np.stack([ycbcr[:, ::2, 0], ycbcr[:, 1::2, 0], ycbcr[:, ::2, 1], ycbcr[:, ::2, 2]], axis=2)
        dataset.PixelData = pairs.tobytes()
        expected[:, 1::2, 1:] = expected[:, ::2, 1:]
    y, cb, cr = (expected[..., channel].astype(float) for channel in range(3))
    cb, cr = cb - 128, cr - 128
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=2).clip(0, 255)
    assert np.abs(image_of(dataset) - rgb).max() <= 1.0


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("first", [0, 3])
def test_palette_colors_are_looked_up(bits: int, first: int) -> None:
    palette = RNG.integers(0, 256, (64, 3)).astype(np.uint16)
    stored = (palette * 257 if bits == 16 else palette.astype(np.uint8)).T.copy()
    values = RNG.integers(0, 80, (40, 50)).astype(np.uint8)
    dataset = dataset_of(values, PhotometricInterpretation="PALETTE COLOR")
    for channel, name in enumerate(("Red", "Green", "Blue")):
        dataset[f"{name}PaletteColorLookupTableDescriptor"] = _descriptor(channel, [64, first, bits])
        setattr(dataset, f"{name}PaletteColorLookupTableData", stored[channel].tobytes())
    assert np.array_equal(image_of(dataset), palette[np.clip(values.astype(int) - first, 0, 63)])


def _descriptor(channel: int, values: list[int]) -> Any:
    from pydicom.dataelem import DataElement

    return DataElement(0x00281101 + channel, "US", values)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEG2000])
@pytest.mark.parametrize("values", [COLOR, GRAY], ids=["color", "gray"])
def test_lossless_jpeg_2000_is_decoded_exactly(syntax: str, values: NDArray[np.uint8]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "JPEG2000", no_jp2=True, mct=1 if values.ndim == 3 else 0)
    dataset = encapsulated([buffer.getvalue()], values.shape, syntax=syntax, PhotometricInterpretation="YBR_RCT")
    assert np.array_equal(image_of(dataset), values if values.ndim == 3 else in_three(values))


def test_a_jpeg_is_decoded_as_if_it_were_the_file_reduced_too() -> None:
    jpeg = jpeg_bytes(drawn_photograph(3, 400))
    data = file_bytes(encapsulated([jpeg], (400, 400, 3)))
    assert np.array_equal(decoded(data).image, decode_image(jpeg))
    small = decoded(data, at_least_px=100).image
    assert small.shape == (100, 100, 3)
    assert np.array_equal(small, decode_image(jpeg, at_least_px=100))


def test_the_fragments_of_a_jpeg_are_joined() -> None:
    from pydicom.encaps import encapsulate

    jpeg = jpeg_bytes(drawn_photograph(3))
    dataset = encapsulated([jpeg], (160, 160, 3), PixelData=encapsulate([jpeg, jpeg], fragments_per_frame=3))
    dataset.NumberOfFrames = 2
    assert np.array_equal(decoded(file_bytes(dataset), 2).image, decode_image(jpeg))
    dataset.PixelData = encapsulate([jpeg, jpeg], fragments_per_frame=3, has_bot=False)
    assert "does not say where its images begin" in reason(file_bytes(dataset), 2)
    dataset.PixelData, dataset.NumberOfFrames = encapsulate([jpeg], fragments_per_frame=3, has_bot=False), 1
    assert np.array_equal(image_of(dataset), decode_image(jpeg))


def test_a_jpeg_of_rgb_is_recognized_by_its_pixels_whatever_the_header_says() -> None:
    smooth = drawn_photograph(1)
    jpeg = jpeg_bytes(smooth, quality=100, subsampling=0, keep_rgb=True)
    bare = jpeg.replace(b"\xff\xee\x00\x0eAdobe", b"\xff\xe9\x00\x0eAdobX", 1)
    for component, letter in enumerate(b"RGB", start=1):  # numbers tell nothing
        bare = bare.replace(bytes([letter, 0x11]), bytes([component, 0x11]), 1).replace(
            bytes([letter, 0x00]), bytes([component, 0x00]), 1
        )
    named = image_of(encapsulated([bare], smooth.shape, PhotometricInterpretation="RGB"))
    assert np.abs(named.astype(int) - smooth).mean() < 2
    assert np.array_equal(image_of(encapsulated([bare], smooth.shape)), named)
    ordinary = jpeg_bytes(smooth)
    wrongly_named = image_of(encapsulated([ordinary], smooth.shape, PhotometricInterpretation="RGB"))
    assert np.array_equal(wrongly_named, decode_image(ordinary)), "JFIF says YCbCr, and is right"


def test_inverted_gray_in_a_jpeg_is_inverted() -> None:
    gray = drawn_photograph(1)[..., 1]
    dataset = encapsulated([jpeg_bytes(gray)], gray.shape, PhotometricInterpretation="MONOCHROME1")
    assert np.abs(image_of(dataset).astype(int) - in_three(255 - gray)).mean() < 3


# --- frames -----------------------------------------------------------------------------------------------------------


def several(num_frames: int) -> bytes:
    frames = np.stack([drawn_photograph(seed) for seed in range(num_frames)])
    return file_bytes(dataset_of(frames[0], NumberOfFrames=num_frames, PixelData=frames.tobytes()))


def test_each_frame_is_a_photograph_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "plain.dcm").write_bytes(several(12))
    jpegs = [jpeg_bytes(drawn_photograph(seed)) for seed in range(3)]
    (tmp_path / "coded.DICOM").write_bytes(file_bytes(encapsulated(jpegs, (160, 160, 3))))
    (tmp_path / "single.dcm").write_bytes(file_bytes(dataset_of(COLOR)))
    found = find_images([tmp_path])
    names = [Path(each.name).name for each in found]
    assert names == [
        *(f"coded.DICOM#{frame}" for frame in (1, 2, 3)),
        *(f"plain.dcm#{frame}" for frame in range(1, 13)),
        "single.dcm",
    ]
    for seed, each in enumerate(found[3:15]):
        assert np.array_equal(read_photograph(each).image, drawn_photograph(seed))
    for jpeg, each in zip(jpegs, found, strict=False):
        assert np.array_equal(read_photograph(each).image, decode_image(jpeg))
    with pytest.raises(UnreadableImageError, match="holds 12 images, and one was expected"):
        read_image(tmp_path / "plain.dcm")
    with pytest.raises(UnreadableImageError, match="has no image 13; it holds 12"):
        read_photograph(PhotographSource(path=tmp_path / "plain.dcm", name="x", frame=13))


def test_a_dicom_needs_no_suffix(tmp_path: Path) -> None:
    (tmp_path / "IM0001").write_bytes(several(2))
    (tmp_path / "really.jpg").write_bytes(file_bytes(dataset_of(COLOR)))
    assert [each.frame for each in find_images([tmp_path / "IM0001"])] == [1, 2]
    assert np.array_equal(read_image(tmp_path / "really.jpg"), COLOR)
    assert [Path(each.name).name for each in find_images([tmp_path])] == ["IM0001#1", "IM0001#2", "really.jpg"]


def test_images_are_not_opened_to_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        (tmp_path / f"{number}.jpg").write_bytes(b"x")
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("opened"))
    assert len(find_images([tmp_path])) == len(find_images(sorted(tmp_path.iterdir()))) == 20


def test_a_broken_header_does_not_end_the_list(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(several(2)[:400])
    (tmp_path / "b.dcm").write_bytes(b"")
    (tmp_path / "c.dcm").write_bytes(b"no DICOM")
    (tmp_path / "d.dcm").write_bytes(file_bytes(dataset_of(COLOR)))
    os.mkfifo(tmp_path / "e.dcm")
    found = find_images([tmp_path])
    assert [Path(each.name).name for each in found] == ["a.dcm", "b.dcm", "c.dcm", "d.dcm", "e.dcm"]
    reasons = ["truncated DICOM", "the file is empty", "not an image", "", "not a regular file"]
    for each, expected in zip(found, reasons, strict=True):
        if expected:
            with pytest.raises(UnreadableImageError, match=expected):
                read_photograph(each)


# --- what is kept -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"ImageLaterality": "R"}, "R"),
        ({"ImageLaterality": "L", "Laterality": "R"}, "L"),
        ({"Laterality": "L"}, "L"),
        ({"ImageLaterality": "B"}, "B"),
        ({"ImageLaterality": "U"}, ""),
        ({"ImageLaterality": "LEFT"}, ""),
        ({}, ""),
    ],
)
def test_laterality_is_r_l_b_or_nothing(elements: dict[str, str], expected: str) -> None:
    assert decoded(file_bytes(dataset_of(COLOR, **elements))).laterality == expected


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_camera_is_manufacturer_and_model(syntax: str) -> None:
    def camera(**elements: str) -> str:
        return decoded(file_bytes(dataset_of(COLOR, syntax=syntax, **elements))).camera

    assert camera(Manufacturer=" Carl  Zeiss ", ManufacturerModelName="VISUCAM\t500 ") == "Carl Zeiss VISUCAM 500"
    assert camera(ManufacturerModelName="TRC-NW8") == "TRC-NW8"
    assert camera(SpecificCharacterSet="ISO_IR 192", Manufacturer="Kowa 興和") == "Kowa 興和"
    assert camera() == ""


def test_a_value_that_includes_other_elements_is_no_camera() -> None:
    dataset = identify(dataset_of(COLOR, Manufacturer="Maker"))
    data = file_bytes(dataset)
    place = data.index(b"\x08\0\x70\0LO") + 6
    assert decoded(data).camera == "Maker"
    for longer in range(7, 80):
        swallowing = data[:place] + struct.pack("<H", longer) + data[place + 2 :]
        try:
            camera = decoded(swallowing).camera
        except UnreadableImageError:
            continue
        assert not any(secret in camera for secret in SECRETS), longer


def test_no_other_value_of_the_header_is_held() -> None:
    data = file_bytes(identify(dataset_of(COLOR)))
    header = read_header(io.BytesIO(data))
    held = repr(header)
    assert "PAT-4711-X" in data.decode("latin-1")
    assert not [secret for secret in SECRETS if secret in held]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_unknown_ways_to_store_pixels_are_named_with_a_remedy() -> None:
    known = file_bytes(encapsulated([b"xx"], (40, 50, 3), syntax=JPEGLSLossless))
    assert reason(known) == (
        "DICOM stored as JPEG-LS Lossless Image Compression is not supported; store it uncompressed, such as by "
        "`gdcmconv --raw FILE NEW_FILE`"
    )
    private = file_bytes(encapsulated([b"xx"], (40, 50, 3), syntax="1.2.3.4711.5"))
    assert "an unknown or private transfer syntax" in reason(private)
    assert "4711" not in reason(private)


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"PhotometricInterpretation": "CMYK"}, "this color type"),
        ({"SamplesPerPixel": 1}, "this color type"),
        ({"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31}, "this depth"),
        ({"PixelRepresentation": 1}, "this depth"),
        ({"BitsStored": 9}, "this depth"),
        ({"HighBit": 3}, "this depth"),
        ({"Rows": 60000, "Columns": 60000}, "60000 x 60000 pixels are more than the 200000000 allowed"),
        ({"Rows": 20}, "50 x 20 pixels are too few"),
        ({"Rows": 41}, "wrong length: its pixels have 6000 bytes, and its header says 6150 bytes"),
        ({"NumberOfFrames": 10**9}, "claims more than the 10000 images allowed"),
        ({"NumberOfFrames": 9_999}, "holds 9999 images, and one was expected"),
        ({"PhotometricInterpretation": "YBR_FULL_422", "Columns": 49}, "cannot be stored as its header says"),
    ],
)
def test_what_the_header_claims_is_checked_before_pixels(elements: dict[str, Any], expected: str) -> None:
    assert expected in reason(file_bytes(dataset_of(COLOR, **elements)))


@pytest.mark.parametrize("keyword", ["Rows", "Columns", "BitsAllocated", "BitsStored", "SamplesPerPixel"])
def test_missing_elements_are_refused(keyword: str) -> None:
    dataset = dataset_of(COLOR)
    delattr(dataset, keyword)
    assert "its header does not say how the pixels are stored" in reason(file_bytes(dataset))


def test_a_dicom_without_an_image_is_refused() -> None:
    report = dataset_of(None, EncapsulatedDocument=b"%PDF-1.7", MIMETypeOfEncapsulatedDocument="application/pdf")
    assert "holds no image" in reason(file_bytes(report))
    assert "holds no image" in reason(file_bytes(dataset_of(None)))


@pytest.mark.parametrize("kind", ["plain", "implicit", "deflated", "jpeg", "run lengths"])
def test_every_truncation_is_noticed(kind: str) -> None:
    data = whole(kind)
    assert decoded(data).image.shape == (160, 160, 3)
    for share in (0.005, 0.02, 0.1, 0.3, 0.5, 0.9, 0.99):
        assert "DICOM" in reason(data[: max(133, int(len(data) * share))]) or kind == "jpeg"
    for start in range(133, 700, 7):
        reason(data[:start])
    if kind in ("plain", "implicit"):
        assert "truncated" in reason(data[: data.index(drawn_photograph(0).tobytes())])


def whole(kind: str, side_px: int = 160) -> bytes:
    image = drawn_photograph(0, side_px)
    if kind == "jpeg":
        return file_bytes(identify(encapsulated([jpeg_bytes(image)], image.shape)))
    syntaxes = {"implicit": ImplicitVRLittleEndian, "deflated": DeflatedExplicitVRLittleEndian}
    dataset = identify(dataset_of(image, syntax=syntaxes.get(kind, ExplicitVRLittleEndian)))
    if kind == "run lengths":
        dataset.compress(RLELossless, generate_instance_uid=False)
    return file_bytes(dataset)


@pytest.mark.parametrize("kind", ["plain", "implicit", "deflated", "jpeg", "run lengths"])
def test_hostile_bytes_end_in_an_image_or_a_reason_and_reveal_nothing(kind: str) -> None:
    data, chance = whole(kind, side_px=48), random.Random(0)
    for _ in range(300):
        broken = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            broken[chance.randrange(132, min(len(data), 1500))] = chance.randrange(256)
        try:
            output = repr(decoded(bytes(broken)))
        except UnreadableImageError as error:
            output = str(error)
            assert error.__cause__ is None or "DICOM" not in output
        assert not [secret for secret in SECRETS if secret in output]


def measured(data: bytes) -> tuple[str, int]:
    """Why a file is refused, and how many bytes of memory that took at most."""
    with measured_cost() as cost:
        text = reason(data)
    return text, cost.peak_bytes


def beginning(syntax: str = ExplicitVRLittleEndian) -> bytes:
    return file_bytes(dataset_of(None, syntax=syntax))


def test_a_deflated_bomb_is_not_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_header, "MAX_INFLATED_BYTES", 1_000_000)
    dataset = dataset_of(np.zeros((4000, 4000), np.uint8), syntax=DeflatedExplicitVRLittleEndian)
    text, peak = measured(file_bytes(dataset))
    assert "inflates to more than the 1000000 bytes allowed" in text
    assert peak < 5_000_000


def test_run_lengths_that_unpack_to_more_than_the_image_are_refused() -> None:
    segment = b"\x81\0" * 400_000
    frame = struct.pack("<16L", 1, 64, *[0] * 14) + segment
    dataset = encapsulated([frame], (40, 50), syntax=RLELossless, PhotometricInterpretation="MONOCHROME2")
    text, peak = measured(file_bytes(dataset))
    assert "run lengths hold more pixels than its header says" in text
    assert peak < 5_000_000


def test_deep_sequences_and_claimed_lengths_are_refused() -> None:
    sequence = struct.pack("<HH2sHL", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    text, peak = measured(beginning() + (sequence + item) * 10_000)
    assert "header cannot be followed" in text and peak < 5_000_000
    for length, expected in ((200_000, "truncated DICOM"), (0xFFFFFFF0, "header cannot be followed")):
        text, peak = measured(beginning() + struct.pack("<HH2sHL", 0x0028, 0x1201, b"OW", 0, length))
        assert expected in text and peak < 1_000_000


EMPTY_ELEMENT = struct.pack("<HH2sH", 0x0009, 0x0010, b"LO", 0)
EMPTY_FRAGMENT = struct.pack("<HHL", 0xFFFE, 0xE000, 0)


@pytest.mark.parametrize("endless", ["elements", "elements of an item", "fragments"])
def test_endless_headers_and_fragments_are_refused_within_a_bound(
    endless: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicom_header, "MAX_FILE_CALLS", 3_000)
    opened = struct.pack("<HH2sHLHHL", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    start = {
        "elements": beginning(),
        "elements of an item": beginning() + opened,
        "fragments": file_bytes(encapsulated([jpeg_bytes(COLOR)], COLOR.shape))[:-8],
    }[endless]
    piece = EMPTY_FRAGMENT if endless == "fragments" else EMPTY_ELEMENT
    if endless == "fragments":
        assert decoded(start + piece * 500).image.shape == COLOR.shape
    else:
        assert "more parts than any photograph needs" not in reason(start + piece * 500)
    file = CountingFile(start + piece * 10_000)
    with pytest.raises(UnreadableImageError, match="more parts than any photograph needs"):
        decode_dicom(file)
    assert file.num_reads <= 3_001
    text, peak = measured(start + piece * 10_000)
    assert "more parts than any photograph needs" in text and peak < 2_000_000


class CountingFile(io.BytesIO):
    """A file that counts how often it is read."""

    num_reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.num_reads += 1
        return super().read(size)


def test_the_table_of_offsets_is_not_read_where_it_is_too_long() -> None:
    table = struct.pack("<HHL", 0xFFFE, 0xE000, 4_000_000) + bytes(4_000_000)
    dataset = encapsulated([jpeg_bytes(COLOR)], COLOR.shape)
    dataset.PixelData = table + dataset.PixelData[8:]
    text, peak = measured(file_bytes(dataset))
    assert "does not say where its images begin" in text and peak < 2_000_000


def test_sequences_of_undefined_length_are_skipped() -> None:
    inner, outer = Dataset(), Dataset()
    inner.PatientID, inner.Rows = "PAT-4711-X", 7
    outer.ReferencedImageSequence = Sequence([inner, inner])
    dataset = dataset_of(COLOR, ReferencedStudySequence=Sequence([outer]), SourceImageSequence=Sequence([outer]))
    for element in (dataset["ReferencedStudySequence"], outer["ReferencedImageSequence"]):
        element.is_undefined_length = True
    for item in (inner, outer):
        item.is_undefined_length_sequence_item = True
    assert np.array_equal(image_of(dataset), COLOR)


def test_frames_are_counted_from_the_header_alone() -> None:
    data = several(3)
    assert count_frames(io.BytesIO(data[: data.index(b"\xe0\x7f\x10\0") + 12])) == 3


def test_pydicom_is_loaded_only_where_a_dicom_file_is_met() -> None:
    program = "import sys, fundusgrade.photographs.loading; sys.exit('pydicom' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_without_pydicom_the_reason_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "eye.dcm").write_bytes(file_bytes(dataset_of(COLOR)))
    ours = ("fundusgrade.photographs.dicom_header", "fundusgrade.photographs.dicom_pixels")
    for name in [name for name in sys.modules if name.split(".")[0] == "pydicom" or name in ours]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    (found,) = find_images([tmp_path])
    with pytest.raises(UnreadableImageError) as caught:
        read_photograph(found)
    assert str(caught.value) == (
        "this is a DICOM file, which needs one more package; run: pip install 'fundusgrade[dicom]'"
    )


# --- grading ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def grader() -> Grader:
    torch.set_num_threads(1)
    install_model()
    return Grader.load("tiny", device=DeviceName.CPU, precision=Precision.FLOAT32, batch_size=1)


def graded(grader: Grader, path: Path) -> Prediction:
    result = grader.grade(path)
    assert isinstance(result, Prediction), result
    return result


def test_a_dicom_is_graded_exactly_as_its_photograph(grader: Grader, tmp_path: Path) -> None:
    for seed in range(2):
        eye = drawn_photograph(seed, 700)
        jpeg = jpeg_bytes(eye)
        (tmp_path / "eye.jpg").write_bytes(jpeg)
        Image.fromarray(eye).save(tmp_path / "eye.png")
        (tmp_path / "jpeg.dcm").write_bytes(file_bytes(encapsulated([jpeg], eye.shape, ImageLaterality="L")))
        (tmp_path / "plain.dcm").write_bytes(file_bytes(dataset_of(eye, Manufacturer="Maker")))
        coded, plain = graded(grader, tmp_path / "jpeg.dcm"), graded(grader, tmp_path / "plain.dcm")
        assert coded.probabilities == graded(grader, tmp_path / "eye.jpg").probabilities
        assert plain.probabilities == graded(grader, tmp_path / "eye.png").probabilities
        assert (coded.laterality, coded.camera, plain.laterality, plain.camera) == ("L", "", "", "Maker")


def test_withheld_grades_keep_eye_and_camera(tmp_path: Path) -> None:
    install_model()
    blurred = np.asarray(cv2.GaussianBlur(drawn_photograph(0), (0, 0), 6), np.uint8)
    (tmp_path / "eye.dcm").write_bytes(file_bytes(dataset_of(blurred, ImageLaterality="R", Manufacturer="Maker")))
    result = Grader.load("tiny", device=DeviceName.CPU, require_gradable=True).grade(tmp_path / "eye.dcm")
    assert isinstance(result, Ungraded)
    assert (result.laterality, result.camera) == ("R", "Maker")


@pytest.mark.parametrize("kind", ["plain", "implicit", "deflated", "jpeg", "run lengths"])
def test_no_output_of_a_command_identifies_the_patient(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install_model()
    monkeypatch.chdir(tmp_path)
    data = whole(kind)
    Path("in").mkdir()
    Path("in/whole.dcm").write_bytes(data)
    for number, share in enumerate((0.01, 0.3, 0.6, 0.99)):
        Path(f"in/cut{number}.dcm").write_bytes(data[: int(len(data) * share)])
    chance = random.Random(1)
    for number in range(12):
        broken = bytearray(data)
        broken[chance.randrange(132, min(len(data), 1200))] ^= 1 << chance.randrange(8)
        Path(f"in/flipped{number}.dcm").write_bytes(broken)
    output = ""
    few = [
        f"in/{name}.dcm" for name in ("whole", "cut0", "cut2", "flipped0", "flipped1", "flipped2")
    ]  # figures are slow
    for words in (["predict", "in", "--csv", "out.csv"], ["predict", "in"], ["explain", *few, "--out", "maps"]):
        result = CliRunner().invoke(app, [*words, "--model", "tiny", "--device", "cpu"], env={"COLUMNS": "200"})
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert result.exit_code == 3
        output += result.stdout + result.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "in"]
    assert {"out.csv", "index.html", "whole-explained.jpg"} <= {path.name for path in files}
    output += "".join(path.read_bytes().decode("latin-1") for path in files) + caplog.text
    assert "whole.dcm" in output
    assert not [secret for secret in SECRETS if secret in output]


def test_data_sets_can_be_made_of_dicoms(tmp_path: Path) -> None:
    for seed in range(2):
        data = file_bytes(identify(dataset_of(drawn_photograph(seed))))
        (tmp_path / f"eye{seed}.dcm").write_bytes(data)
        Image.fromarray(drawn_photograph(seed)).save(tmp_path / f"copy{seed}.png")
    (tmp_path / "scan.dcm").write_bytes(several(2))
    labels = "image,grade\neye0,1\neye1.dcm,2\ncopy0,1\ncopy1,2\nscan,0\n"
    (tmp_path / "labels.csv").write_text(labels)
    samples = find_samples([tmp_path], columns=LabelColumns(image="image", grade="grade"))
    dataset = prepare_dataset(samples, name="x", recipe=PreprocessRecipe(size_px=64), num_workers=1)
    rows = {row.source: row for row in dataset.rows}
    for seed in range(2):
        of_dicom, of_png = (read_image(dataset.directory / rows[f"{name}{seed}.{kind}"].image) for name, kind in PAIRS)
        assert np.array_equal(of_dicom, of_png)
    assert "holds 2 images, and one was expected" in (rows["scan.dcm"].error or "")


PAIRS = (("eye", "dcm"), ("copy", "png"))


def test_explain_names_the_figure_of_a_dicom_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_model()
    monkeypatch.chdir(tmp_path)
    Path("eye.dcm").write_bytes(file_bytes(dataset_of(drawn_photograph(1))))
    Path("scan.dcm").write_bytes(several(2))
    for name in ("eye.dcm", "scan.dcm"):
        assert CliRunner().invoke(app, ["explain", name, "--model", "tiny", "--device", "cpu"]).exit_code == 0
    assert Path("eye-explained.png").is_file()
    assert sorted(path.name for path in Path("scan.dcm-explained").iterdir()) == [
        "config.yaml",
        "explanations.jsonl",
        "index.html",
        "scan.dcm#1-explained.jpg",
        "scan.dcm#2-explained.jpg",
    ]
    assert '"scan.dcm%231-explained.jpg"' in Path("scan.dcm-explained/index.html").read_text()
