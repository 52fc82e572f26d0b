"""CSV, JSON lines and Parquet hold the same rows."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest

from fundusgrade.errors import StoreError
from fundusgrade.grades import COLUMNS
from fundusgrade.grading.reader import read_rows
from fundusgrade.grading.writer import PredictionWriter
from tests.grading.runs import ODD_NAMES, request, result_of, write_all


def test_json_lines_say_the_same_as_csv(tmp_path: Path) -> None:
    results = [result_of(name, number) for number, name in enumerate(ODD_NAMES)]
    for suffix in ("csv", "jsonl"):
        with PredictionWriter(tmp_path / f"out.{suffix}") as writer:
            for result in results:
                writer.write(result)
    as_csv = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text(), newline="")))
    as_json = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [list(row) for row in as_json] == [list(COLUMNS)] * len(results)
    assert [row["image"] for row in as_json] == [
        name.encode("utf-8", "backslashreplace").decode() for name in ODD_NAMES
    ]
    for text, row in zip(as_csv, as_json, strict=True):
        assert row["grade"] == (int(text["grade"]) if text["grade"] else None)
        assert row["gradable"] == (text["gradable"] == "yes")
        assert row["quality_reasons"] == ([text["quality_reasons"]] if text["quality_reasons"] else [])
        for column in ("p0", "p4", "expected_grade", "referable_probability", "referable_threshold"):
            assert row[column] == (float(text[column]) if text[column] else None)


def test_parquet_says_the_same_as_json_lines(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for suffix in ("jsonl", "parquet"):
        with PredictionWriter(tmp_path / f"out.{suffix}", with_ranges=True) as writer:
            for number, name in enumerate(ODD_NAMES):
                writer.write(result_of(name, number))
    expected = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.to_pylist() == expected
    assert [str(table.schema.field(name).type) for name in ("grade", "p0", "gradable", "could_be_as_bad_as")] == [
        *("int8", "double", "bool", "int8")
    ]
    assert [row.line for row in read_rows(tmp_path / "out.parquet")] == [
        row.line for row in read_rows(tmp_path / "out.jsonl")
    ]
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["out.jsonl", "out.parquet"]


def test_parquet_without_its_library_is_refused_before_work_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with (
        pytest.raises(StoreError, match=r"pip install 'fundusgrade\[parquet\]'"),
        PredictionWriter(tmp_path / "o.parquet"),
    ):
        pass


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"use \.csv, \.jsonl, \.parquet"):
        PredictionWriter(tmp_path / "out.xlsx")


def test_a_damaged_parquet_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    write_all(path, request())
    path.write_bytes(path.read_bytes()[:-20] + bytes(20))
    with pytest.raises(StoreError, match="is damaged or not a file of predictions"):
        list(read_rows(path))
