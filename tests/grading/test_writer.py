"""Rows reach their file whole, in every format, and a resumed run ends with the same bytes."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fundusgrade.errors import StoreError
from fundusgrade.grades import Grade, Prediction, Ungraded
from fundusgrade.grading.reader import read_rows
from fundusgrade.grading.resume import ResumeRequest, RowProvenance
from fundusgrade.grading.rows import COLUMNS, RANGE_COLUMNS
from fundusgrade.grading.shards import Shard, merge_shards, parse_shard, shard_of_launcher
from fundusgrade.grading.writer import PredictionWriter

HEADER = (
    "image,grade,label,p0,p1,p2,p3,p4,expected_grade,referable_probability,gradable,quality_reasons,"
    "laterality,camera,model,error\n"
)
GRADED = Prediction(image="eyes/a.png", model="resnet50", probabilities=(0.05, 0.1, 0.6, 0.2, 0.05))
GRADED_LINE = "eyes/a.png,2,Moderate,0.0500,0.1000,0.6000,0.2000,0.0500,2.1000,0.8500,yes,,,,resnet50,\n"
UNGRADED = Ungraded(image="eyes/b.png", model="resnet50", reason="truncated PNG: the file ends at byte 7, in a chunk")
UNGRADED_LINE = 'eyes/b.png,,,,,,,,,,no,,,,resnet50,"truncated PNG: the file ends at byte 7, in a chunk"\n'


def written(tmp_path: Path, *results: Prediction | Ungraded) -> str:
    with PredictionWriter(tmp_path / "out.csv") as writer:
        for result in results:
            writer.write(result)
    return (tmp_path / "out.csv").read_bytes().decode()


def written_name(tmp_path: Path, name: str) -> str:
    """The image cell of a row as a CSV reader gives it back."""
    content = written(tmp_path, dataclasses.replace(UNGRADED, image=name))
    header, row = list(csv.reader(io.StringIO(content, newline="")))
    assert len(header) == len(row) == len(COLUMNS)
    return row[0]


def test_file_has_header_and_one_row_per_photograph(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "out.csv"
    with PredictionWriter(path) as writer:
        writer.write(GRADED)
        writer.write(UNGRADED)
        assert not path.exists()
    assert path.read_bytes().decode() == HEADER + GRADED_LINE + UNGRADED_LINE
    assert (writer.num_graded, writer.num_ungraded) == (1, 1)
    assert [file.name for file in path.parent.glob("[!.]*")] == ["out.csv"]


def test_without_photographs_there_is_only_the_header(tmp_path: Path) -> None:
    assert written(tmp_path) == HEADER
    assert tuple(HEADER.strip().split(",")) == COLUMNS


def test_ranges_are_two_more_cells_of_every_row(tmp_path: Path) -> None:
    with PredictionWriter(tmp_path / "out.csv", with_ranges=True) as writer:
        writer.write(dataclasses.replace(GRADED, grade_range=(Grade.MILD, Grade.SEVERE)))
        writer.write(UNGRADED)
    header, graded, ungraded = list(csv.reader(io.StringIO((tmp_path / "out.csv").read_text(), newline="")))
    assert tuple(header) == (*COLUMNS, *RANGE_COLUMNS)
    assert (graded[-2:], ungraded[-2:]) == (["1", "3"], ["", ""])


def test_without_path_rows_go_to_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with PredictionWriter(None) as writer:
        writer.write(GRADED)
        assert capfdbinary.readouterr().out.decode() == HEADER + GRADED_LINE
        writer.write(dataclasses.replace(UNGRADED, image="Auge_größe.png"))
    assert capfdbinary.readouterr().out == UNGRADED_LINE.replace("eyes/b.png", "Auge_größe.png").encode()
    assert (writer.num_graded, writer.num_ungraded) == (1, 1)


def test_standard_output_may_be_a_text_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.StringIO()
    monkeypatch.setattr(sys, "stdout", buffer)
    with PredictionWriter(None) as writer:
        writer.write(GRADED)
    assert buffer.getvalue() == HEADER + GRADED_LINE


@pytest.mark.parametrize(
    "name", ["=1+1", "+1", "-1.png", "@SUM(A1)", "\t=1", "\r=1", "\tx", " =1", "\x01\x0b=1", "\u00a0=1", "＝1", "\n=1"]
)
def test_no_cell_can_become_a_formula(tmp_path: Path, name: str) -> None:
    cell = written_name(tmp_path, name)
    assert cell.startswith("'")
    assert cell.replace("'", "") == name


def test_model_and_reason_cannot_become_formulas_either(tmp_path: Path) -> None:
    content = written(tmp_path, Ungraded(image="a.png", model="=m", reason="@r", camera="=c"))
    assert content == HEADER + "a.png,,,,,,,,,,no,,,'=c,'=m,'@r\n"


def test_eye_and_camera_stand_before_the_model(tmp_path: Path) -> None:
    known = {"laterality": "L", "camera": '=Eye, "II"'}
    lines = written(tmp_path, dataclasses.replace(GRADED, **known), dataclasses.replace(UNGRADED, **known))
    for row in csv.DictReader(io.StringIO(lines)):
        assert (row["laterality"], row["camera"], row["model"]) == ("L", '\'=Eye, "II"', "resnet50")


def test_a_name_that_a_spreadsheet_would_split_is_quoted_and_guarded(tmp_path: Path) -> None:
    content = written(tmp_path, dataclasses.replace(GRADED, image="a;=1+1.png"))
    assert content.startswith(HEADER + '"a;\'=1+1.png",2,')


@pytest.mark.parametrize(
    "name", ["a,b.png", 'a"b.png', "a\nb.png", "a\rb.png", "a\r\nb.png", "a;b.png", "=a"[1:], "x=1"]
)
def test_other_names_come_back_unchanged(tmp_path: Path, name: str) -> None:
    assert written_name(tmp_path, name) == name


def test_undecodable_names_are_written_as_escapes(tmp_path: Path) -> None:
    assert written_name(tmp_path, os.fsdecode(b"eye\xff.png")) == "eye\\udcff.png"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("boom")])
def test_interrupted_rows_stay_in_the_partial_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "out.csv"
    path.write_text("former results")
    with pytest.raises(type(error)) as raised, PredictionWriter(path) as writer:
        writer.write(GRADED)
        raise error
    assert path.read_text() == "former results"
    assert (tmp_path / "out.csv.partial").read_text() == HEADER + GRADED_LINE
    assert raised.value.__notes__ == [f"The rows written so far (1) are in {path}.partial."]


def test_each_row_is_on_disk_at_once(tmp_path: Path) -> None:
    with PredictionWriter(tmp_path / "out.csv") as writer:
        writer.write(GRADED)
        assert (tmp_path / "out.csv.partial").read_text() == HEADER + GRADED_LINE


def test_a_path_that_cannot_be_written_is_refused_before_the_first_row(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a directory"), PredictionWriter(tmp_path):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot write"), PredictionWriter(tmp_path / "file" / "out.csv"):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_reported_and_a_device_not_replaced() -> None:
    with pytest.raises(StoreError, match="no space left"), PredictionWriter(Path("/dev/full")):
        pass
    assert Path("/dev/full").is_char_device()


# --- other formats ----------------------------------------------------------------------------------------------------

ODD_NAMES = [
    "a.png",
    "a,b.png",
    'a"b.png',
    "a\nb.png",
    "=cmd|' /C calc'!A0",
    os.fsdecode(b"eye\xff.png"),
    "ä\u202e.png",
]


def result_of(name: str, number: int = 0) -> Prediction | Ungraded:
    """A result that follows from the name and its number alone; every fifth is not graded."""
    if number % 5 == 4:
        return Ungraded(image=name, model="m", reason="truncated JPEG")
    p = np.random.default_rng(number).dirichlet(np.ones(5))
    return Prediction(
        image=name, model="m", probabilities=tuple(map(float, p)), quality_reasons=("dark",) * (number % 2)
    )


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
        for column in ("p0", "p4", "expected_grade", "referable_probability"):
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
    assert [str(table.schema.field(name).type) for name in ("grade", "p0", "gradable", "grade_low")] == [
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


# --- resuming ---------------------------------------------------------------------------------------------------------

NAMES = [f"eye{number:02d}.png" for number in range(20)] + ODD_NAMES


PROVENANCE = RowProvenance(
    fundusgrade="1.2.3",
    model="m",
    description="0" * 64,
    device="cpu",
    precision="float32",
    batch_size=4,
    require_gradable=False,
    tta=False,
    score_limit=None,
)


def request(
    names: Sequence[str] = NAMES, *, resume: bool = False, overwrite: bool = False, precision: str = "float32"
) -> ResumeRequest:
    provenance = dataclasses.replace(PROVENANCE, precision=precision)
    return ResumeRequest(names=names, provenance=provenance, resume=resume, overwrite=overwrite)


def write_all(path: Path, wanted: ResumeRequest, *, stop_after: int | None = None) -> PredictionWriter:
    """Write the rows that are missing; a stop leaves the files as a kill would."""
    with PredictionWriter(path, request=wanted) as writer:
        for number in range(writer.num_kept, len(wanted.names)):
            if number == stop_after:
                raise InterruptedError
            writer.write(result_of(wanted.names[number], number))
    return writer


def stopped(path: Path, after: int, cut: int = 0) -> Path:
    """A run that was stopped, whose last bytes a kill took; returns its partial file."""
    with pytest.raises(InterruptedError):
        write_all(path, request(), stop_after=after)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("r+b") as file:
        file.truncate(partial.stat().st_size - cut)
    return partial


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(("after", "cut"), [(0, 0), (3, 0), (9, 0), (9, 1), (9, 40), (24, 5), (26, 0)])
def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path: Path, suffix: str, after: int, cut: int) -> None:
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"out.{suffix}"
    uninterrupted = write_all(whole, request())
    stopped(path, after, cut)
    assert not path.exists()
    writer = write_all(path, request(resume=True))
    assert path.read_bytes() == whole.read_bytes()
    assert writer.num_kept % 4 == 0
    assert after - 4 - bool(cut) < writer.num_kept <= after
    counts = [(each.num_graded, each.num_ungraded, each.num_doubtful) for each in (writer, uninterrupted)]
    assert counts[0] == counts[1]
    names = [path.name, f"{path.name}.json", whole.name, f"{whole.name}.json"]
    assert sorted(each.name for each in tmp_path.glob("[!.]*")) == sorted(names)


def test_rows_of_a_stopped_run_are_not_lost_by_accident(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    partial = stopped(path, 6)
    before = partial.read_bytes()
    with pytest.raises(StoreError, match="resume it with --resume, or discard it with --overwrite"):
        write_all(path, request())
    assert partial.read_bytes() == before
    assert write_all(path, request(overwrite=True)).num_kept == 0
    assert len(list(read_rows(path))) == len(NAMES)


def test_rows_made_otherwise_are_not_added_to(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    stopped(path, 6)
    with pytest.raises(StoreError, match="written with precision float32; this run has precision bfloat16"):
        write_all(path, request(resume=True, precision="bfloat16"))
    (tmp_path / "out.csv.partial.json").unlink()
    with pytest.raises(StoreError, match="not known what wrote its rows"):
        write_all(path, request(resume=True))


@pytest.mark.parametrize("names", [["other.png", *NAMES], NAMES[:3]])
def test_rows_of_other_photographs_are_not_added_to(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "out.csv"
    stopped(path, 6)
    with pytest.raises(StoreError, match="was written for other photographs"):
        write_all(path, request(names, resume=True))


def test_what_is_finished_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    write_all(path, request(resume=True))
    before = path.stat()
    writer = write_all(path, request(resume=True))
    assert (writer.was_finished, writer.num_kept, path.stat().st_mtime_ns) == (True, len(NAMES), before.st_mtime_ns)
    assert writer.num_graded + writer.num_ungraded == len(NAMES)
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


def test_a_damaged_parquet_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    write_all(path, request())
    path.write_bytes(path.read_bytes()[:-20] + bytes(20))
    with pytest.raises(StoreError, match="is damaged or not a file of predictions"):
        list(read_rows(path))


# --- shards ----------------------------------------------------------------------------------------------------------


def test_parts_hold_every_entry_once() -> None:
    for count in (1, 2, 3, 30):
        parts = [Shard(number=number, count=count).of(NAMES) for number in range(1, count + 1)]
        assert sorted(name for part in parts for name in part) == sorted(NAMES)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_part_is_read_from_words_and_from_torchrun() -> None:
    assert parse_shard("2/4") == Shard(number=2, count=4)
    for text in ("0/4", "5/4", "2", "a/b", "-1/2", "1/0"):
        with pytest.raises(StoreError, match="expected i/n"):
            parse_shard(text)
    launched = {"RANK": "2", "WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "x"}
    assert shard_of_launcher(launched) == Shard(number=3, count=4)
    assert shard_of_launcher({**launched, "RANK": "0", "WORLD_SIZE": "1"}) is None
    assert shard_of_launcher({"RANK": "2", "WORLD_SIZE": "4"}) is None


def write_part(path: Path, number: int, count: int = 3, model: str = "m", *, with_ranges: bool = False) -> Path:
    shard = Shard(number=number, count=count)
    with PredictionWriter(shard.file(path), with_ranges=with_ranges) as writer:
        for place in range(len(NAMES))[number - 1 :: count]:
            writer.write(dataclasses.replace(result_of(NAMES[place], place), model=model))
    return shard.file(path)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_merged_parts_are_the_file_of_one_process(tmp_path: Path, suffix: str) -> None:
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"out.{suffix}"
    write_all(whole, request())
    parts = [write_part(path, number) for number in (1, 2, 3)]
    assert parts[1].name == f"out.2-of-3.{suffix}"
    assert merge_shards(path, NAMES) == len(NAMES) // 5
    assert path.read_bytes() == whole.read_bytes()


def test_a_merge_finds_what_is_missing_twice_or_foreign(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with pytest.raises(StoreError, match=r"the shards of .* are none"):
        merge_shards(path, NAMES)
    parts = {number: write_part(path, number) for number in (1, 3)}
    with pytest.raises(StoreError, match=r"shards are missing: .*out\.2-of-3\.csv"):
        merge_shards(path, NAMES)
    parts[2] = write_part(path, 2)
    content = parts[2].read_text()
    lines = content.splitlines(keepends=True)
    for damaged, expected in {
        "".join(lines[:-1]): "ends after 8 of 9 rows",
        content[:-3]: "ends after 8 of 9 rows",
        "".join([*lines[:3], lines[2], *lines[3:]]): "row 3 is about 'eye04.png', expected 'eye07.png'",
        content + lines[-1]: "expected 'no more rows'",
        content.replace(",m,", ",other,"): "graded by m and by other",
        "x" + content: "does not begin with the header",
    }.items():
        parts[2].write_text(damaged)
        with pytest.raises(StoreError, match=expected):
            merge_shards(path, NAMES)
        assert not path.exists()
    parts[2].write_text(content)
    with pytest.raises(StoreError, match="expected 'eye"):
        merge_shards(path, NAMES[1:])
    write_part(path, 1, count=2)
    with pytest.raises(StoreError, match="for a single N"):
        merge_shards(path, NAMES)
    assert not path.exists()


def test_parts_that_were_made_otherwise_are_not_merged(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    for number, precision in ((1, "float32"), (2, "bfloat16")):
        shard = Shard(number=number, count=2)
        write_all(shard.file(path), request(shard.of(NAMES), precision=precision))
    with pytest.raises(StoreError, match="different models or with different options"):
        merge_shards(path, NAMES)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_more_parts_than_photographs_are_merged(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    for number in range(1, 41):
        write_part(path, number, count=40, with_ranges=True)
    merge_shards(path, NAMES)
    assert [row.is_graded for row in read_rows(path)] == [number % 5 != 4 for number in range(len(NAMES))]
