"""A patient is the worst eye, and nothing that is doubtful or missing is taken to be healthy."""

from __future__ import annotations

import csv
import io
import itertools
import json
from pathlib import Path

import pytest

from fundusgrade.errors import DatasetError, StoreError
from fundusgrade.grades import Prediction, Referral, Ungraded
from fundusgrade.grading.identities import Eye, Identity, identify_by_file, identify_by_pattern, parse_eye
from fundusgrade.grading.patients import (
    PATIENT_COLUMNS,
    GradedPhotograph,
    PatientRequest,
    PatientResult,
    patient_row,
    summarize_patients,
    write_patients,
)
from fundusgrade.grading.writer import PredictionWriter

YES, NO, UNGRADABLE = Referral.YES, Referral.NO, Referral.UNGRADABLE
PATTERN = r"(?P<patient>\d+)_(?P<eye>left|right)"


def photograph(
    answer: Referral, eye: Eye = Eye.UNKNOWN, *, patient: str = "1", image: str = "a.png"
) -> GradedPhotograph:
    return GradedPhotograph(
        identity=Identity(image=image, patient=patient, eye=eye),
        referable=answer,
        grade={YES: 3, NO: 0, UNGRADABLE: None}[answer],
        probability={YES: 0.8, NO: 0.1, UNGRADABLE: None}[answer],
        reason="dark" if answer is UNGRADABLE else "",
        threshold=0.25,
        model="m",
        model_hash="0123456789ab",
    )


def of_eyes(right: tuple[Referral, ...], left: tuple[Referral, ...], *, num_fields: int | None = None) -> PatientResult:
    photographs = [photograph(answer, Eye.RIGHT) for answer in right]
    photographs += [photograph(answer, Eye.LEFT) for answer in left]
    [result] = summarize_patients(photographs, num_fields=num_fields)
    return result


@pytest.mark.parametrize("num_fields", [None, 1, 2])
def test_every_combination_of_two_photographs_of_each_eye(num_fields: int | None) -> None:
    choices = [chosen for size in (0, 1, 2) for chosen in itertools.product((YES, NO, UNGRADABLE), repeat=size)]
    for right, left in itertools.product(choices, repeat=2):
        if not right and not left:
            continue
        found = of_eyes(right, left, num_fields=num_fields).referable
        # Written anew: healthy only if each eye has enough photographs that say so, and none says otherwise.
        enough = [
            eye.count(NO) >= (num_fields or 1) and (num_fields is not None or UNGRADABLE not in eye)
            for eye in (right, left)
        ]
        expected = YES if YES in right + left else NO if all(enough) else UNGRADABLE
        assert found is expected, (right, left)


def test_the_reason_names_the_eye_and_the_photograph() -> None:
    assert of_eyes((YES,), (NO,)).reasons == ("right eye: referable, p = 0.8000 in a.png",)
    assert of_eyes((NO,), (UNGRADABLE,)).reasons == ("left eye: a.png: dark",)
    assert of_eyes((NO,), ()).reasons == ("left eye: no photograph",)
    assert of_eyes((NO,), (NO, NO), num_fields=2).reasons == ("right eye: 1 of 2 photographs",)
    assert of_eyes((NO,), (NO,)).reasons == ()


def test_eyes_that_are_not_known_need_the_photographs_of_both() -> None:
    three = [photograph(NO)] * 3
    assert summarize_patients(three)[0].referable is NO
    assert summarize_patients(three, num_fields=1)[0].referable is NO
    assert summarize_patients(three, num_fields=2)[0].referable is UNGRADABLE
    assert summarize_patients(three, num_fields=2)[0].num_missing == 1
    mixed = [photograph(NO, Eye.LEFT), photograph(NO)]
    assert summarize_patients(mixed)[0].reasons == ("right eye: no photograph",)


def test_patients_are_kept_apart_in_order_and_listed_photographs_are_missed() -> None:
    photographs = [photograph(NO, patient="b"), photograph(YES, patient="a"), photograph(NO, patient="b")]
    missing = [Identity(image="x.png", patient="b"), Identity(image="y.png", patient="c")]
    b, a, c = summarize_patients(photographs, missing)
    assert [(each.patient, each.referable) for each in (b, a, c)] == [("b", UNGRADABLE), ("a", YES), ("c", UNGRADABLE)]
    assert b.reasons == ("listed, but not graded: x.png",)
    assert (b.num_missing, c.num_missing, len(c.photographs)) == (1, 1, 0)
    row = patient_row(c)
    assert (row["refer"], row["grade"], row["model"], row["photographs"]) == (True, None, "", 0)


