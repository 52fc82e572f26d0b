"""What Python programs pass as photographs: the same pixels as of a file, or an error that says what is taken."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fundusgrade.errors import UnreadableImageError
from fundusgrade.photographs.images import read_image, read_photograph
from fundusgrade.photographs.inputs import PhotographInMemory, as_source, as_sources
from fundusgrade.photographs.sources import PhotographSource, find_images
from tests.models_for_tests import drawn_photograph

EYE = drawn_photograph(1)


def encoded(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    (image or Image.fromarray(EYE)).save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(photograph: object) -> NDArray[np.uint8]:
    return read_photograph(photograph).image  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "eye.png").write_bytes(encoded("PNG"))
    return tmp_path / "eye.png"


def test_all_kinds_of_a_photograph_have_the_pixels_of_the_file(path: Path) -> None:
    data = path.read_bytes()
    kinds = [str(path), path, find_images(path)[0], data, bytearray(data), memoryview(data), Image.open(path), EYE]
    for kind in kinds:
        assert np.array_equal(pixels(kind), EYE), type(kind)


def test_paths_and_files_that_pillow_opened_are_named_by_path_others_by_their_place(path: Path) -> None:
    opened = Image.open(path)
    assert [source.name for source in as_sources([str(path), path, opened, EYE, path.read_bytes()])] == [
        path.as_posix(), path.as_posix(), str(path), "photograph 3", "photograph 4",
    ]  # fmt: skip
    assert as_source(EYE).name == as_source(Image.fromarray(EYE)).name == "photograph 0"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_a_pillow_image_has_the_pixels_of_its_file(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(EYE)
    if "A" in mode:
        image.putalpha(Image.fromarray(EYE[::-1, ::-1, 0]))
    image = image.convert(mode)
    image.save(tmp_path / "eye.tif")
    assert np.array_equal(pixels(image), read_image(tmp_path / "eye.tif"))
    assert np.array_equal(pixels(Image.open(tmp_path / "eye.tif")), read_image(tmp_path / "eye.tif"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pillow_image_is_turned_upright_once(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(EYE[:, :120]).save(tmp_path / "eye.jpg", exif=exif)
    upright = read_image(tmp_path / "eye.jpg")
    with Image.open(tmp_path / "eye.jpg") as opened:
        assert np.array_equal(pixels(opened), upright)
        assert np.array_equal(pixels(opened.convert("RGB")), upright)
        assert np.array_equal(pixels(ImageOps.exif_transpose(opened)), upright)


def test_gray_and_transparent_arrays_have_the_pixels_of_such_files() -> None:
    gray, rgba = EYE[..., 1], np.dstack([EYE, EYE[..., 0]])
    expected = pixels(encoded("PNG", Image.fromarray(gray)))
    assert np.array_equal(pixels(gray), expected)
    assert np.array_equal(pixels(gray[..., np.newaxis]), expected)
    assert np.array_equal(pixels(rgba), pixels(encoded("PNG", Image.fromarray(rgba))))


@pytest.mark.parametrize("factor", [16, 257], ids=["12 bits", "16 bits"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_arrays_of_16_bits_have_the_pixels_of_such_files(factor: int, channels: int) -> None:
    rgba = np.dstack([EYE.astype(np.uint16) * factor, np.full(EYE.shape[:2], 40_000, np.uint16)])
    values = rgba[..., 0] if channels == 1 else rgba[..., :channels]
    ordered = {1: values, 3: values[..., ::-1], 4: rgba[..., [2, 1, 0, 3]]}[channels]
    data = cv2.imencode(".png", ordered)[1].tobytes()
    assert np.array_equal(pixels(values), pixels(data))
    if channels == 1:
        assert np.array_equal(pixels(Image.fromarray(values)), pixels(data))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_from_0_to_1_are_scaled_to_255_and_rounded(kind: type) -> None:
    assert np.array_equal(pixels((EYE / 255).astype(kind)), EYE)


def test_any_memory_layout_is_taken_and_nothing_of_the_callers_is_changed_or_kept() -> None:
    values = EYE.copy()
    values.setflags(write=False)
    assert np.array_equal(pixels(values), EYE)
    assert np.array_equal(pixels(np.asfortranarray(EYE)), EYE)
    assert np.array_equal(pixels(np.repeat(EYE, 2, axis=1)[:, ::2]), EYE)
    reused = EYE.copy()
    sources = as_sources(array for array in (reused, reused))
    first = next(sources)
    reused[:] = 0
    assert np.array_equal(pixels(first), EYE)
    assert not pixels(next(sources)).any()


def test_a_pillow_image_may_be_closed_once_it_was_taken(path: Path) -> None:
    def opened() -> Iterator[Image.Image]:
        for _ in range(2):
            with Image.open(path) as image:
                yield image

    taken = list(as_sources(opened()))
    assert all(np.array_equal(pixels(source), EYE) for source in taken)


def test_a_dicom_file_in_memory_keeps_its_eye(tmp_path: Path) -> None:
    dicoms = pytest.importorskip("tests.dicoms")
    data = dicoms.file_bytes(dicoms.dataset_of(EYE, ImageLaterality="L", Manufacturer="Maker"))
    (tmp_path / "eye.dcm").write_bytes(data)
    from_file, from_bytes = read_photograph(tmp_path / "eye.dcm"), read_photograph(data)
    assert np.array_equal(from_bytes.image, from_file.image)
    assert (from_bytes.laterality, from_bytes.camera) == (from_file.laterality, from_file.camera) == ("L", "Maker")


@pytest.mark.parametrize(
    ("photograph", "reason"),
    [
        (b"", "not an image"),
        (b"patient list", "not an image"),
        (encoded("JPEG")[:900], "truncated JPEG"),
        (np.zeros((20, 300, 3), np.uint8), "300 x 20 pixels are too few"),
        (Image.new("RGB", (20, 300)), "20 x 300 pixels are too few"),
        (Image.new("F", (200, 300)), "pixels of type 'F' is not supported"),
        (Image.open(io.BytesIO(encoded("JPEG")[:2000])), "cannot be read: image file is truncated"),
    ],
    ids=["no bytes", "text", "half a file", "small array", "small image", "floats of Pillow", "half an image"],
)
def test_content_that_cannot_be_read_is_a_reason_and_no_exception_of_another_library(
    photograph: object, reason: str
) -> None:
    source = as_source(photograph)  # type: ignore[arg-type]
    with pytest.raises(UnreadableImageError, match=reason):
        read_photograph(source)


@pytest.mark.parametrize(
    ("photograph", "hint"),
    [
        (3, "of type int"),
        (None, "of type NoneType"),
        ({"a": 1}, "of type dict"),
        ([EYE], "of type list"),
        (io.BytesIO(b"x"), r"pass the bytes that its read\(\) returns"),
        (torch.zeros(3, 40, 40), r"torch.Tensor; pass it as an array, such as tensor.permute\(1, 2, 0\).numpy\(\)"),
        (threading.Lock(), "of type _thread.lock"),
    ],
)
def test_another_type_is_refused_with_what_is_taken(photograph: object, hint: str) -> None:
    taken = r"one photograph is a path \(str or Path\), a Pillow image, an array \(height, width, 3\) of RGB values"
    with pytest.raises(TypeError, match=f"{taken}.*{hint}"):
        as_source(photograph)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [np.int64, np.int8, np.uint32, bool, complex, object])
def test_numbers_of_another_type_are_refused(kind: type) -> None:
    with pytest.raises(TypeError, match=r"expected uint8 from 0 to 255, uint16, or floats from 0 to 1"):
        as_source(EYE.astype(kind))


@pytest.mark.parametrize(
    ("array", "hint"),
    [
        (EYE.transpose(2, 0, 1), r"channels come last: pass array.transpose\(1, 2, 0\)"),
        (EYE[np.newaxis], "looks like a batch"),
        (EYE[..., :2], r"of shape \(160, 160, 2\) is no photograph"),
        (EYE[0, 0], r"of shape \(3,\) is no photograph"),
        (EYE[:0], r"of shape \(0, 160, 3\) is no photograph"),
        (EYE.astype(np.float32), "from 0 to 195 is no photograph: floats are expected from 0 to 1"),
        (EYE / 255 - 0.5, "from -0.5 to "),
        (np.where(EYE > 100, np.nan, EYE / 255), "from nan to nan"),
    ],
)
def test_arrays_of_another_layout_or_range_are_refused_with_the_remedy(array: NDArray[np.float64], hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        as_source(array)


@pytest.mark.parametrize("one", ["eye.png", Path("eye.png"), b"bytes", EYE, Image.fromarray(EYE), 3, None])
def test_a_single_photograph_is_refused_where_several_are_expected(one: object) -> None:
    with pytest.raises(TypeError, match=r"several photographs were expected.*use grade\(\.\.\.\) for one"):
        as_sources(one)  # type: ignore[arg-type]


def test_a_batch_is_several_photographs() -> None:
    batch = np.stack([EYE, drawn_photograph(2)])
    assert [np.array_equal(pixels(source), each) for source, each in zip(as_sources(batch), batch, strict=True)] == [
        True
    ] * 2


def test_sources_are_taken_as_they_are() -> None:
    sources = [PhotographSource(path=Path("a.png"), name="a"), PhotographInMemory(name="b", content=b"")]
    assert [as_source(source) for source in sources] == sources


def test_folders_and_files_are_found_by_any_kind_of_path(path: Path) -> None:
    folder = path.parent
    for places in (folder, str(folder), [folder], (str(folder),), iter([folder, path])):
        assert [found.path for found in find_images(places)] == [path]
    for wrong in (3, None, b"folder", [3], [b"folder"]):
        with pytest.raises(TypeError, match=r"find_images takes .*\(str or Path\).*of type"):
            find_images(wrong)  # type: ignore[arg-type]
