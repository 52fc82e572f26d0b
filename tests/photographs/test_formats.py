"""Photographs are recognized by their content, whatever they are called, and what is none is counted by kind."""

from __future__ import annotations

import io
import struct
import zipfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as PilImage
from pydicom.uid import ImplicitVRLittleEndian

from fundusgrade.data.labels import find_samples
from fundusgrade.errors import UnreadableImageError
from fundusgrade.photographs.decoding import decode_image
from fundusgrade.photographs.formats import PictureFormat, recognize_picture
from fundusgrade.photographs.images import read_image
from fundusgrade.photographs.sources import search_files, search_images
from fundusgrade.reports.listings import labels_summary, skipped_line
from tests.command_line import Outcome
from tests.dicoms import dataset_of, file_bytes
from tests.models_for_tests import drawn_photograph, install_model

PHOTOGRAPH = drawn_photograph(0)
DICOM = file_bytes(dataset_of(PHOTOGRAPH))


def encoded(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    PilImage.fromarray(PHOTOGRAPH).save(buffer, kind, **options)
    return buffer.getvalue()


def without_meta_information(syntax: str) -> bytes:
    """A DICOM file that begins with its data set, as some archives cut it."""
    dataset = dataset_of(PHOTOGRAPH, syntax=syntax)
    buffer = io.BytesIO()
    del dataset.file_meta
    dataset.save_as(buffer, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
    return buffer.getvalue().removeprefix(bytes(128) + b"DICM")


PICTURES = {
    "no_suffix": encoded("PNG"),
    "scan.bin": encoded("WEBP", lossless=True),
    "eye.JIF": encoded("JPEG", quality=98, subsampling=0),
    "eye.j2k": encoded("JPEG2000", no_jp2=True),
    "eye.jpf": encoded("JPEG2000"),
    "old.dib": encoded("BMP"),
    "named.tmp": encoded("TIFF"),
    "1.2.840.113619.2.5": DICOM,
    "no_preamble": DICOM[132:],
    "mark_only": DICOM[128:],
    "explicit": without_meta_information("1.2.840.10008.1.2.1"),
    "implicit": without_meta_information(ImplicitVRLittleEndian),
    "photo.avif": encoded("AVIF", quality=99, subsampling="4:4:4"),
    "eye.pnm": encoded("PPM"),
    "eye": b"P6\n# a remark\n160 160\n255\n" + PHOTOGRAPH.tobytes(),
}
OTHERS = {
    "list.txt": b"P1 12 34\nP2 11 30\n",
    "a.xml": b"<eye/>",
    "b.XML": b"<eye/>",
    "report": b"%PDF-1.7\n",
    "movie.mp4": b"\0\0\0\x18ftypmp42" + bytes(100),
    "DICOMDIR": DICOM,
    "empty": b"",
    "7.35.2": b"numbers\n",
    "words.bmp.md": b"BM is not the beginning of a bitmap here",
    ".DS_Store": b"x",
}
KINDS = Counter(
    {".txt": 1, ".xml": 2, ".mp4": 1, "without suffix": 3, "DICOMDIR": 1, ".md": 1, "hidden": 1, "hidden folder": 1}
)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "below").mkdir(parents=True)
    (folder / ".cache").mkdir()
    for number, (name, content) in enumerate((PICTURES | OTHERS).items()):
        path = folder / ("below" if number % 2 and not name.startswith(".") else "") / name
        path.write_bytes(content)
    return folder


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_read_whatever_they_are_called(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(PICTURES[name])
    image = read_image(tmp_path / name)
    assert np.abs(image.astype(int) - PHOTOGRAPH).mean() < 2


def test_folders_are_searched_by_content_and_the_rest_is_counted_by_kind(mixed: Path) -> None:
    found = search_images([mixed])
    assert {Path(each.name).name for each in found.photographs} == set(PICTURES)
    assert found.num_skipped == KINDS
    assert search_files([mixed]).num_skipped == KINDS


def test_archives_are_searched_by_content_too(mixed: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in mixed.rglob("*"):
            if path.is_file():
                archive.write(path, path.relative_to(mixed).as_posix())
    found = search_images([tmp_path / "in.zip"])
    assert {Path(each.name).name for each in found.photographs} == set(PICTURES)
    assert found.num_skipped == KINDS - Counter(["hidden folder"])
    assert all(np.abs(read_image_of(each) - PHOTOGRAPH).mean() < 2 for each in found.photographs)
    assert search_files([tmp_path]).num_skipped == KINDS + Counter([".zip"])


def read_image_of(source: object) -> np.ndarray:
    from fundusgrade.photographs.images import read_photograph

    return read_photograph(source).image.astype(int)


def test_links_and_pipes_are_no_photographs_and_are_counted(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder", target_is_directory=True)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert search_images([tmp_path]).num_skipped == {"link to a folder": 1, "without suffix": 2}


def test_the_line_names_frequent_kinds_first_and_ends() -> None:
    assert skipped_line({".gif": 1, ".xml": 3}) == "skipped: 3 .xml, 1 .gif"
    assert skipped_line({}) == ""
    many = skipped_line({f".{number:02d}x": 1 for number in range(20)})
    assert many.endswith(".11x, 8 of other kinds")


def test_predict_counts_what_it_skips(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_model()
    monkeypatch.chdir(mixed.parent)
    result = Outcome("fundusgrade predict in --model tiny --csv out.csv")
    assert result.code == 0
    assert "skipped: 3 without suffix, 2 .xml, 1 .md" in result.stderr
    assert len((mixed.parent / "out.csv").read_text().splitlines()) == 1 + len(PICTURES)
    (mixed.parent / "texts").mkdir()
    (mixed.parent / "texts" / "a.txt").write_text("a")
    result = Outcome("fundusgrade predict texts --model tiny --csv none.csv")
    assert result.code == 1
    assert "no photographs in texts (skipped: 1 .txt); expected JPEG" in result.stderr


def test_preprocess_counts_what_it_skips_but_not_its_label_file(mixed: Path) -> None:
    (mixed / "labels.csv").write_text("image,level\n" + "".join(f"{name},0\n" for name in ("eye.JIF", "eye.j2k")))
    found = find_samples([mixed])
    assert [sample.grade for sample in found.samples] == [0, 0]
    tables = Counter(path.suffix for path in found.unread_files)
    assert found.num_skipped == KINDS - tables
    assert "\nskipped: 3 without suffix, 2 .xml" in labels_summary(found)


def test_a_list_of_patients_is_no_bitmap() -> None:
    assert recognize_picture(b"P1 3 4\nP2 5 6\n") is None
    assert recognize_picture(b"P1 12 34\nP2 56 78\n") is None
    assert recognize_picture(b"P2\n#x\n640 480\n255\n0 1 2 3 4 5\n") is PictureFormat.NETPBM


# --- pictures that are not read ---------------------------------------------------------------------------------------

UNREADABLE = {
    "JPEG XL": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(500),
    "BigTIFF": b"II+\0\x08\0\0\0" + bytes(500),
    "Photoshop": b"8BPS\0\1" + bytes(500),
    "camera raw (Fujifilm)": b"FUJIFILMCCD-RAW 0201" + bytes(500),
    "camera raw (Canon)": b"\0\0\0\x18ftypcrx \0\0\0\1" + bytes(500),
    "PAM or PFM": b"P7\nWIDTH 40\n" + bytes(500),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_picture_that_is_not_read_is_refused_by_name_and_never_skipped(name: str, tmp_path: Path) -> None:
    (tmp_path / "eye").write_bytes(UNREADABLE[name])
    found = search_images([tmp_path])
    assert len(found.photographs) == 1 and not found.num_skipped
    with pytest.raises(UnreadableImageError) as caught:
        decode_image(UNREADABLE[name])
    assert f"this is a {name} file" in str(caught.value)


def test_the_preview_of_a_camera_raw_file_is_not_taken_for_the_photograph() -> None:
    data = encoded("TIFF", tiffinfo={254: 1, 330: 8})
    for raw in (data, encoded("TIFF", tiffinfo={50706: b"\1\4\0\0"})):
        with pytest.raises(UnreadableImageError, match="camera raw file"):
            decode_image(raw)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "AVIF"])
def test_several_pictures_in_one_file_are_refused(kind: str) -> None:
    other = PilImage.fromarray(drawn_photograph(1))
    data = encoded(kind, save_all=True, append_images=[other])
    with pytest.raises(UnreadableImageError, match=r"holds (2|several) pictures; save each of them as a file"):
        decode_image(data)


@pytest.mark.parametrize(
    ("marker", "precision", "expected"),
    [(0xC3, 8, "lossless JPEG"), (0xF7, 8, "JPEG-LS"), (0xC1, 12, "JPEG with 12 bits per channel")],
)
def test_unusual_kinds_of_jpeg_are_named(marker: int, precision: int, expected: str) -> None:
    data = bytearray(encoded("JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 1], data[frame + 4] = marker, precision
    with pytest.raises(UnreadableImageError, match=f"^{expected} is not supported; save it as an ordinary JPEG"):
        decode_image(bytes(data))


# --- depths -----------------------------------------------------------------------------------------------------------


def deep(bits: int) -> np.ndarray:
    return np.round(PHOTOGRAPH / 255 * (2**bits - 1)).astype(np.uint16)


@pytest.mark.parametrize("bits", [12, 14, 16])
@pytest.mark.parametrize("suffix", [".pgm", ".ppm", ".jp2", ".png", ".tiff"])
def test_photographs_of_more_than_8_bits_are_scaled_by_what_they_use(suffix: str, bits: int) -> None:
    values = deep(bits)[..., 1] if suffix == ".pgm" else deep(bits)
    data = cv2.imencode(suffix, values[..., ::-1] if values.ndim == 3 else values)[1].tobytes()
    if suffix in (".pgm", ".ppm"):
        assert b"65535" in data[:20]
    expected = PHOTOGRAPH if values.ndim == 3 else np.repeat(PHOTOGRAPH[..., 1:2], 3, axis=2)
    # 16 bits per channel of JPEG 2000 are compressed with loss by OpenCV.
    assert np.abs(decode_image(data).astype(int) - expected).max() <= (3 if suffix == ".jp2" else 1)


@pytest.mark.parametrize("largest", [1023, 4095, 9999, 16383])
def test_the_largest_value_that_a_ppm_names_is_white(largest: int) -> None:
    values = np.round(PHOTOGRAPH / PHOTOGRAPH.max() * largest).astype(">u2")
    data = b"P6 160 160\n#c\n%d\n" % largest + values.tobytes()
    expected = np.round(PHOTOGRAPH / PHOTOGRAPH.max() * 255)
    assert np.abs(decode_image(data) - expected).max() <= 1
    with pytest.raises(UnreadableImageError, match="truncated PPM"):
        decode_image(data[:-1])


def test_a_claimed_ppm_of_16_bits_is_refused_from_its_header() -> None:
    with pytest.raises(UnreadableImageError, match="are more than the"):
        decode_image(b"P6 99999 99999 65535\n" + bytes(1000))
    with pytest.raises(UnreadableImageError, match="are more than the"):
        header = bytearray(cv2.imencode(".jp2", deep(16))[1].tobytes())
        place = header.index(b"\xff\x4f\xff\x51")
        header[place + 8 : place + 16] = struct.pack(">LL", 99999, 99999)
        decode_image(bytes(header))


# --- HEIC -------------------------------------------------------------------------------------------------------------


def test_a_heic_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(UnreadableImageError, match=r"run: pip install 'fundusgrade\[heic\]'"):
        decode_image(b"\0\0\0\x18ftypheic" + bytes(500))


def test_a_heic_is_read_with_its_package() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(PilImage.fromarray(PHOTOGRAPH)).save(buffer, quality=95, chroma=444)
    data = buffer.getvalue()
    assert recognize_picture(data[:512]) is PictureFormat.HEIC
    assert np.abs(decode_image(data).astype(int) - PHOTOGRAPH).mean() < 3
    for length in (200, len(data) // 2, len(data) - 50):
        with pytest.raises(UnreadableImageError):
            decode_image(data[:length])