def test_the_row_of_a_patient_names_the_worst_eye() -> None:
    row = patient_row(of_eyes((NO,), (YES, UNGRADABLE)))
    assert tuple(row) == PATIENT_COLUMNS
    assert (row["referable"], row["refer"], row["worst_eye"], row["right_eye"], row["left_eye"]) == (
        *("yes", True, "left", "no", "yes"),
    )
    assert (row["grade"], row["label"], row["referable_probability"], row["referable_threshold"]) == (
        *(3, "Severe", 0.8, 0.25),
    )
    assert (row["photographs"], row["ungradable_photographs"], row["missing_fields"]) == (3, 1, 0)
    one_eye = patient_row(of_eyes((UNGRADABLE,), ()))
    assert (one_eye["right_eye"], one_eye["left_eye"], one_eye["missing_fields"]) == ("ungradable", "missing", 1)
    assert (one_eye["ungradable_eyes"], one_eye["worst_eye"]) == (("right",), "right")


def test_patients_and_eyes_come_from_file_names() -> None:
    found = identify_by_pattern(["in/17_left.png", "17_right.png", "zip:18_left (2).jpg"], PATTERN).photographs
    assert [(each.patient, each.eye) for each in found] == [("17", Eye.LEFT), ("17", Eye.RIGHT), ("18", Eye.LEFT)]
    assert identify_by_pattern(["17_left.png"], r"(?P<patient>\d+)").photographs[0].eye is Eye.UNKNOWN
    with pytest.raises(DatasetError, match=r"finds no patient in eye\.png; change the pattern"):
        identify_by_pattern(["1_left.png", "eye.png"], PATTERN)
    with pytest.raises(DatasetError, match="has no group named patient"):
        identify_by_pattern(["1_left.png"], r"(\d+)")
    with pytest.raises(DatasetError, match="is no regular expression"):
        identify_by_pattern(["1_left.png"], "(")


def test_patients_and_eyes_come_from_a_list(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(
        "\ufeffsource, patient,eye\nclinic a/eye.png,p1,OD\nclinic b/eye.png,p2,l\nplain,p3,\nlost.png,p1,L\n", "utf-8"
    )
    names = ["/data/clinic b/eye.png", "clinic a/eye.png", "elsewhere/plain.jpg"]
    found = identify_by_file(names, path)
    assert [(each.patient, each.eye) for each in found.photographs] == [
        *(("p2", Eye.LEFT), ("p1", Eye.RIGHT), ("p3", Eye.UNKNOWN)),
    ]
    assert [each.image for each in found.missing] == ["lost.png"]
    for name in ("eye.png", "unlisted.png"):
        with pytest.raises(DatasetError, match=f"names not exactly one patient for {name}"):
            identify_by_file([name], path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("photo,person\na.png,1\n", "has the columns photo, person; expected image"),
        ("image,patient\na.png,\n", "names no patient for 'a.png'"),
        ("image,patient,eye\na.png,1,middle\n", "the eye 'middle' is not known"),
        ("", "has the columns none"),
    ],
)
def test_a_list_that_does_not_say_whose_eye_it_is_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(DatasetError, match=message):
        identify_by_file(["a.png"], path)


def test_a_list_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        identify_by_file(["a.png"], tmp_path / "none.csv")


def test_eyes_have_many_names() -> None:
    assert {parse_eye(text) for text in ("left", "L", " OS ", "le")} == {Eye.LEFT}
    assert {parse_eye(text) for text in ("Right", "r", "od")} == {Eye.RIGHT}
    assert {parse_eye(text) for text in ("", "B", "both")} == {Eye.UNKNOWN}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_rows_by_patient_are_made_from_a_file_of_any_format(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    names = ["1_left.png", "1_right.png", "2_left.png", "2_right.png", "=3_left.png"]
    with PredictionWriter(tmp_path / f"rows.{suffix}") as writer:
        for number, name in enumerate(names):
            p = 0.9 if number == 1 else 0.1
            writer.write(
                Ungraded(image=name, model="m", reason="damaged")
                if number == 3
                else Prediction(image=name, model="m", probabilities=(1 - p, 0.0, p, 0.0, 0.0), model_hash="ab" * 32)
            )
    out = tmp_path / f"patients.{suffix}"
    results = write_patients(tmp_path / f"rows.{suffix}", names, PatientRequest(path=out, pattern=PATTERN))
    assert [(each.patient, each.referable) for each in results] == [("1", YES), ("2", UNGRADABLE), ("3", UNGRADABLE)]
    rows = read(out)
    assert [row["patient"] for row in rows] == ["1", "2", "3"]
    assert [row["refer"] in (True, "yes") for row in rows] == [True] * 3
    assert [row["model_hash"] for row in rows] == ["abababababab"] * 3
    assert rows[0]["worst_image"] == "1_right.png" and rows[0]["worst_eye"] == "right"
    assert "2_right.png: damaged" in str(rows[1]["reasons"])


def read(path: Path) -> list[dict[str, object]]:
    if path.suffix == ".parquet":
        from pyarrow import parquet

        return parquet.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_a_file_that_the_rows_are_made_from_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with PredictionWriter(path) as writer:
        writer.write(Ungraded(image="1_left.png", model="m", reason="damaged"))
    before = path.read_bytes()
    with pytest.raises(StoreError, match="would replace a file that it is made from"):
        write_patients(path, ["1_left.png"], PatientRequest(path=path, pattern=PATTERN))
    assert path.read_bytes() == before
