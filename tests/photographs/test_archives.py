"""Photographs in zip archives are graded as if they were files, and nothing is read or written outside of them."""

from __future__ import annotations

import io
import re
import stat
import struct
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fundusgrade.commands.app import app
from fundusgrade.errors import UnreadableImageError
from fundusgrade.grades import Prediction
from fundusgrade.grading.grader import Grader
from fundusgrade.options import DeviceName, Precision
from fundusgrade.photographs import archives
from fundusgrade.photographs.images import read_photograph
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.sources import PhotographSource, find_files, find_images
from fundusgrade.reports.explanation_pages import figure_names
from tests.dicoms import dataset_of, file_bytes
from tests.models_for_tests import drawn_photograph, install_model, save_broken_files, save_photographs
from tests.photographs.cost import measured_cost


def png_of(image: Image) -> bytes:
    return bytes(cv2.imencode(".png", image[..., ::-1])[1])


PHOTOGRAPH = drawn_photograph(0)
PNG = png_of(PHOTOGRAPH)


def pack(path: Path, *members: str | zipfile.ZipInfo, content: bytes = PNG, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for member in members:
            if isinstance(member, zipfile.ZipInfo):
                member.compress_type = method
            archive.writestr(member, content)
    return path


def names_of(*paths: Path) -> list[str]:
    return [Path(found.name).relative_to(paths[0].parent).as_posix() for found in find_images(paths)]


def reason(found: PhotographSource) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        read_photograph(found)
    return str(caught.value)


def only(path: Path) -> PhotographSource:
    (found,) = find_images([path])
    return found


# --- listing ----------------------------------------------------------------------------------------------------------


def test_photographs_are_listed_by_name_and_hidden_ones_are_not(tmp_path: Path) -> None:
    pack(
        tmp_path / "eyes.zip",
        *("b.png", "a/10.JPEG", "./a/2.jpg", "c.tif", "a/", "z.dcm"),
        *("__MACOSX/._b.png", "._b.png", ".hidden/x.png", "a/.x.png", "a/__MACOSX/x.png"),
    )
    with zipfile.ZipFile(tmp_path / "eyes.zip", "a") as archive:
        archive.writestr("notes.txt", "dark left eye")
    expected = ["eyes.zip/a/10.JPEG", "eyes.zip/a/2.jpg", "eyes.zip/b.png", "eyes.zip/c.tif", "eyes.zip/z.dcm"]
    assert names_of(tmp_path / "eyes.zip") == expected
    assert all(found.path == tmp_path / "eyes.zip" for found in find_images([tmp_path]))


def test_archives_in_folders_are_listed_once(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    save_photographs(folder, [1])
    pack(folder / "A.ZIP", "x.png")
    assert names_of(folder, folder / "A.ZIP", folder / ".." / "in" / "A.ZIP") == [
        "in/A.ZIP/x.png",
        "in/eye01.png",
    ]
    assert find_images([pack(tmp_path / "empty.zip")]) == []


def test_data_sets_are_made_of_files(tmp_path: Path) -> None:
    pack(tmp_path / "a.zip", "x.png")
    save_photographs(tmp_path, [1])
    assert [found.path.name for found in find_files([tmp_path])] == ["eye01.png"]


def test_the_list_of_many_members_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(tmp_path / "many.zip", *(f"{number}.png" for number in range(5000)), content=b"x")
    opened = []
    genuine = zipfile.ZipFile
    monkeypatch.setattr(zipfile, "ZipFile", lambda file: opened.append(file) or genuine(file))
    found = find_images([path])
    assert len(found) == 5000
    for each in found[::50]:
        assert "not an image" in reason(each)
    assert len(opened) == 1


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_read_in_threads_and_no_file_stays_open(method: int, tmp_path: Path) -> None:
    images = [drawn_photograph(seed) for seed in range(8)]
    with zipfile.ZipFile(tmp_path / "eyes.zip", "w", method) as archive:
        for number in range(64):
            archive.writestr(f"{number:02d}.png", png_of(images[number % 8]))
    data = (tmp_path / "eyes.zip").read_bytes()
    (tmp_path / "eyes.zip").write_bytes(b"a program that unpacks it" + data)  # as some archives begin
    found = find_images([tmp_path / "eyes.zip"])
    num_open = num_open_files()
    with ThreadPoolExecutor(8) as pool:
        for number, decoded in enumerate(pool.map(read_photograph, found * 3)):
            assert np.array_equal(decoded.image, images[number % 8])
    assert num_open_files() == num_open
    assert [path.name for path in tmp_path.iterdir()] == ["eyes.zip"]


def num_open_files() -> int:
    place = Path("/proc/self/fd")  # only on Linux
    return len(list(place.iterdir())) if place.is_dir() else 0


def test_dicoms_in_archives_come_frame_by_frame(tmp_path: Path) -> None:
    frames = np.stack([drawn_photograph(seed) for seed in range(11)])
    scan = file_bytes(dataset_of(frames[0], NumberOfFrames=11, PixelData=frames.tobytes(), Laterality="R"))
    found = find_images([pack(tmp_path / "a.zip", "scan.dcm", content=scan)])
    assert [each.name for each in found] == [f"{(tmp_path / 'a.zip').as_posix()}/scan.dcm#{n}" for n in range(1, 12)]
    for frame, each in zip(frames, found, strict=True):
        decoded = read_photograph(each)
        assert np.array_equal(decoded.image, frame)
        assert decoded.laterality == "R"


def test_an_archive_is_graded_as_its_files_are(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    install_model()
    grader = Grader.load("tiny", device=DeviceName.CPU, precision=Precision.FLOAT32, batch_size=4)
    save_photographs(tmp_path / "in", range(5))
    reasons = save_broken_files(tmp_path / "in")
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for path in (tmp_path / "in").iterdir():
            if path.is_file():
                archive.write(path, path.name)
    files = {Path(result.image).name: result for result in grader.grade_all(find_images([tmp_path / "in"]))}
    members = list(grader.grade_all(find_images([tmp_path / "in.zip"])))
    assert len(members) >= 5 + 12
    for result in members:
        name = Path(result.image).name
        if isinstance(result, Prediction):
            expected = files[name]
            assert isinstance(expected, Prediction)
            assert np.allclose(result.probabilities, expected.probabilities, atol=1e-4)
        elif name != "empty.png":
            assert reasons[name] in result.reason


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("../evil.png", "a/../../evil.png", "/etc/evil.png", "//server/evil.png", "..\\evil.png", "a\\b.png"),
        *("C:evil.png", "c:/evil.png", "a\nb.png", "\x1b[2Ja.png", "a/..", "../evil.zip"),
    ],
)
def test_names_that_leave_the_archive_are_refused_with_a_reason(name: str, tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", name, "good.png")
    found = {each.name.removeprefix(f"{path.as_posix()}/"): each for each in find_images([path])}
    if name == "a/..":
        assert set(found) == {"good.png"}
        return
    assert set(found) == {name, "good.png"}
    assert "not a plain relative path" in reason(found[name])
    assert np.array_equal(read_photograph(found["good.png"]).image, PHOTOGRAPH)
    for figure in figure_names([found[name], found["good.png"]]):
        assert ".." not in Path(figure).parts and not Path(figure).is_absolute() and "evil" not in figure


def test_a_name_with_a_null_byte_is_refused(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", "a.png_.exe")
    path.write_bytes(path.read_bytes().replace(b"a.png_.exe", b"a.png\0.exe"))
    assert "not a plain relative path" in reason(only(path))


@pytest.mark.parametrize("name", [f"{'x' * 300}.png", "/".join(["x" * 150] * 10) + "/a.png", f"{'ü' * 150}.png"])
def test_names_too_long_for_a_figure_are_refused(name: str, tmp_path: Path) -> None:
    assert "its name is too long" in reason(only(pack(tmp_path / "a.zip", name)))


def test_links_nested_archives_and_unsupported_compression_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert "it is a symbolic link" in reason(only(pack(tmp_path / "link.zip", link, content=b"/etc/passwd")))
    inner = pack(tmp_path / "inner.zip", "a.png").read_bytes()
    nested = only(pack(tmp_path / "outer.zip", "inner.zip", content=inner))
    assert "an archive inside of an archive" in reason(nested)
    assert nested.name.endswith("outer.zip/inner.zip")
    packed = only(pack(tmp_path / "a.zip", "a.png", method=zipfile.ZIP_BZIP2))
    assert "compressed in a way that is not supported" in reason(packed)


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", "a.png")
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert reason(only(path)) == "it is encrypted; unpack the archive with its password"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_used_twice_is_one_row_with_a_reason(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", "a.png", "b.png", "./a.png", "a.png")
    assert names_of(path) == ["a.zip/a.png", "a.zip/b.png"]
    twice, once = find_images([path])
    assert "holds 3 files of this name" in reason(twice)
    assert np.array_equal(read_photograph(once).image, PHOTOGRAPH)


def test_large_members_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(tmp_path / "a.zip", "bomb.png", content=bytes(3_000_000))
    assert path.stat().st_size < 5000
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 2_000_000)
    assert "has 3000000 bytes, more than the 2000000 allowed in archives" in reason(only(path))


def test_members_that_unpack_to_more_than_they_state_are_refused(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", "bomb.png", content=bytes(30_000_000))
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02")
    data[start + 24 : start + 28] = struct.pack("<L", 1000)
    path.write_bytes(data)
    found = only(path)
    with measured_cost() as cost:
        assert "does not match the list of files" in reason(found)
    assert cost.peak_bytes < 1_000_000


@pytest.mark.parametrize("field", [16, 20, 24, 42], ids=["checksum", "packed size", "size", "offset"])
@pytest.mark.parametrize("value", [7, 0x7FFFFFF0])
def test_a_list_of_files_that_contradicts_a_member_is_noticed(field: int, value: int, tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", "a.png", "b.png")
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02")
    data[start + field : start + field + 4] = struct.pack("<L", value)
    path.write_bytes(data)
    first, second = find_images([path])
    assert "does not match the list of files" in reason(first) or "allowed in archives" in reason(first)
    assert np.array_equal(read_photograph(second).image, PHOTOGRAPH)


def test_damaged_archives_are_one_row_named_after_them(tmp_path: Path) -> None:
    whole = pack(tmp_path / "a.zip", "a.png", "b.png").read_bytes()
    for content in (whole[:-30], whole[: len(whole) // 2], b"no archive", whole.replace(b"PK\x01\x02", b"PK\x01\x03")):
        (tmp_path / "a.zip").write_bytes(content)
        found = only(tmp_path / "a.zip")
        assert found.name == (tmp_path / "a.zip").as_posix()
        assert "damaged zip archive: its list of files cannot be read" in reason(found)
    (tmp_path / "a.zip").write_bytes(b"")
    assert "the file is empty" in reason(only(tmp_path / "a.zip"))
    assert "does not exist" in reason(only(tmp_path / "gone.zip"))


def test_any_flipped_byte_leaves_rows_that_can_be_read_or_say_why(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", "a.png", "b.png", content=b"x" * 40)
    data = path.read_bytes()
    for position in range(len(data)):
        for bit in (0, 5, 7):
            broken = bytearray(data)
            broken[position] ^= 1 << bit
            path.write_bytes(broken)
            found = find_images([path])
            assert len({each.name for each in found}) == len(found)
            for each in found:
                assert "\n" not in reason(each)


def test_an_archive_truncated_after_it_was_listed_is_noticed(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", "a.png")
    found = only(path)
    path.write_bytes(path.read_bytes()[:100])
    assert "does not match the list of files" in reason(found)
    path.unlink()
    assert "does not exist" in reason(found)


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_commands_read_archives_and_write_only_to_the_paths_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_model()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    traps = ("../../evil.png", "/tmp/evil.png", "..\\evil.png", "C:\\evil.png", "twice.png", "twice.png")
    pack(Path("eyes.zip"), "left/eye.png", "right/eye.png", "right/eye.jpg", "eyes.zip/eye.png", *traps)
    predicted = run(["predict", "eyes.zip", "--csv", "out.csv"])
    rows = Path("out.csv").read_text().splitlines()[1:]
    assert (predicted, len(rows)) == (3, 9)
    assert sum(re.search(r",tiny,[0-9a-f]{12},$", row) is not None for row in rows) == 4
    assert run(["explain", "eyes.zip"]) == 3
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert written - {"work/.out.csv.lock"} == {
        *("work/eyes.zip", "work/out.csv", "work/out.csv.json", "work/out.csv.config.yaml"),
        *(f"work/eyes.zip-explained/{name}" for name in ("index.html", "explanations.jsonl", "config.yaml")),
        "work/eyes.zip-explained/eyes.zip/left/eye-explained.jpg",
        "work/eyes.zip-explained/eyes.zip/right/eye.png-explained.jpg",
        "work/eyes.zip-explained/eyes.zip/right/eye.jpg-explained.jpg",
        "work/eyes.zip-explained/eyes.zip/eyes.zip/eye-explained.jpg",
    }
    assert not Path("/tmp/evil-explained.jpg").exists()


def run(words: list[str]) -> int:
    result = CliRunner().invoke(app, [*words, "--model", "tiny", "--device", "cpu"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code


def test_an_archive_in_memory_needs_no_file() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", PNG)
    (member,) = archives.find_members(buffer, {".png"}).members
    assert archives.read_member(buffer, member) == PNG


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    """Thousands of names for the same few bytes would unpack to as many large images."""
    path = pack(tmp_path / "a.zip", *(f"{number}.png" for number in range(5)))
    data = bytearray(path.read_bytes())
    starts = [found.start() for found in re.finditer(b"PK\x01\x02", data)]
    for start in starts[1:]:
        data[start + 42 : start + 46] = data[starts[0] + 42 : starts[0] + 46]
    path.write_bytes(data)
    assert [found.problem is not None for found in find_images([path])] == [False, True, True, True, True]
