"""A resumed run ends with the bytes of an uninterrupted one, and adds to no rows but its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fundusgrade.errors import StoreError
from fundusgrade.grading.reader import read_rows
from fundusgrade.grading.rows import NEEDED_COLUMNS
from fundusgrade.grading.writer import PredictionWriter
from tests.grading.runs import NAMES, of_an_earlier_version, request, result_of, write_all


def interrupted(path: Path, after: int, cut: int = 0) -> Path:
    """An interrupted run whose partial file lacks the last `cut` bytes; returns that file."""
    with pytest.raises(InterruptedError):
        write_all(path, request(), stop_after=after)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("r+b") as file:
        file.truncate(partial.stat().st_size - cut)
    return partial


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(("after", "cut"), [(0, 0), (3, 0), (9, 0), (9, 1), (9, 40), (24, 5), (26, 0)])
def test_a_resumed_run_ends_with_the_same_bytes(tmp_path: Path, suffix: str, after: int, cut: int) -> None:
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"out.{suffix}"
    uninterrupted = write_all(whole, request())
    interrupted(path, after, cut)
    assert not path.exists()
    writer = write_all(path, request(resume=True))
    assert path.read_bytes() == whole.read_bytes()
    assert writer.num_kept % 4 == 0
    assert after - 4 - bool(cut) < writer.num_kept <= after
    counts = [vars(each.counts) for each in (writer, uninterrupted)]
    assert counts[0] == counts[1]
    names = [path.name, f"{path.name}.json", whole.name, f"{whole.name}.json"]
    assert sorted(each.name for each in tmp_path.glob("[!.]*")) == sorted(names)


def test_rows_of_an_interrupted_run_are_not_lost_by_accident(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    partial = interrupted(path, 6)
    before = partial.read_bytes()
    with pytest.raises(StoreError, match="resume it with --resume, or discard it with --overwrite"):
        write_all(path, request())
    assert partial.read_bytes() == before
    assert write_all(path, request(overwrite=True)).num_kept == 0
    assert len(list(read_rows(path))) == len(NAMES)


def test_rows_of_other_options_are_not_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    interrupted(path, 6)
    with pytest.raises(StoreError, match="written with precision float32; this run has precision bfloat16"):
        write_all(path, request(resume=True, precision="bfloat16"))
    (tmp_path / "out.csv.partial.json").unlink()
    with pytest.raises(StoreError, match="provenance of its rows is unknown"):
        write_all(path, request(resume=True))


@pytest.mark.parametrize("names", [["other.png", *NAMES], NAMES[:3]])
def test_rows_of_other_photographs_are_not_appended_to(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "out.csv"
    interrupted(path, 6)
    with pytest.raises(StoreError, match="was written for other photographs"):
        write_all(path, request(names, resume=True))


def test_a_finished_file_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    write_all(path, request(resume=True))
    before = path.stat()
    writer = write_all(path, request(resume=True))
    assert (writer.was_finished, writer.num_kept, path.stat().st_mtime_ns) == (True, len(NAMES), before.st_mtime_ns)
    assert writer.counts.num_rows == len(NAMES)
    with pytest.raises(StoreError, match="was written for other photographs"):
        write_all(path, request(NAMES[:-1], resume=True))
    with pytest.raises(StoreError, match="written with precision float32; this run has precision bfloat16"):
        write_all(path, request(resume=True, precision="bfloat16"))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert not write_all(path, request(NAMES[:-1])).was_finished


def test_a_partial_file_with_other_columns_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with pytest.raises(InterruptedError), PredictionWriter(path, with_ranges=True, request=request()) as writer:
        for name in NAMES[:6]:
            writer.write(result_of(name))
        raise InterruptedError
    with pytest.raises(StoreError, match="resume it with --resume, or discard it with --overwrite"):
        write_all(path, request())


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_rows_of_an_earlier_version_are_read_but_not_mixed_with_those_of_this_one(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    partial = interrupted(path, 6)
    of_an_earlier_version(partial)
    before = partial.read_bytes()
    with pytest.raises(
        StoreError, match=r"rows lack most_probable, referable, .*model_hash; finish it with that version, or start"
    ):
        write_all(path, request(resume=True))
    assert partial.read_bytes() == before
    write_all(path, request(overwrite=True))
    of_an_earlier_version(path)
    with pytest.raises(StoreError, match="rows lack most_probable, referable, "):
        write_all(path, request(resume=True))
    rows = list(read_rows(path))
    assert [row.is_graded for row in rows] == [number % 5 != 4 for number in range(len(NAMES))]
    assert {row.columns for row in rows} == {NEEDED_COLUMNS}


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    with PredictionWriter(tmp_path / "out.csv", request=request()) as writer:
        writer.write(result_of(NAMES[0]))
        with (
            pytest.raises(StoreError, match="another process"),
            PredictionWriter(tmp_path / "out.csv", request=request(resume=True)),
        ):
            pass
        for number, name in enumerate(NAMES[1:], start=1):
            writer.write(result_of(name, number))
    assert len(list(read_rows(tmp_path / "out.csv"))) == len(NAMES)
    assert json.loads((tmp_path / "out.csv.json").read_text())["model"] == "m"


@pytest.mark.parametrize("name", ["x" * 300 + ".csv", "file/out.csv"])
def test_a_name_that_no_file_can_have_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot write"), PredictionWriter(tmp_path / name):
        pass
