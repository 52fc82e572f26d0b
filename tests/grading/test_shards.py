"""Shards hold every photograph once, and are merged only where they are complete."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from fundusgrade.errors import StoreError
from fundusgrade.grading.reader import read_rows
from fundusgrade.grading.shards import Shard, is_launched, merge_shards, parse_shard
from fundusgrade.grading.writer import PredictionWriter
from tests.grading.runs import NAMES, of_an_earlier_version, request, result_of, write_all


def test_shards_hold_every_entry_once() -> None:
    for count in (1, 2, 3, 30):
        files = [Shard(number=number, count=count).select(NAMES) for number in range(1, count + 1)]
        assert sorted(name for part in files for name in part) == sorted(NAMES)
        assert max(map(len, files)) - min(map(len, files)) <= 1


def test_a_shard_is_read_from_text_and_several_processes_of_torchrun_are_noticed() -> None:
    assert parse_shard("2/4") == Shard(number=2, count=4)
    for text in ("0/4", "5/4", "2", "a/b", "-1/2", "1/0"):
        with pytest.raises(StoreError, match="expected i/n"):
            parse_shard(text)
    launched = {"RANK": "2", "WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "x"}
    assert is_launched(launched)
    assert not is_launched({**launched, "RANK": "0", "WORLD_SIZE": "1"})
    assert not is_launched({"RANK": "2", "WORLD_SIZE": "4"})


def write_shard(path: Path, number: int, count: int = 3, model: str = "m", *, with_ranges: bool = False) -> Path:
    shard = Shard(number=number, count=count)
    with PredictionWriter(shard.file(path), with_ranges=with_ranges) as writer:
        for place in range(len(NAMES))[number - 1 :: count]:
            writer.write(dataclasses.replace(result_of(NAMES[place], place), model=model))
    return shard.file(path)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_merged_shards_are_the_file_of_one_process(tmp_path: Path, suffix: str) -> None:
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"out.{suffix}"
    write_all(whole, request())
    files = [write_shard(path, number) for number in (1, 2, 3)]
    assert files[1].name == f"out.2-of-3.{suffix}"
    assert merge_shards(path, NAMES) == len(NAMES) // 5
    assert path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_shards_with_different_columns_are_not_merged(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    for number in (1, 2, 3):
        write_shard(path, number, with_ranges=number == 2)
    with pytest.raises(StoreError, match="have different columns"):
        merge_shards(path, NAMES)
    assert not path.exists()


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_shards_of_an_earlier_version_are_merged_with_the_columns_that_they_have(tmp_path: Path, suffix: str) -> None:
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"out.{suffix}"
    write_all(whole, request())
    of_an_earlier_version(whole)
    for number in (1, 2, 3):
        of_an_earlier_version(write_shard(path, number))
    merge_shards(path, NAMES)
    assert path.read_bytes() == whole.read_bytes()


def test_a_merge_finds_missing_duplicate_and_foreign_rows(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with pytest.raises(StoreError, match=r"the shards of .* are none"):
        merge_shards(path, NAMES)
    files = {number: write_shard(path, number) for number in (1, 3)}
    with pytest.raises(StoreError, match=r"shards are missing: .*out\.2-of-3\.csv"):
        merge_shards(path, NAMES)
    files[2] = write_shard(path, 2)
    content = files[2].read_text()
    lines = content.splitlines(keepends=True)
    for damaged, expected in {
        "".join(lines[:-1]): "ends after 8 of 9 rows",
        content[:-3]: "ends after 8 of 9 rows",
        "".join([*lines[:3], lines[2], *lines[3:]]): "row 3 is about 'eye04.png', expected 'eye07.png'",
        content + lines[-1]: "expected 'no more rows'",
        content.replace(",m,", ",other,"): "graded by m and by other",
        "x" + content: "does not begin with the header",
    }.items():
        files[2].write_text(damaged)
        with pytest.raises(StoreError, match=expected):
            merge_shards(path, NAMES)
        assert not path.exists()
    files[2].write_text(content)
    with pytest.raises(StoreError, match="expected 'eye"):
        merge_shards(path, NAMES[1:])
    write_shard(path, 1, count=2)
    with pytest.raises(StoreError, match="for a single N"):
        merge_shards(path, NAMES)
    assert not path.exists()


def test_shards_of_different_options_are_not_merged(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    for number, precision in ((1, "float32"), (2, "bfloat16")):
        shard = Shard(number=number, count=2)
        write_all(shard.file(path), request(shard.select(NAMES), precision=precision))
    with pytest.raises(StoreError, match="different models or with different options"):
        merge_shards(path, NAMES)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_more_shards_than_photographs_are_merged(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    for number in range(1, 41):
        write_shard(path, number, count=40, with_ranges=True)
    merge_shards(path, NAMES)
    assert [row.is_graded for row in read_rows(path)] == [number % 5 != 4 for number in range(len(NAMES))]
