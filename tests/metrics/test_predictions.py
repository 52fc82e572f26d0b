"""Predictions come back from disk as they were, and a file that is damaged is refused with what to do."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fundusgrade import store
from fundusgrade.errors import DatasetError, StoreError
from fundusgrade.metrics.classification import evaluate_predictions
from fundusgrade.metrics.predictions import (
    ACQUISITION_COLUMN,
    COLUMNS,
    HEADER,
    LEAKAGE_COLUMN,
    MOST_PROBABLE_COLUMN,
    PredictionSet,
    ScoredPhotographs,
    concatenate,
    read_predictions,
    write_predictions,
)
from tests.scored import draw_photographs, prediction_set, scored

# Six digits are written and brought to a sum of 1 again: what rounding can do to five probabilities at the most.
ROUNDING = 2e-6


def in_folds(photographs: ScoredPhotographs, num_folds: int = 3) -> ScoredPhotographs:
    count = len(photographs)
    return replace(photographs, folds=np.arange(count) % num_folds + 1, groups=np.arange(count) // 2 + 100)


def same(first: ScoredPhotographs, second: ScoredPhotographs) -> None:
    assert first.sources == second.sources
    for column in ("grades", "predicted", "groups", "folds"):
        before, after = getattr(first, column), getattr(second, column)
        assert after.dtype == np.int64 and np.array_equal(before, after), column
    assert second.probabilities.shape == first.probabilities.shape
    assert np.abs(second.probabilities - first.probabilities).max(initial=0) <= ROUNDING


@pytest.fixture
def simulated() -> PredictionSet:
    return PredictionSet(
        model="tiny", data="eyes", test=in_folds(draw_photographs(200, 1)), validation=draw_photographs(30, 2)
    )


@pytest.fixture
def written(simulated: PredictionSet, tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "tiny.csv"
    write_predictions(simulated, path)
    return path


def rewrite(path: Path, change: Callable[[list[dict[str, str]]], list[dict[str, str]]]) -> None:
    with path.open(newline="", encoding="utf-8") as file:
        rows = change(list(csv.DictReader(file)))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


# There and back


def test_predictions_are_read_back_to_six_digits(simulated: PredictionSet, written: Path) -> None:
    read = read_predictions(written)
    assert (read.model, read.data) == ("tiny", "eyes")
    same(simulated.test, read.test)
    same(simulated.validation, read.validation)
    assert read.test.probabilities.sum(axis=1) == pytest.approx(1.0, abs=1e-12)
    difference = np.abs(read.test.probabilities - simulated.test.probabilities)
    assert difference.mean() < 0.5e-6 and np.quantile(difference, 0.99) < 1e-6


def test_scores_of_a_file_are_those_of_the_model(simulated: PredictionSet, written: Path) -> None:
    before, after = (
        evaluate_predictions(each.grades, each.probabilities, predicted=each.predicted)
        for each in (simulated.test, read_predictions(written).test)
    )
    assert (before.kappa, before.accuracy) == (after.kappa, after.accuracy)
    assert before.confusion_matrix == after.confusion_matrix


def test_the_predicted_grade_is_that_of_the_file_not_the_most_probable_one(tmp_path: Path) -> None:
    photographs = scored([0, 4], [[0.9, 0.1, 0, 0, 0], [0, 0, 0, 0, 1.0]], predicted=[1, 3])
    write_predictions(prediction_set(photographs), tmp_path / "own.csv")
    assert read_predictions(tmp_path / "own.csv").test.predicted.tolist() == [1, 3]


def test_the_most_probable_grade_stands_beside_the_predicted_one_and_may_be_missing(tmp_path: Path) -> None:
    probabilities = [[0.1, 0.2, 0.3, 0.25, 0.15], [0.5, 0.5, 0, 0, 0], [0, 0, 0, 0.4, 0.6]]
    photographs = scored([2, 0, 4], probabilities, predicted=[3, 0, 3])
    path = tmp_path / "own.csv"
    write_predictions(prediction_set(photographs), path)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["predicted"], row["most_probable"]) for row in rows] == [("3", "2"), ("0", "0"), ("3", "4")]
    assert read_predictions(path).test.most_probable.tolist() == [2, 0, 4]
    for earlier in (
        [{name: row[name] for name in row if name != MOST_PROBABLE_COLUMN} for row in rows],
        [row | {MOST_PROBABLE_COLUMN: ""} for row in rows],
    ):
        rewrite(path, lambda _, earlier=earlier: earlier)
        same(photographs, read_predictions(path).test)
        assert read_predictions(path).test.most_probable.tolist() == [2, 0, 4]


def test_of_equal_probabilities_after_rounding_either_grade_may_be_stated(written: Path) -> None:
    tied = {"p0": "0.250", "p1": "0.374", "p2": "0.375", "p3": "0.001", "p4": "0", "most_probable": "1"}
    rewrite(written, lambda rows: [rows[0] | tied, *rows[1:]])
    assert read_predictions(written).test.most_probable[0] == 2


def test_a_file_without_validation_photographs_is_complete(tmp_path: Path) -> None:
    write_predictions(prediction_set(draw_photographs(5, 0)), tmp_path / "test-only.csv")
    read = read_predictions(tmp_path / "test-only.csv")
    assert (len(read.test), len(read.validation)) == (5, 0)
    assert read.validation.probabilities.shape == (0, 5)


def test_unusual_names_are_read_back(tmp_path: Path) -> None:
    names = ("a,b.png", 'say "eye".png', "größe.png", "line\nbreak.png", " blank .png")
    photographs = replace(draw_photographs(5, 0), sources=names)
    write_predictions(prediction_set(photographs, model="m,1"), tmp_path / "odd.csv")
    read = read_predictions(tmp_path / "odd.csv")
    assert (read.test.sources, read.model) == (names, "m,1")


def test_the_columns_are_those_that_people_are_told(written: Path) -> None:
    lines = written.read_text(encoding="utf-8").splitlines()
    columns = "source,part,fold,group,grade,predicted,most_probable,p0,p1,p2,p3,p4,model,data,acquisition,seen"
    assert lines[0] == columns == ",".join(HEADER)
    assert set(HEADER) - set(COLUMNS) == {MOST_PROBABLE_COLUMN, ACQUISITION_COLUMN, LEAKAGE_COLUMN}, "may be missing"
    assert len(lines) == 1 + 200 + 30
    assert re.fullmatch(r"0\.png,test,1,100,[0-4],[0-4],[0-4](,[01]\.\d{6}){5},tiny,eyes,,", lines[1])


def test_leakage_is_read_back_and_may_be_missing_in_files_of_others(simulated: PredictionSet, written: Path) -> None:
    assert read_predictions(written).leakage == ""
    write_predictions(replace(simulated, leakage='Leakage: "3", of 10.'), written)
    assert read_predictions(written).leakage == 'Leakage: "3", of 10.'
    rewrite(written, lambda rows: [{name: row[name] for name in COLUMNS} for row in rows])
    assert read_predictions(written).leakage == ""


def test_clusters_of_acquisition_are_read_back_where_all_are_known(simulated: PredictionSet, written: Path) -> None:
    assert read_predictions(written).test.acquisitions is None
    clusters = np.arange(200) % 4 + 1
    known = replace(simulated, test=replace(simulated.test, acquisitions=clusters))
    write_predictions(known, written)
    read = read_predictions(written)
    assert read.test.acquisitions is not None and np.array_equal(read.test.acquisitions, clusters)
    assert read.validation.acquisitions is None
    half = read.test.subset(clusters > 2)
    assert half.acquisitions is not None and set(half.acquisitions.tolist()) == {3, 4}
    both = concatenate([half, read.test.subset(clusters == 1)])
    assert both.acquisitions is not None and both.acquisitions.tolist() == [3, 4] * 50 + [1] * 50
    assert concatenate([half, simulated.test]).acquisitions is None
    rewrite(written, lambda rows: [row | {ACQUISITION_COLUMN: row[ACQUISITION_COLUMN].strip("4")} for row in rows])
    assert read_predictions(written).test.acquisitions is None, "of a quarter of the photographs it is not known"
    rewrite(written, lambda rows: [{name: row[name] for name in COLUMNS} for row in rows])
    assert read_predictions(written).test.acquisitions is None, "files of others may lack the column"


def test_additional_columns_and_another_order_are_accepted(simulated: PredictionSet, written: Path) -> None:
    rewrite(written, lambda rows: [{"note": "x", **dict(reversed(row.items()))} for row in rows])
    same(simulated.test, read_predictions(written).test)


# Photographs in memory


def test_photographs_are_chosen_by_a_mask_or_in_any_order() -> None:
    photographs = in_folds(draw_photographs(9, 0))
    numbers = np.array([7, 2, 2])
    picked = photographs.subset(numbers)
    assert picked.sources == ("7.png", "2.png", "2.png") and len(picked) == 3
    assert np.array_equal(picked.probabilities, photographs.probabilities[numbers])
    assert picked.folds.tolist() == [2, 3, 3] and picked.groups.tolist() == [103, 101, 101]
    masked = photographs.subset(photographs.folds == 2)
    assert masked.sources == ("1.png", "4.png", "7.png")
    assert len(photographs.subset(np.zeros(9, bool))) == 0


def test_parts_are_joined_one_after_the_other() -> None:
    first, second = draw_photographs(3, 0), in_folds(draw_photographs(4, 1))
    both = concatenate([first, second])
    same(both.subset(np.arange(3)), first)
    same(both.subset(np.arange(3, 7)), second)


# Damage


REMEDY = r"make them again with `fundusgrade train --folds` or `fundusgrade evaluate --out`"


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(column: str, written: Path) -> None:
    rewrite(written, lambda rows: [{name: row[name] for name in row if name != column} for row in rows])
    with pytest.raises(DatasetError, match=rf"tiny\.csv cannot be read \(it lacks the columns {column}\); {REMEDY}"):
        read_predictions(written)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("grade", "", "invalid literal"),
        ("grade", "5", "grade"),
        ("grade", "-1", "grade"),
        ("predicted", "9", "predicted"),
        ("most_probable", "5", "most_probable 5 of .* is not one of 0-4"),
        ("most_probable", "two", "two"),
        ("fold", "one", "one"),
        ("group", "1.5", "1.5"),
        ("p3", "much", "much"),
        ("p3", "nan", "probabilities"),
        ("p0", "inf", "probabilities"),
        ("p0", "-0.5", "probabilities"),
        ("p1", "1.5", "probabilities"),
        ("part", "Test", "part"),
    ],
)
def test_an_invalid_cell_is_refused(column: str, value: str, reason: str, written: Path) -> None:
    rewrite(written, lambda rows: [*rows[:7], {**rows[7], column: value}, *rows[8:]])
    with pytest.raises(DatasetError, match=rf"(?s){reason}.*{REMEDY}"):
        read_predictions(written)


@pytest.mark.parametrize("part", ["test", "validation"])
def test_a_most_probable_grade_that_is_less_probable_than_another_is_refused(part: str, written: Path) -> None:
    def with_wrong_grade(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        (index, *_) = [i for i, row in enumerate(rows) if row["part"] == part]
        wrong = min(range(5), key=lambda grade: float(rows[index][f"p{grade}"]))
        return [*rows[:index], {**rows[index], MOST_PROBABLE_COLUMN: str(wrong)}, *rows[index + 1 :]]

    rewrite(written, with_wrong_grade)
    with pytest.raises(DatasetError, match=rf"most_probable \d of 0\.png is not the grade of its highest p.*{REMEDY}"):
        read_predictions(written)


def test_probabilities_that_are_all_zero_are_refused(written: Path) -> None:
    nothing = {f"p{grade}": "0.000000" for grade in range(5)}
    rewrite(written, lambda rows: [{**rows[0], **nothing}, *rows[1:]])
    with pytest.raises(DatasetError, match=rf"probabilities.*{REMEDY}"):
        read_predictions(written)


def test_a_file_that_ends_in_the_middle_of_a_row_is_refused(written: Path) -> None:
    text = written.read_text(encoding="utf-8")
    written.write_text(text[: text.rindex(",tiny") - 20], encoding="utf-8")
    with pytest.raises(DatasetError, match=REMEDY):
        read_predictions(written)


@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02", b"\xff\xfe\xfa", b"image,grade\na.png,1\n"])
def test_what_is_no_file_of_predictions_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"(?s)other\.csv cannot be read .*{REMEDY}"):
        read_predictions(path)


def test_a_file_without_test_photographs_is_refused(written: Path) -> None:
    rewrite(written, lambda rows: [row for row in rows if row["part"] == "validation"])
    with pytest.raises(DatasetError, match=rf"it holds no photographs of part test\); {REMEDY}"):
        read_predictions(written)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.csv", tmp_path):
        with pytest.raises(DatasetError, match=REMEDY):
            read_predictions(path)


# Names


def test_predictions_are_found_by_name_and_by_path(simulated: PredictionSet, written: Path, home: Path) -> None:
    write_predictions(simulated, store.predictions_file("pooled"))
    assert store.resolve_predictions("pooled") == home / "predictions" / "pooled.csv"
    assert store.resolve_predictions(str(written)) == written
    with pytest.raises(StoreError, match=r"no predictions 'other': neither a file nor a name in .* \(pooled"):
        store.resolve_predictions("other")


def test_a_place_that_cannot_be_written_is_named(simulated: PredictionSet, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file is in the way")
    with pytest.raises(StoreError, match="cannot write"):
        write_predictions(simulated, tmp_path / "taken" / "tiny.csv")
