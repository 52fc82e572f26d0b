"""DICOM files whose headers contradict their pixels, or that show no photograph: graded rightly, or the true reason."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid

from fundusgrade.errors import UnreadableImageError
from fundusgrade.photographs.dicom import decode_dicom
from fundusgrade.photographs.dicom_colors import shows_ycbcr
from fundusgrade.photographs.sources import find_images
from tests.dicoms import dataset_of, encapsulated, file_bytes, jpeg_bytes
from tests.models_for_tests import drawn_photograph

PHOTOGRAPH = drawn_photograph(3)
YCBCR = np.asarray(Image.fromarray(PHOTOGRAPH).convert("YCbCr"))
JFIF = b"\xff\xe0\x00\x10JFIF\0"


def image_of(dataset: Any, **options: Any) -> NDArray[np.int64]:
    return decode_dicom(io.BytesIO(file_bytes(dataset)), **options).image.astype(int)


def reason(dataset: Any) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        decode_dicom(io.BytesIO(file_bytes(dataset)))
    return str(caught.value)


def on_white(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.where(image.max(axis=2, keepdims=True) < 30, 255, image).astype(np.uint8)


def without_marker(jpeg: bytes) -> bytes:
    assert jpeg[2:].startswith(JFIF)
    return jpeg[:2] + jpeg[20:]


# --- color space ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("declared", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize("surroundings", ["black", "white"])
def test_uncompressed_pixels_have_the_color_space_that_they_show(declared: str, surroundings: str) -> None:
    rgb = PHOTOGRAPH if surroundings == "black" else on_white(PHOTOGRAPH)
    ycbcr = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    for stored in (rgb, ycbcr):
        image = image_of(dataset_of(stored, PhotometricInterpretation=declared))
        assert np.abs(image - rgb).max() <= 3, "the header names a wrong color space, or halved chromas that are whole"


@pytest.mark.parametrize("declared", ["RGB", "YBR_FULL_422"])
@pytest.mark.parametrize("stored", ["RGB", "YCbCr"])
@pytest.mark.parametrize("at_least_px", [None, 40])
def test_a_jpeg_without_marker_has_the_color_space_that_it_shows(
    declared: str, stored: str, at_least_px: int | None
) -> None:
    if stored == "YCbCr":
        bare = without_marker(jpeg_bytes(PHOTOGRAPH, quality=98, subsampling=0))
    else:
        marked = jpeg_bytes(PHOTOGRAPH, quality=98, subsampling=0, keep_rgb=True)
        bare = marked.replace(b"\xff\xee\x00\x0eAdobe", b"\xff\xe9\x00\x0eAdobX", 1)
    dataset = encapsulated([bare], PHOTOGRAPH.shape, PhotometricInterpretation=declared)
    image = image_of(dataset, at_least_px=at_least_px)
    expected = cv2.resize(PHOTOGRAPH, image.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(image - expected).mean() < 3


@pytest.mark.parametrize("declared", ["RGB", "YBR_FULL", "YBR_RCT"])
@pytest.mark.parametrize("stored", ["RGB", "YCbCr"])
def test_jpeg_2000_has_the_color_space_that_it_shows(declared: str, stored: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PHOTOGRAPH if stored == "RGB" else YCBCR).save(buffer, "JPEG2000", no_jp2=True, mct=0)
    dataset = encapsulated(
        [buffer.getvalue()], PHOTOGRAPH.shape, syntax=uid.JPEG2000Lossless, PhotometricInterpretation=declared
    )
    assert np.abs(image_of(dataset) - PHOTOGRAPH).max() <= 3


def test_pixels_without_surroundings_have_the_color_space_of_the_header() -> None:
    middle = PHOTOGRAPH[55:105, 55:105]
    assert shows_ycbcr(middle) is None and shows_ycbcr(YCBCR[55:105, 55:105]) is None
    assert np.array_equal(image_of(dataset_of(middle)), middle)
    ycbcr = np.ascontiguousarray(YCBCR[55:105, 55:105])
    assert np.abs(image_of(dataset_of(ycbcr, PhotometricInterpretation="YBR_FULL")) - middle).max() <= 3


# --- length and depth -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elements", "num_expected"),
    [({"Rows": 159}, 76_320), ({"NumberOfFrames": 2}, 153_600), ({"Columns": 150}, 72_000), ({"Rows": 200}, 96_000)],
)
def test_pixels_of_another_length_than_the_header_says_are_refused(elements: dict[str, int], num_expected: int) -> None:
    dataset = dataset_of(PHOTOGRAPH, **elements)
    with pytest.raises(UnreadableImageError) as caught:
        decode_dicom(io.BytesIO(file_bytes(dataset)), 1)
    assert f"wrong length: its pixels have 76800 bytes, and its header says {num_expected} bytes" in str(caught.value)


def test_images_that_the_header_does_not_count_are_not_dropped() -> None:
    three = np.concatenate([PHOTOGRAPH] * 3)
    assert "wrong length" in reason(dataset_of(PHOTOGRAPH, PixelData=three.tobytes()))


def test_a_little_padding_after_the_pixels_does_not_matter() -> None:
    dataset = dataset_of(PHOTOGRAPH, PixelData=PHOTOGRAPH.tobytes() + bytes(100))
    assert np.array_equal(image_of(dataset), PHOTOGRAPH)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_fewer_bits_than_the_header_says_are_scaled_by_what_they_use(bits: int) -> None:
    values = np.round(PHOTOGRAPH / PHOTOGRAPH.max() * (2**bits - 1)).astype(np.uint16)
    expected = np.round(PHOTOGRAPH / PHOTOGRAPH.max() * 255)
    assert np.abs(image_of(dataset_of(values)) - expected).max() <= 1


# --- compressed pixels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("syntax", "name"),
    [(uid.JPEGBaseline8Bit, "JPEG"), (uid.JPEG2000, "JPEG 2000"), (uid.JPEG2000Lossless, "JPEG 2000")],
)
@pytest.mark.parametrize("key", [0x5A, 0x01, 0xFF])
def test_scrambled_pixels_are_called_scrambled(syntax: str, name: str, key: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PHOTOGRAPH).save(buffer, "JPEG" if name == "JPEG" else "JPEG2000")
    scrambled = bytes(byte ^ key for byte in buffer.getvalue())
    said = reason(encapsulated([scrambled], PHOTOGRAPH.shape, syntax=syntax))
    assert f"pixels are not a {name}, as its header says: scrambled by its maker" in said and "; export" in said


def test_compressed_pixels_are_read_by_their_content() -> None:
    jpeg = jpeg_bytes(PHOTOGRAPH, quality=95, subsampling=0)
    dataset = encapsulated([jpeg], PHOTOGRAPH.shape, syntax=uid.JPEG2000)
    assert np.abs(image_of(dataset) - PHOTOGRAPH).mean() < 2


# --- kinds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"SOPClassUID": uid.SecondaryCaptureImageStorage, "Modality": "OPT"}, "an OCT scan"),
        ({"SOPClassUID": uid.OphthalmicOpticalCoherenceTomographyEnFaceImageStorage}, "an OCT scan"),
        ({"SOPClassUID": uid.CTImageStorage, "Modality": "CT"}, "of the kind 'CT Image'"),
        ({"SOPClassUID": "1.2.840.99999.1", "Modality": "MR"}, "an MR scan"),
        ({"SOPClassUID": uid.MediaStorageDirectoryStorage}, "of the kind 'Media Storage Directory'"),
        ({"SOPClassUID": uid.OphthalmicThicknessMapStorage}, "of the kind 'Ophthalmic Thickness Map'"),
    ],
)
def test_what_is_no_photograph_is_refused_by_name_and_once(
    elements: dict[str, str], expected: str, tmp_path: Path
) -> None:
    frames = np.zeros((4, 64, 64), np.uint8)
    dataset = dataset_of(frames[0], NumberOfFrames=4, PixelData=frames.tobytes(), **elements)
    assert f"this DICOM file is {expected}" in reason(dataset)
    (tmp_path / "scan.dcm").write_bytes(file_bytes(dataset))
    assert [each.frame for each in find_images([tmp_path])] == [None], "one row, not one for each slice"


@pytest.mark.parametrize(
    "elements",
    [
        {"SOPClassUID": uid.SecondaryCaptureImageStorage, "Modality": "OT"},
        {"SOPClassUID": uid.VLPhotographicImageStorage, "Modality": "XC"},
        {"SOPClassUID": uid.OphthalmicPhotography16BitImageStorage, "Modality": "OPT"},
        {"SOPClassUID": "1.2.840.99999.1"},
        {"Modality": "UNKNOWN"},
    ],
)
def test_photographs_of_any_class_are_read(elements: dict[str, str]) -> None:
    assert np.array_equal(image_of(dataset_of(PHOTOGRAPH, **elements)), PHOTOGRAPH)
