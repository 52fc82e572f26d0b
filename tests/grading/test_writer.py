"""Rows reach their file whole and at once, and no cell can become a formula."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import sys
from pathlib import Path

import pytest

from fundusgrade.errors import StoreError
from fundusgrade.grades import COLUMNS, RANGE_COLUMNS, Grade, GradeRange, Prediction, Ungraded
from fundusgrade.grading.writer import PredictionWriter

HEADER = (
    "image,grade,label,most_probable,p0,p1,p2,p3,p4,expected_grade,referable_probability,referable,"
    "referable_threshold,decided_by,gradable,gradability,quality_reasons,reject_probability,training_distance,"
    "warnings,laterality,camera,model,model_hash,error\n"
)


GRADED = Prediction(
    image="eyes/a.png",
    model="resnet50",
    probabilities=(0.05, 0.1, 0.6, 0.2, 0.05),
    referable_threshold=0.2317,
    model_hash="0123456789abcdef" * 4,
)


GRADED_LINE = (
    "eyes/a.png,2,Moderate,2,0.0500,0.1000,0.6000,0.2000,0.0500,2.1000,0.8500,yes,0.2317,"
    '"most probable, p = 0.60",yes,gradable,,,,,,,resnet50,0123456789ab,\n'
)


UNGRADED = Ungraded(image="eyes/b.png", model="resnet50", reason="truncated PNG: the file ends at byte 7, in a chunk")


UNGRADED_LINE = (
    "eyes/b.png,,,,,,,,,,,ungradable,0.5000,,no,not gradable,,,,,,,resnet50,,"
    '"truncated PNG: the file ends at byte 7, in a chunk"\n'
)


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
    assert (writer.counts.num_graded, writer.counts.num_ungraded) == (1, 1)
    assert [file.name for file in path.parent.glob("[!.]*")] == ["out.csv"]


def test_without_photographs_there_is_only_the_header(tmp_path: Path) -> None:
    assert written(tmp_path) == HEADER
    assert tuple(HEADER.strip().split(",")) == COLUMNS


def test_ranges_are_three_more_cells_of_every_row(tmp_path: Path) -> None:
    found = GradeRange(low=Grade.MILD, high=Grade.SEVERE, upper_bound=Grade.PROLIFERATIVE, coverage=0.9)
    with PredictionWriter(tmp_path / "out.csv", with_ranges=True) as writer:
        writer.write(dataclasses.replace(GRADED, grade_range=found))
        writer.write(UNGRADED)
    header, graded, ungraded = list(csv.reader(io.StringIO((tmp_path / "out.csv").read_text(), newline="")))
    assert tuple(header) == (*COLUMNS, *RANGE_COLUMNS)
    assert (graded[-3:], ungraded[-3:]) == (["1", "3", "4"], ["", "", ""])


def test_without_path_rows_go_to_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with PredictionWriter(None) as writer:
        writer.write(GRADED)
        assert capfdbinary.readouterr().out.decode() == HEADER + GRADED_LINE
        writer.write(dataclasses.replace(UNGRADED, image="Auge_größe.png"))
    assert capfdbinary.readouterr().out == UNGRADED_LINE.replace("eyes/b.png", "Auge_größe.png").encode()
    assert (writer.counts.num_graded, writer.counts.num_ungraded) == (1, 1)


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
    assert content == HEADER + "a.png,,,,,,,,,,,ungradable,0.5000,,no,not gradable,,,,,,'=c,'=m,,'@r\n"


def test_doubts_stand_in_the_row_in_words_and_numbers(tmp_path: Path) -> None:
    doubted = dataclasses.replace(
        GRADED,
        probabilities=(0.97, 0.01, 0.01, 0.01, 0.0),
        is_borderline=True,
        reject_probability=0.31,
        training_distance=1.2,
        warnings=("unlike the training photographs", "near the operating point"),
    )
    refused = dataclasses.replace(UNGRADED, warnings=("not recognized as a fundus photograph",))
    [row, other] = csv.DictReader(io.StringIO(written(tmp_path, doubted, refused)))
    assert (row["gradable"], row["gradability"], row["p0"]) == ("yes", "borderline", "0.9700")
    assert (row["reject_probability"], row["training_distance"]) == ("0.3100", "1.2000")
    assert row["warnings"] == "unlike the training photographs; near the operating point"
    assert row["decided_by"] == "most probable, p > 0.95"
    assert (other["gradability"], other["reject_probability"]) == ("not gradable", "")
    assert other["warnings"] == "not recognized as a fundus photograph"


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
