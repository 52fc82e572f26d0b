"""`predict`: a row for every photograph, whatever its name or content, on standard output or in a file."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from fundusgrade.data import splits
from fundusgrade.grades import Prediction
from fundusgrade.grading.grader import Grader
from fundusgrade.metrics.referral import OperatingPoint, choose_operating_point, referral_scores
from fundusgrade.networks.checkpoint_file import read_description
from fundusgrade.options import DeviceName, Precision
from fundusgrade.photographs.images import read_image, write_image
from tests.command_line import COLUMNS, Outcome, rows_of
from tests.models_for_tests import install_dataset, install_model, save_broken_files, save_photographs


def test_predict_verbatim(workplace: Path) -> None:
    install_model()
    save_photographs(workplace / "images", [2, 0])
    save_photographs(workplace / "images" / "left", [1])
    outcome = Outcome("fundusgrade predict images/ --csv out.csv")
    assert (outcome.code, outcome.stdout) == (0, "")
    rows = rows_of((workplace / "out.csv").read_bytes().decode())
    assert [row["image"] for row in rows] == ["images/eye00.png", "images/eye02.png", "images/left/eye01.png"]
    for row in rows:
        numbers = [float(row[f"p{grade}"]) for grade in range(5)]
        assert sum(numbers) == pytest.approx(1, abs=3e-4)
        assert int(row["grade"]) == int(np.argmax(numbers))
        assert float(row["expected_grade"]) == pytest.approx(sum(g * p for g, p in enumerate(numbers)), abs=1e-3)
        assert float(row["referable_probability"]) == pytest.approx(sum(numbers[2:]), abs=3e-4)
        assert (row["model"], row["error"]) == ("tiny", "")
    assert re.search(r"^model tiny\nruntime: PyTorch [0-9.]+, \w+, (cpu|cuda|mps): ", outcome.stderr)
    assert "wrote 3 rows to out.csv: 3 graded, 0 failed, 0 of doubtful quality" in outcome.stderr


def point() -> OperatingPoint:
    """A point chosen on drawn scores, at a threshold that some photographs reach."""
    scores = np.arange(1, 201) / 200
    of = referral_scores(["drawn"] * 200, np.where(scores > 0.3, 3, 0), scores, np.arange(200))
    found = choose_operating_point(of)
    assert found is not None
    return found


def test_predict_refers_from_the_threshold_of_the_model_or_from_another(workplace: Path) -> None:
    path, stored = install_model(operating_point=point()), point()
    save_photographs(workplace / "images", range(8))
    save_broken_files(workplace / "broken")
    shutil.copy(workplace / "broken" / "black.png", workplace / "images")
    predict = "fundusgrade predict images --csv"
    for options, threshold in (
        ("a.csv", stored.threshold),
        ("b.csv --sensitivity 0.6", stored.at_sensitivity(0.6).threshold),
        ("c.csv --threshold 0.3", 0.3),
        ("d.csv --threshold 1", 1.0),
    ):
        outcome = Outcome(f"{predict} {options}")
        rows = rows_of((workplace / options.split()[0]).read_text())
        assert {float(row["referable_threshold"]) for row in rows} == {threshold}
        assert {row["model_hash"] for row in rows} == {read_description(path).weights_sha256[:12]}
        for row in rows:
            reached = row["grade"] != "" and float(row["referable_probability"]) >= threshold
            unclear = "ungradable" if row["gradable"] == "no" else "no"
            assert row["referable"] == ("yes" if reached else unclear)
        answers = Counter(row["referable"] for row in rows)
        assert f"refer {answers['yes'] + answers['ungradable']}: {answers['yes']} referable" in outcome.stderr
        assert f"tiny: referable from p = {threshold:.4f}" in outcome.stderr
        assert answers["ungradable"] >= 1
    assert len({Path(f"{name}.csv").read_text() for name in "abcd"}) == 4
    both = Outcome(f"{predict} e.csv --threshold 0.3 --sensitivity 0.9")
    assert both.code == 2 and "exclude each other" in both.stderr


def test_a_model_without_an_operating_point_says_so_and_knows_no_sensitivity(workplace: Path) -> None:
    install_model()
    save_photographs(workplace / "images", [0])
    outcome = Outcome("fundusgrade predict images --csv a.csv")
    assert "tiny: referable from p = 0.5000; what that finds is not known" in outcome.stderr
    assert rows_of((workplace / "a.csv").read_text())[0]["referable_threshold"] == "0.5000"
    asked = Outcome("fundusgrade predict images --sensitivity 0.9")
    assert (asked.code, asked.stdout) == (1, "")
    assert "'tiny' does not store from which threshold a sensitivity is reached" in asked.stderr


def test_a_run_with_another_threshold_is_not_resumed(workplace: Path) -> None:
    install_model(operating_point=point())
    save_photographs(workplace / "images", [0, 1])
    assert Outcome("fundusgrade predict images --csv a.csv --threshold 0.3").code == 0
    outcome = Outcome("fundusgrade predict images --csv a.csv --threshold 0.4 --resume")
    assert outcome.code == 1 and "referable_threshold 0.3; this run has referable_threshold 0.4" in outcome.stderr


def test_predict_gives_one_row_per_patient_and_a_damaged_photograph_refers(workplace: Path) -> None:
    install_model(operating_point=point())
    first, second = save_photographs(workplace / "images", [0, 1])
    first.rename(workplace / "images" / "17_left.png")
    second.rename(workplace / "images" / "17_right.png")
    (workplace / "images" / "18_left.png").write_bytes(b"no image")
    predict = "fundusgrade predict images --csv rows.csv --threshold 1"
    pattern = r"--patient-pattern '(?P<patient>\d+)_(?P<eye>left|right)'"
    outcome = Outcome(f"{predict} --by-patient patients.csv {pattern}")
    assert outcome.code == 3
    assert "wrote 2 rows to patients.csv: refer 1 patients: 0 referable, 1 ungradable or incomplete" in outcome.stderr
    rows = list(csv.DictReader(io.StringIO((workplace / "patients.csv").read_text())))
    assert [(row["patient"], row["referable"], row["refer"]) for row in rows] == [
        *(("17", "no", "no"), ("18", "ungradable", "yes")),
    ]
    assert "18_left.png: " in rows[1]["reasons"] and "right eye: no photograph" in rows[1]["reasons"]
    for options, message in (
        ("--by-patient p.csv", "need either --patients or --patient-pattern"),
        (pattern, "need --by-patient FILE"),
        (f"--by-patient p.csv {pattern} --shard 1/2", "give them to `fundusgrade merge`"),
    ):
        refused = Outcome(f"{predict} {options}")
        assert refused.code == 2 and message in re.sub(r"\s*\n?[│ ]+", " ", refused.stderr), options
    without_file = Outcome(f"fundusgrade predict images --by-patient p.csv {pattern}")
    assert without_file.code == 2
    unknown = Outcome(f"{predict} --by-patient p.csv --patient-pattern '(?P<patient>x)' --overwrite")
    assert unknown.code == 1 and "finds no patient in" in unknown.stderr


def test_predict_writes_nothing_but_csv_to_standard_output(workplace: Path) -> None:
    install_model()
    save_photographs(workplace, [0, 1])
    outcome = Outcome("fundusgrade predict eye00.png eye01.png --precision float32 --device cpu")
    assert outcome.code == 0
    assert [row["image"] for row in rows_of(outcome.stdout)] == ["eye00.png", "eye01.png"]
    assert "wrote 2 rows to standard output: 2 graded, 0 failed" in outcome.stderr
    expected = Grader.load("tiny", device=DeviceName.CPU, precision=Precision.FLOAT32).grade(Path("eye01.png"))
    assert isinstance(expected, Prediction)
    assert rows_of(outcome.stdout)[1]["p3"] == f"{expected.probabilities[3]:.4f}"


def test_predict_grades_the_rest_past_every_broken_file_and_reports_the_counts(workplace: Path) -> None:
    install_model()
    reasons = save_broken_files(workplace / "images")
    assert len(reasons) >= 12
    save_photographs(workplace / "images", [0, 1, 2])
    outcome = Outcome("fundusgrade predict images gone.png --csv out.csv")
    assert outcome.code == 3
    rows = {Path(row["image"]).name: row for row in rows_of((workplace / "out.csv").read_bytes().decode())}
    assert set(rows) == {*reasons, "gone.png", "eye00.png", "eye01.png", "eye02.png"}
    for name, reason in (reasons | {"gone.png": "does not exist"}).items():
        assert reason in rows[name]["error"], name
        assert {rows[name][column] for column in COLUMNS[1:10]} == {""}
    assert all(rows[f"eye0{seed}.png"]["grade"] in set("01234") for seed in range(3))
    assert f"wrote {len(reasons) + 4} rows to out.csv: 3 graded, {len(reasons) + 1} failed" in outcome.stderr


def test_predict_writes_no_formula(workplace: Path) -> None:
    install_model()
    source = save_photographs(workplace, [0])[0]
    names = ["=1+1.png", "+1.png", "@SUM(A1).png", "-1.png", "\t=1.png"]
    for name in names:
        shutil.copy(source, workplace / name)
    outcome = Outcome(["predict", "--", *names])
    assert outcome.code == 0
    assert [row["image"] for row in rows_of(outcome.stdout)] == [f"'{name}".replace("\t", "\t'") for name in names]


def test_predict_takes_any_file_name(workplace: Path) -> None:
    install_model()
    source = save_photographs(workplace, [0])[0]
    names = ["größe 眼.png", "[bold]eye.png", os.fsdecode(b"eye\xff.png"), 'a,"b".png']
    for name in names:
        shutil.copy(source, workplace / name)
    outcome = Outcome(["predict", *names])
    assert outcome.code == 0
    assert [row["image"] for row in rows_of(outcome.stdout)] == [names[0], names[1], "eye\\udcff.png", names[3]]


def test_predict_without_photographs_is_an_error(workplace: Path) -> None:
    install_model()
    (workplace / "empty").mkdir()
    (workplace / "empty" / "notes.txt").touch()
    outcome = Outcome("fundusgrade predict empty --csv out.csv")
    assert (outcome.code, outcome.stdout) == (1, "")
    assert "Error: no photographs in empty (skipped: 1 .txt); expected JPEG, PNG, TIFF, BMP," in outcome.stderr
    assert not (workplace / "out.csv").exists()


def test_predict_to_a_place_that_cannot_be_written_is_an_error(workplace: Path) -> None:
    install_model()
    save_photographs(workplace, [0])
    (workplace / "file").touch()
    outcome = Outcome("fundusgrade predict eye00.png --csv file/out.csv")
    assert outcome.code == 1
    assert "Error: cannot write file/out.csv" in outcome.stderr


def test_predict_with_coverage_adds_ranges_that_hold_the_grade(
    labeled: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "FEWEST_TO_HALVE", 1)
    install_dataset("drawn")
    assert Outcome("fundusgrade train --arch cnn --epochs 1 --batch-size 4 --device cpu --name ranged").code == 0
    predict = "fundusgrade predict labeled --model ranged --device cpu --csv out.csv --coverage"
    both = Outcome(f"{predict} 0.9 --tta")
    assert both.code == 1 and "--coverage cannot be combined with --tta" in both.stderr
    ranged = Outcome(f"{predict} 0.9")
    assert ranged.code == 0
    assert re.search(r"^ranged: 90 % prediction sets contain the true grade of \d+ % of all \d+, ", ranged.stderr, re.M)
    header, *rows = list(csv.reader(io.StringIO((workplace / "out.csv").read_text())))
    assert header == [*COLUMNS, "grade_low", "grade_high", "could_be_as_bad_as"]
    for row in rows:
        low, high, bound = map(int, row[-3:])
        assert 0 <= low <= int(row[1]) <= high <= bound <= 4


def test_a_model_without_conformity_gives_no_ranges(workplace: Path) -> None:
    install_model()
    save_photographs(workplace / "images", [0])
    outcome = Outcome("fundusgrade predict images --coverage 0.9")
    assert (outcome.code, outcome.stdout) == (1, "")
    assert "--coverage" in outcome.stderr


def test_require_gradable_leaves_photographs_of_doubtful_quality_ungraded(workplace: Path) -> None:
    install_model()
    save_photographs(workplace / "images", [0])
    sharp = read_image(workplace / "images" / "eye00.png")
    blurred = cv2.GaussianBlur(sharp, (0, 0), 6)
    write_image(workplace / "images" / "blurred.png", np.asarray(blurred, np.uint8))
    outcome = Outcome("fundusgrade predict images --csv out.csv")
    assert outcome.code == 0
    assert "2 graded, 0 failed, 1 of doubtful quality" in outcome.stderr
    doubted, good = rows_of((workplace / "out.csv").read_text())
    assert (doubted["gradable"], doubted["quality_reasons"]) == ("no", "out of focus or veiled")
    assert (good["gradable"], good["quality_reasons"]) == ("yes", "")
    assert doubted["grade"] != ""
    withheld = Outcome("fundusgrade predict images --csv out.csv --require-gradable --overwrite")
    assert withheld.code == 3
    doubted, good = rows_of((workplace / "out.csv").read_text())
    assert (doubted["grade"], doubted["gradable"]) == ("", "no")
    assert doubted["error"] == "not gradable: out of focus or veiled"
    assert good["grade"] != ""
