"""Photographs and files at URLs: found, read and written as those on a disk, and what fails said in words."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from fundusgrade.errors import FundusgradeError, UnreadableImageError
from fundusgrade.photographs import remote
from fundusgrade.photographs.images import read_photograph
from fundusgrade.photographs.inputs import PhotographInMemory
from fundusgrade.photographs.read_ahead import read_ahead
from fundusgrade.photographs.sources import PhotographSource, find_images, search_images
from tests.models_for_tests import save_photographs
from tests.storage import BUCKET, s3_server


@pytest.fixture
def memory() -> Iterator[str]:
    """An empty place in the memory of this process."""
    yield "memory://eyes"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An S3 server on this machine."""
    with s3_server() as url:
        yield url


def fill(url: str, folder: Path) -> list[bytes]:
    """Put two eyes, an archive of one, and what is no photograph below a URL; returns the bytes of the two."""
    contents = [path.read_bytes() for path in save_photographs(folder, range(2))]
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        archive.writestr("left/eye.png", contents[1])
    others = {"b/eye1": contents[1], "more.zip": (folder / "more.zip").read_bytes(), "notes.txt": b"no photograph"}
    for name, content in {"a.png": contents[0], **others, ".hidden/c.png": contents[0], "empty.png": b""}.items():
        remote.write_file(f"{url}/{name}", content)
    return contents


@pytest.mark.parametrize("storage", ["memory", "bucket"])
def test_a_folder_at_a_url_is_searched_as_one_on_a_disk(
    storage: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = f"{request.getfixturevalue(storage)}/clinic"
    contents = fill(url, tmp_path)
    found = search_images([url])
    names = ["a.png", "b/eye1", "empty.png", "more.zip/left/eye.png"]
    assert [each.name for each in found.photographs] == [f"{url}/{name}" for name in names]
    assert dict(found.num_skipped) == {".txt": 1, "hidden": 1}
    for index, source in ((0, found.photographs[0]), (1, found.photographs[1]), (1, found.photographs[3])):
        (tmp_path / "same.png").write_bytes(contents[index])
        np.testing.assert_array_equal(read_photograph(source).image, read_photograph(tmp_path / "same.png").image)
    with pytest.raises(UnreadableImageError, match=r"empty \(0 bytes\)"):
        read_photograph(found.photographs[2])


@pytest.mark.parametrize("storage", ["memory", "bucket"])
def test_a_photograph_is_read_by_its_url_and_one_that_is_missing_is_a_reason(
    storage: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = f"{request.getfixturevalue(storage)}/one"
    fill(url, tmp_path)
    [there, missing] = find_images([f"{url}/a.png", f"{url}/nowhere.png"])
    assert read_photograph(there).image.shape == (160, 160, 3)
    with pytest.raises(UnreadableImageError, match="it does not exist; check the bucket"):
        read_photograph(missing)


def test_a_path_that_lost_a_slash_is_the_url() -> None:
    assert remote.url_of(Path("s3://bucket/eyes/a.png")) == "s3://bucket/eyes/a.png"
    assert remote.url_of("memory://a") == "memory://a"
    assert remote.url_of(Path("file:///eyes/a.png")) == "file:///eyes/a.png"
    for path in ("a.png", "C:/eyes/a.png", "/eyes/s3:/a.png", Path("eyes")):
        assert remote.url_of(path) is None


def test_photographs_are_read_ahead_in_order_and_only_whole_files_at_urls(memory: str, tmp_path: Path) -> None:
    contents = fill(memory, tmp_path)
    here = PhotographSource.of(tmp_path / "eye00.png")
    sources = [here, *find_images([memory]), *[PhotographSource.of(f"{memory}/a.png")] * 50, here]
    ready = list(read_ahead(iter(sources)))
    assert [each.name for each in ready] == [each.name for each in sources]
    assert [isinstance(each, PhotographInMemory) for each in ready[:5]] == [False, True, True, True, False]
    assert isinstance(ready[1], PhotographInMemory) and ready[1].content == contents[0]
    assert isinstance(ready[3], PhotographInMemory) and "empty" in str(ready[3].problem)
    assert not isinstance(ready[-1], PhotographInMemory)


def test_what_is_read_ahead_is_bounded(memory: str, tmp_path: Path) -> None:
    fill(memory, tmp_path)
    taken = 0

    def endless() -> Iterator[PhotographSource]:
        nonlocal taken
        while True:
            taken += 1
            yield PhotographSource.of(f"{memory}/a.png")

    ahead = read_ahead(endless())
    for _ in range(3):
        next(ahead)
    ahead.close()  # type: ignore[attr-defined]
    assert 3 <= taken <= 40


def test_a_file_is_written_whole_and_without_leaving_another(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/new/rows.parquet"
    remote.write_file(url, b"first")
    remote.write_file(url, b"second")
    assert remote.read_file(url) == b"second"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["rows.parquet"]
    assert remote.list_names(f"file://{tmp_path}/new") == ["rows.parquet"]


def test_what_a_storage_lacks_is_said_with_a_remedy(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FundusgradeError, match=r"cannot list s3://nobody/eyes: it does not exist; check the bucket"):
        find_images(["s3://nobody/eyes"])
    with pytest.raises(FundusgradeError, match=r"cannot read s3://nobody/a\.jpg: it does not exist; check the bucket"):
        find_images(["s3://nobody/a.jpg"])
    with pytest.raises(FundusgradeError, match=r"cannot write s3://nobody/a\.csv"):
        remote.write_file("s3://nobody/a.csv", b"rows")
    with pytest.raises(FundusgradeError, match=r"nosuch:// is no kind of storage that is known here; use a path, or"):
        find_images(["nosuch://eyes"])
    assert find_images([f"s3://{BUCKET}/missing.jpg"])[0].url == f"s3://{BUCKET}/missing.jpg"


def test_a_missing_package_and_missing_credentials_are_said_in_words() -> None:
    class NoCredentialsError(Exception):
        """As botocore names it."""

    with (
        pytest.raises(FundusgradeError, match=r"pip install 'fundusgrade\[s3\]'"),
        remote.storage_errors("s3://a", "read"),
    ):
        raise ImportError("Install s3fs to access S3")
    with (
        pytest.raises(FundusgradeError, match="no credentials for s3://; set"),
        remote.storage_errors("s3://a", "read"),
    ):
        raise NoCredentialsError
    with pytest.raises(FundusgradeError, match="permission denied; check"), remote.storage_errors("gs://a", "list"):
        raise PermissionError
