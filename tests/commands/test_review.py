"""The page of `predict --report`, whatever holds the photographs, and the loop from it to a clinic's calibration."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from fundusgrade.data.reviewed import REVIEW_COLUMNS, review_cell
from fundusgrade.grading.reader import read_cells
from fundusgrade.reports import review_page
from fundusgrade.reports.html.environment import csp_hash
from tests.browser import open_page
from tests.command_line import Outcome
from tests.dicoms import dataset_of, file_bytes
from tests.models_for_tests import drawn_photograph, install_model, save_photographs

PREDICTIONS = "predictions-tiny.csv"
PATTERN = r"--patient-pattern '(?P<patient>\d+)_(?P<eye>left|right)'"


def data_of(page: Path, name: str = "data") -> Any:
    [text] = re.findall(f'<script type="application/json" id="{name}">(.*?)</script>', page.read_text("utf-8"))
    return json.loads(text)


def save_pairs(folder: Path, num_patients: int) -> None:
    for number, path in enumerate(save_photographs(folder, range(2 * num_patients))):
        path.rename(folder / f"{10 + number // 2}_{('left', 'right')[number % 2]}.png")


def test_the_page_has_a_row_for_each_patient_with_the_right_eye_first(workplace: Path) -> None:
    install_model()
    save_pairs(workplace / "images", 3)
    (workplace / "images" / "10_left.png").write_bytes(b"no image")
    outcome = Outcome(f"fundusgrade predict images --csv rows.csv --report grades.html {PATTERN} --threshold 0.4")
    assert outcome.code == 3 and "written: grades.html" in outcome.stderr
    assert "patients.csv" not in outcome.stderr
    page, data = Path("grades.html"), data_of(Path("grades.html"))
    assert [row["patient"] for row in data["rows"]] == ["10", "11", "12"]
    names = [photograph["name"] for photograph in data["photographs"]]
    for row in data["rows"]:
        assert [names[place] for place in row["right"]] == [f"{row['patient']}_right.png"]
        assert [names[place] for place in row["left"]] == [f"{row['patient']}_left.png"]
    assert (
        data["rows"][0]["referable"] in ("yes", "ungradable")
        and "not an image" in data["photographs"][0]["models"][0]["error"]
    )
    for photograph, cells in zip(data["photographs"], read_cells(Path("rows.csv")), strict=True):
        [model] = photograph["models"]
        assert (str(model["grade"] if model["grade"] is not None else ""), model["referable"], model["threshold"]) == (
            *(cells["grade"], cells["referable"]), 0.4,
        )  # fmt: skip
    pictures = data_of(page, "pictures")
    assert [len(each) for each in pictures] == [0, 1, 1, 1, 1, 1]
    assert base64.b64decode(pictures[1][0]).startswith(b"\xff\xd8")
    assert page.read_text("utf-8").count("Research software, not a medical device.") == 1


def test_every_script_and_style_of_the_page_is_allowed_by_its_hash_only(workplace: Path) -> None:
    install_model()
    save_photographs(workplace, [0])
    assert Outcome("fundusgrade predict eye00.png --csv rows.csv --report grades.html").code == 0
    text = Path("grades.html").read_text("utf-8")
    [policy] = re.findall('Content-Security-Policy" content="(.*?)"', text)
    policy = policy.replace("&#39;", "'")
    scripts, styles = re.findall("<script>(.*?)</script>", text, re.S), re.findall("<style>(.*?)</style>", text, re.S)
    assert len(scripts) == 4 and len(styles) == 2 and "unsafe" not in policy and "http" not in policy
    assert all(csp_hash(part) in policy for part in (*scripts, *styles))
    assert not re.search(r'style="|onclick|src="', text)


def test_a_resumed_run_gives_the_page_of_an_uninterrupted_one(workplace: Path) -> None:
    install_model()
    save_photographs(workplace / "images", range(5))
    predict = "fundusgrade predict images --batch-size 2 --workers 1"
    assert Outcome(f"{predict} --csv whole.csv --report whole.html").code == 0
    lines = Path("whole.csv").read_text().splitlines(keepends=True)
    Path("part.csv.partial").write_text("".join(lines[:4]))
    shutil.copy("whole.csv.json", "part.csv.partial.json")
    outcome = Outcome(f"{predict} --csv part.csv --report part.html --resume")
    assert outcome.code == 0 and "resuming after 2 rows" in outcome.stderr
    assert data_of(Path("part.html")) == data_of(Path("whole.html"))
    assert [len(each) for each in data_of(Path("part.html"), "pictures")] == [1] * 5
    again = Outcome(f"{predict} --csv part.csv --report part.html --resume")
    assert again.code == 0 and "is complete already" in again.stderr
    assert data_of(Path("part.html")) == data_of(Path("whole.html"))


def test_merge_makes_the_page_of_all_shards_and_a_shard_none(workplace: Path) -> None:
    install_model()
    save_photographs(workplace / "images", range(4))
    refused = Outcome("fundusgrade predict images --csv rows.csv --shard 1/2 --report grades.html")
    assert refused.code == 2 and "fundusgrade merge" in refused.stderr
    for number in (1, 2):
        assert Outcome(f"fundusgrade predict images --csv rows.csv --shard {number}/2").code == 0
    assert Outcome("fundusgrade merge images --csv rows.csv --report merged.html").code == 0
    assert Outcome("fundusgrade predict images --csv whole.csv --report whole.html").code == 0
    assert data_of(Path("merged.html")) == data_of(Path("whole.html"))


def test_archives_and_dicom_files_have_pictures_and_no_link(workplace: Path) -> None:
    install_model()
    [inside, beside] = save_photographs(workplace, [0, 1])
    with zipfile.ZipFile("eyes.zip", "w") as archive:
        archive.write(inside, "left/inside.png")
    (workplace / "scan.dcm").write_bytes(file_bytes(dataset_of(drawn_photograph(2), ImageLaterality="R")))
    outcome = Outcome(
        ["predict", "eyes.zip", "scan.dcm", beside.name, "--csv", "rows.jsonl", "--report", "grades.html"]
    )
    assert outcome.code == 0, outcome.stderr
    found = {each["name"]: (each["photograph"], each["eye"]) for each in data_of(Path("grades.html"))["photographs"]}
    assert found == {"eyes.zip/left/inside.png": ("", ""), "scan.dcm": ("", "right"), beside.name: (beside.name, "")}
    assert [len(each) for each in data_of(Path("grades.html"), "pictures")] == [1, 1, 1]


def test_pictures_that_are_too_many_lie_beside_the_page(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_model()
    save_photographs(workplace / "images", range(2))
    monkeypatch.setattr(review_page, "MAX_PAGE_BYTES", 1000)
    predict = "fundusgrade predict images --csv rows.csv --report grades.html"
    outcome = Outcome(predict)
    assert outcome.code == 0 and "they are in grades-pictures, which belongs beside it" in outcome.stderr
    assert data_of(Path("grades.html"), "pictures") == [
        *(["grades-pictures/000000-0.jpg"], ["grades-pictures/000001-0.jpg"]),
    ]
    with open_page(Path("grades.html")) as page:
        page.wait_for_function("document.querySelector('.picture img').naturalWidth > 100")
    assert Outcome(f"{predict} --overwrite").code == 0
    Path("grades-pictures", "000000-0.jpg").write_bytes(b"somebody else's")
    refused = Outcome(f"{predict} --overwrite")
    assert refused.code == 1 and "was not written by fundusgrade" in refused.stderr


def test_options_of_the_page_that_do_not_fit_are_refused(workplace: Path) -> None:
    install_model()
    save_photographs(workplace / "images", range(2))
    for options, message in (
        ("--sample 0.1", "name it with --report FILE"),
        ("--report p.html --sample-seed 1", "needs --sample PROPORTION"),
        ("--report p.html --sample 2", "a proportion above 0 and up to 1"),
    ):
        refused = Outcome(f"fundusgrade predict images --csv rows.csv {options}")
        assert refused.code == 2 and message in re.sub(r"\s*\n?[│ ]+", " ", refused.stderr), options
    refused = Outcome("fundusgrade predict images --csv rows.csv --report p.txt")
    assert refused.code == 1 and "unknown suffix '.txt'" in refused.stderr
    (workplace / "p.html").write_text("mine")
    refused = Outcome("fundusgrade predict images --csv rows.csv --report p.html --overwrite")
    assert refused.code == 1 and "was not written by fundusgrade" in refused.stderr
    assert not (workplace / "rows.csv").exists()


def test_rows_on_standard_output_have_a_page_too(workplace: Path) -> None:
    install_model()
    save_photographs(workplace / "images", range(3))
    outcome = Outcome("fundusgrade predict images --report out.html --sample 1 --sample-seed 4 --threshold 1")
    assert outcome.code == 0 and outcome.stdout.startswith("image,grade,")
    rows = data_of(Path("out.html"))["rows"]
    num_negative = sum(row["referable"] == "no" for row in rows)
    assert [row["sampled"] for row in rows] == [row["referable"] == "no" for row in rows]
    assert f"sample: {num_negative} negatives to read again (100 %, seed 4)" in outcome.stderr


def save_reviewed(path: Path, rows: list[tuple[str, str, str, str, str]]) -> None:
    """A file as the page downloads it: photograph, patient, eye, grade and answer of the reader."""
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        file.write(",".join(REVIEW_COLUMNS) + "\r\n")
        for row in rows:
            cells = [*map(review_cell, row[:3]), *row[3:], '"Dr. A"', "2026-01-01T00:00:00Z"]
            file.write(",".join([*cells, *['""'] * (len(REVIEW_COLUMNS) - len(cells))]) + "\r\n")


def test_the_loop_closes_from_grading_through_review_to_a_clinics_own_calibration(workplace: Path) -> None:
    install_model()
    save_pairs(workplace / "images", 12)
    assert Outcome(f"fundusgrade predict images --csv rows.csv --report grades.html {PATTERN}").code == 0
    with open_page(Path("grades.html")) as page:
        page.keyboard.press("3")
        page.locator("#reader").fill("Dr. A")
        page.keyboard.press("Enter")
        for number in range(1, 24):
            page.keyboard.press({22: "u", 23: "r"}.get(number, "03"[number // 2 % 4 != 0]))
        with page.expect_download() as downloaded:
            page.locator("#download").click()
        downloaded.value.save_as("reviewed.csv")
    prepared = Outcome("fundusgrade preprocess images --labels reviewed.csv --size 64 --method natural --name clinic")
    assert prepared.code == 0, prepared.stderr
    assert "labels: reviewed.csv (layout reviewed); photographs without a grade: 2" in prepared.stdout
    assert "by the reader: 1 to be referred without a grade, 1 ungradable" in prepared.stdout
    unlabeled = Outcome("fundusgrade preprocess images --size 64 --method natural --name unlabeled --workers 1")
    assert unlabeled.code == 0, unlabeled.stderr
    for options in ("--data clinic", "--data unlabeled --labels reviewed.csv"):
        name = options.split()[1]
        done = Outcome(f"fundusgrade calibrate tiny {options} --name mine-{name} --sensitivity 0.7 --confidence 0.8")
        assert done.code == 0, done.stderr
        assert "of 11 patients" in done.stdout
        assert "left out: 1 patients with a photograph without a grade" in done.stdout
    assert "22 photographs graded by the reader; 1 to be referred without a grade, 1 ungradable" in done.stdout
    split = "--split all --resamples 100"
    same = [
        Outcome(f"fundusgrade evaluate --model tiny {options} {split} --out {folder}")
        for options, folder in (("--data clinic", "a"), ("--data unlabeled --labels reviewed.csv", "b"))
    ]
    assert [each.code for each in same] == [0, 0], same[1].stderr
    assert "reviewed.csv: 22 photographs graded by the reader" in same[1].stderr
    scored = [
        {
            (Path(row["source"]).name, row["grade"])
            for row in csv.DictReader(io.StringIO(Path(folder, PREDICTIONS).read_text()))
        }
        for folder in ("a", "b")
    ]
    assert scored[0] == scored[1] and len(scored[0]) == 22


def test_labels_that_do_not_fit_the_data_set_are_refused(workplace: Path) -> None:
    install_model()
    save_photographs(workplace / "images", range(3))
    assert Outcome("fundusgrade preprocess images --size 64 --method natural --workers 1").code == 0
    evaluate = "fundusgrade evaluate --model tiny --data images --split all --labels reviewed.csv"
    save_reviewed(workplace / "reviewed.csv", [("other/eye99.png", "", "", "1", "no")])
    assert "names no photograph of the data set" in Outcome(evaluate).stderr
    save_reviewed(workplace / "reviewed.csv", [("eye00.png", "", "", "1", "no"), ("eye00.png", "", "", "2", "yes")])
    assert "gives images/eye00.png two different grades" in Outcome(evaluate).stderr
    save_reviewed(workplace / "reviewed.csv", [("eye00.png", "", "", "1", "no"), ("eye99.png", "", "", "2", "yes")])
    outcome = Outcome(evaluate)
    assert "1 photographs graded by the reader; 2 not reviewed; 1 of the file are not in the data set" in outcome.stderr
    (workplace / "reviewed.csv").write_text("image,level\neye00.png,1\n")
    assert "reviewed.csv is no reviewed.csv" in Outcome(evaluate).stderr
