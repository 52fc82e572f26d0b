"""Cells of reviewed.csv: no spreadsheet evaluates them, and every text is read back as it was."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

import pytest

from fundusgrade.data.labels import find_samples
from fundusgrade.data.reviewed import REVIEW_COLUMNS, read_cell, review_cell
from fundusgrade.grades import Grade
from fundusgrade.reports.listings import labels_summary
from tests.models_for_tests import save_photographs

LETTERS = "'=+-@;\t\r\n ab\",＝\u200b\x07"
SIGNS = "=+-@＝＋－＠"


def cell_of(text: str) -> str:
    """A cell as a reader of CSV sees it."""
    [[cell]] = csv.reader(io.StringIO(review_cell(text) + "\n", newline=""))
    return cell


def test_every_text_is_read_back_as_it_was_and_none_begins_a_formula() -> None:
    rng = random.Random(0)
    for _ in range(20_000):
        text = "".join(rng.choice(LETTERS) for _ in range(rng.randint(1, 7)))
        cell = cell_of(text)
        assert read_cell(cell) == text
        for part in cell.replace("\t", ";").replace("\r", ";").replace("\n", ";").split(";"):
            assert part.lstrip(" \u200b\x07")[:1] not in tuple(SIGNS), (text, cell)


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("'=1+1", "''=1+1"),
        ("a;=1", "a;'=1"),
        ("plain 'name'.png", "plain 'name'.png"),
        ("-", "'-"),
        ("", ""),
    ],
)
def test_an_apostrophe_is_added_only_where_a_formula_would_begin(text: str, cell: str) -> None:
    assert cell_of(text) == cell


def save_reviewed(path: Path, *rows: str) -> None:
    path.write_text("\n".join([",".join(REVIEW_COLUMNS), *rows]) + "\n", encoding="utf-8")


def test_what_a_reader_graded_and_could_not_grade_is_read_and_counted(tmp_path: Path) -> None:
    save_photographs(tmp_path / "images", range(4))
    save_reviewed(
        tmp_path / "reviewed.csv",
        'in/eye00.png,"\'=7",right,2,yes,A,2026-01-01T00:00:00Z,m,h,0,0.1,no,yes,no',
        "in/eye01.png,8,left,,ungradable,A,2026-01-01T00:00:00Z,m,h,0,0.1,no,yes,no",
        "in/eye02.png,9,,,yes,A,2026-01-01T00:00:00Z,m,h,0,0.1,no,yes,no",
    )
    read = find_samples([tmp_path / "images"], labels=tmp_path / "reviewed.csv")
    assert [(each.source, each.grade, each.patient, each.eye, each.without_grade) for each in read.samples] == [
        ("eye00.png", Grade.MODERATE, "=7", "right", None),
        ("eye01.png", None, "8", "left", "ungradable"),
        ("eye02.png", None, "9", None, "to be referred without a grade"),
    ]
    summary = labels_summary(read)
    assert "photographs without a grade: 3" in summary, "two by the reader, and the one that was not reviewed"
    assert "by the reader: 1 to be referred without a grade, 1 ungradable" in summary
