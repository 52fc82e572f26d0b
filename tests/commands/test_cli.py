"""The command line: words in, results on stdout or in files, messages on stderr, and an exit code that tells."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import timm
import torch
import typer.main
from PIL import Image
from rich.progress import Progress

from fundusgrade import __version__, store
from fundusgrade.commands.app import app
from fundusgrade.data.dataset import load_dataset
from fundusgrade.grades import RESEARCH_USE, Prediction
from fundusgrade.grading.datasets import predict_rows
from fundusgrade.grading.grader import Grader
from fundusgrade.metrics.classification import evaluate_predictions
from fundusgrade.options import DeviceName, Precision
from fundusgrade.photographs.images import read_image, write_image
from tests.command_line import Outcome
from tests.models_for_tests import (
    install_dataset,
    install_model,
    photographs_of,
    save_broken_files,
    save_labeled_photographs,
    save_photographs,
)

COLUMNS = [
    *("image", "grade", "label", "p0", "p1", "p2", "p3", "p4"),
    *("expected_grade", "referable_probability", "gradable", "quality_reasons"),
    *("laterality", "camera", "model", "error"),
]

OPTIONS = {
    "preprocess": {
        *("--name", "--method", "--outline", "--size", "--labels", "--seed", "--workers"),
        *("--image-column", "--grade-column", "--patient-column", "--eye-column", "--site-column"),
    },
    "train": {
        *("--arch", "--data", "--name", "--device", "--precision", "--init-weights", "--pretrained", "--no-pretrained"),
        *("--recipe", "--head", "--loss", "--class-weights", "--decision", "--calibrate", "--no-calibrate"),
        *("--epochs", "--batch-size", "--learning-rate", "--layer-decay", "--patience", "--seed"),
        *("--mixup", "--degrade", "--ema-decay", "--folds", "--fold", "--tta", "--resume", "--overwrite"),
        *("--compile", "--tensorboard"),
    },
    "evaluate": {
        *("--model", "--predictions", "--data", "--split", "--common", "--by", "--out", "--report", "--images"),
        *("--audit", "--coverage", "--tta", "--allow-leakage", "--draws", "--device", "--precision"),
    },
    "audit": {"--model", "--split", "--limit", "--lesions", "--out", "--device", "--precision"},
    "predict": {
        *("--csv", "--out", "--list", "--model", "--device", "--precision", "--batch-size", "--workers"),
        *("--require-gradable", "--tta", "--coverage", "--shard", "--resume", "--overwrite"),
    },
    "merge": {"--csv", "--out", "--list"},
    "explain": {
        *("--out", "--model", "--target", "--method", "--tiles", "--masks", "--arrays", "--score"),
        *("--device", "--precision"),
    },
    "faithfulness": {
        *("--model", "--target", "--method", "--split", "--fold", "--limit", "--lesions", "--out", "--allow-leakage"),
        *("--device", "--precision"),
    },
    "export": {
        *("--format", "--int8", "--data", "--split", "--limit", "--check", "--no-check", "--out"),
    },
    "models": set(),
    "datasets": set(),
}


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, no shipped models, and one processor thread for networks this small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "shipped_weights", lambda: tmp_path / "no shipped weights")
    monkeypatch.setattr(store, "DEFAULT_MODEL", "tiny")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(before)


def rows_of(text: str) -> list[dict[str, str]]:
    """The CSV's rows; fails where anything but the CSV is in the text."""
    header, *rows = list(csv.reader(io.StringIO(text, newline="")))
    assert header == COLUMNS
    assert all(len(row) == len(COLUMNS) for row in rows), text
    return [dict(zip(header, row, strict=True)) for row in rows]


def options_of(command: typer.core.TyperCommand) -> set[str]:
    names = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return {name for name in names if name.startswith("-")}


# --- words ------------------------------------------------------------------------------------------------------------


def test_commands_and_their_options_are_those_listed_here() -> None:
    """A change of these words breaks somebody's script: change the list and the changelog with them."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group
    assert {name: options_of(command) for name, command in commands.items()} == OPTIONS


@pytest.mark.parametrize("command", list(OPTIONS))
def test_help_names_every_option(command: str) -> None:
    outcome = Outcome([command, "--help"])
    assert outcome.code == 0
    assert outcome.stderr == ""
    for option in OPTIONS[command] | {"--help"}:
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", outcome.stdout), option


def test_help_names_every_command_and_the_limits() -> None:
    outcome = Outcome("fundusgrade --help")
    assert outcome.code == 0
    assert all(re.search(rf"\b{command}\b", outcome.stdout) for command in OPTIONS)
    assert RESEARCH_USE in outcome.stdout


def test_version() -> None:
    outcome = Outcome("fundusgrade --version")
    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, f"fundusgrade {__version__}\n", "")


@pytest.mark.parametrize(
    "command",
    [
        "fundusgrade",
        "fundusgrade grade eye.png",
        "fundusgrade predict",
        "fundusgrade predict eye.png --device tpu",
        "fundusgrade predict eye.png --batch-size 0",
        "fundusgrade preprocess photos --size 16",
        "fundusgrade evaluate --split exam",
        "fundusgrade train --epochs many",
    ],
)
def test_wrong_words_are_a_usage_error(command: str) -> None:
    outcome = Outcome(command)
    assert outcome.code == 2
    assert "Usage:" in outcome.stderr + outcome.stdout


# --- predict ----------------------------------------------------------------------------------------------------------


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
    assert re.search(r"^model tiny; (cpu|cuda|mps), ", outcome.stderr)
    assert "3 graded, 0 not in out.csv" in outcome.stderr


def test_predict_writes_nothing_but_csv_to_standard_output(workplace: Path) -> None:
    install_model()
    save_photographs(workplace, [0, 1])
    outcome = Outcome("fundusgrade predict eye00.png eye01.png --precision float32 --device cpu")
    assert outcome.code == 0
    assert [row["image"] for row in rows_of(outcome.stdout)] == ["eye00.png", "eye01.png"]
    assert "2 graded, 0 not" in outcome.stderr
    expected = Grader.load("tiny", device=DeviceName.CPU, precision=Precision.FLOAT32).grade(Path("eye01.png"))
    assert isinstance(expected, Prediction)
    assert rows_of(outcome.stdout)[1]["p3"] == f"{expected.probabilities[3]:.4f}"


def test_predict_goes_on_past_every_broken_file_and_says_so_at_the_end(workplace: Path) -> None:
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
    assert f"3 graded, {len(reasons) + 1} not in out.csv" in outcome.stderr


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
    assert "Error: no photographs in empty; looked for .bmp, .dcm, .dicom, .jpeg, .jpg, .png," in outcome.stderr
    assert not (workplace / "out.csv").exists()


def test_predict_to_a_place_that_cannot_be_written_is_an_error(workplace: Path) -> None:
    install_model()
    save_photographs(workplace, [0])
    (workplace / "file").touch()
    outcome = Outcome("fundusgrade predict eye00.png --csv file/out.csv")
    assert outcome.code == 1
    assert "Error: cannot write file/out.csv" in outcome.stderr


def test_an_unknown_model_is_answered_with_those_there_are(workplace: Path) -> None:
    install_model("cnn-a")
    install_model("cnn-b")
    save_photographs(workplace, [0])
    for command in ("predict eye00.png --model cnn-c", "explain eye00.png --model cnn-c"):
        outcome = Outcome(f"fundusgrade {command}")
        assert (outcome.code, outcome.stdout) == (1, "")
        assert "Error: no model 'cnn-c'" in outcome.stderr
        assert "cnn-a, cnn-b" in outcome.stderr
        assert "fundusgrade train" in outcome.stderr


def interrupted_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    grade_all = Grader.grade_all

    def stop(self: Grader, photographs: object) -> Iterator[object]:
        results = grade_all(self, photographs)  # type: ignore[arg-type]
        for _ in range(count):
            yield next(results)
        raise KeyboardInterrupt

    monkeypatch.setattr(Grader, "grade_all", stop)


def test_interrupted_predict_says_where_its_rows_are(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_model()
    save_photographs(workplace / "images", range(4))
    interrupted_after(2, monkeypatch)
    outcome = Outcome("fundusgrade predict images --csv out.csv")
    assert outcome.code == 130
    assert "The rows written so far (2) are in out.csv.partial." in outcome.stderr
    assert "Interrupted." in outcome.stderr
    assert len(rows_of((workplace / "out.csv.partial").read_text())) == 2
    assert not (workplace / "out.csv").exists()
    to_stdout = Outcome("fundusgrade predict images")
    assert (to_stdout.code, len(rows_of(to_stdout.stdout))) == (130, 2)


def test_predict_goes_on_where_it_was_stopped(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_model()
    save_photographs(workplace / "images", range(12))
    assert Outcome("fundusgrade predict images --csv whole.csv").code == 0
    with monkeypatch.context() as patch:
        interrupted_after(10, patch)
        assert Outcome("fundusgrade predict images --csv out.csv").code == 130
    again = Outcome("fundusgrade predict images --csv out.csv")
    assert (again.code, "--resume to go on with it or --overwrite" in again.stderr) == (1, True)
    resumed = Outcome("fundusgrade predict images --csv out.csv --resume")
    assert (resumed.code, "going on after 8 rows" in resumed.stderr) == (0, True)
    assert "12 graded, 0 not in out.csv" in resumed.stderr
    assert (workplace / "out.csv").read_bytes() == (workplace / "whole.csv").read_bytes()
    finished = Outcome("fundusgrade predict images --csv out.csv --resume")
    assert (finished.code, "all rows are there already" in finished.stderr) == (0, True)
    assert Outcome("fundusgrade predict images --resume").code == 2


def test_parts_of_a_list_are_graded_by_several_processes_and_merged(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_model()
    paths = save_photographs(workplace / "images", range(7))
    (workplace / "images" / "broken.png").write_bytes(b"no picture")
    (workplace / "list.txt").write_text(
        "\ufeff" + "\r\n".join(f"images/{path.name}" for path in paths) + "\nimages/broken.png\n\n"
    )
    assert Outcome("fundusgrade predict --list list.txt --csv whole.csv").code == 3
    assert Outcome("fundusgrade predict --list list.txt --csv out.csv --shard 1/3").code == 0
    assert Outcome("fundusgrade merge --list list.txt --csv out.csv").code == 1
    assert Outcome("fundusgrade predict --list list.txt --csv out.csv --shard 2/3").code == 3
    for name, value in {"RANK": "2", "WORLD_SIZE": "3", "TORCHELASTIC_RUN_ID": "none"}.items():
        monkeypatch.setenv(name, value)
    assert Outcome("fundusgrade predict --list list.txt --csv out.csv").code == 0
    monkeypatch.setenv("RANK", "1")  # its photograph without a grade must not look like a crash to the launcher
    assert Outcome("fundusgrade predict --list list.txt --csv out.csv --resume").code == 0
    merged = Outcome("fundusgrade merge --list list.txt --csv out.csv")
    assert (merged.code, merged.stderr) == (3, "8 rows, 1 of them ungraded, in out.csv\n")
    assert (workplace / "out.csv").read_bytes() == (workplace / "whole.csv").read_bytes()
    for usage in ("predict images", "predict --shard 1/2 images", "predict"):
        assert Outcome(f"fundusgrade {usage}").code == 2, usage
    assert "no such file" in Outcome("fundusgrade predict --list gone.txt --csv o.csv").stderr.lower()


class Screen:
    """A terminal of which one can read what was written to it."""

    def __init__(self) -> None:
        self.master, slave = os.openpty()
        self.stream = open(slave, "w", encoding="utf-8")  # noqa: SIM115, PTH123  (closed in `text`)
        self.content = b""
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self) -> None:
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while part := os.read(self.master, 4096):
                self.content += part

    def text(self) -> str:
        self.stream.close()
        self.reader.join()
        os.close(self.master)
        return self.content.decode().replace("\r\n", "\n")


def test_predict_on_a_terminal_shows_rows_or_a_bar_but_not_both(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_model()
    save_photographs(workplace / "images", range(3))
    monkeypatch.setenv("TERM", "xterm")
    for words in (["predict", "images"], ["predict", "images", "--csv", "out.csv"]):
        screen = Screen()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", screen.stream)
            patch.setattr(sys, "stderr", screen.stream)
            assert not app(words, standalone_mode=False)
        text = screen.text()
        assert ("\x1b[" in text) == ("--csv" in words)
        if "--csv" not in words:
            first, second, *lines, last = text.splitlines(keepends=True)
            assert (
                first.startswith("model tiny; ") and "photographs at a time" in second and last == "3 graded, 0 not\n"
            )
            assert len(rows_of("".join(lines))) == 3


def test_rows_flow_past_a_bar(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`fundusgrade predict images > out.csv`, where only messages go to the terminal: each row is out at once."""
    install_model()
    save_photographs(workplace / "images", range(3))
    monkeypatch.setenv("TERM", "xterm")
    counts = []
    advance = Progress.update

    def count_rows(self: Progress, *arguments: Any, **named: Any) -> None:
        counts.append((workplace / "out.csv").read_bytes().count(b"\n"))
        advance(self, *arguments, **named)

    monkeypatch.setattr(Progress, "update", count_rows)
    screen = Screen()
    with (workplace / "out.csv").open("w") as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        patch.setattr(sys, "stderr", screen.stream)
        assert not app(["predict", "images"], standalone_mode=False)
    assert "\x1b[" in screen.text()
    assert counts == [2, 3, 4]
    assert len(rows_of((workplace / "out.csv").read_text())) == 3


# --- explain ----------------------------------------------------------------------------------------------------------


def test_explain_verbatim(workplace: Path) -> None:
    install_model()
    save_photographs(workplace, [1])[0].rename("eye.png")
    outcome = Outcome("fundusgrade explain eye.png --out heat.png")
    assert outcome.code == 0
    assert re.fullmatch(r"eye\.png: grade [0-4] .+, p = \d\.\d\d, referable \d\.\d\d \(tiny\)\n", outcome.stdout)
    assert outcome.stderr == "written: heat.png\n"
    assert min(read_image(workplace / "heat.png").shape[:2]) > 500
    assert sorted(path.name for path in workplace.iterdir()) == ["eye.png", "heat.png"]


def test_explain_makes_a_column_per_model(workplace: Path) -> None:
    for number in range(3):
        install_model(f"cnn-{number}", seed=number)
    save_photographs(workplace, [1])
    widths = []
    for count in (1, 3):
        chosen = " ".join(f"--model cnn-{number}" for number in range(count))
        outcome = Outcome(f"fundusgrade explain eye01.png {chosen} --out {count}.png")
        assert outcome.code == 0
        assert [f"(cnn-{number})" in outcome.stdout for number in range(3)] == [number < count for number in range(3)]
        assert outcome.stdout.count("\n") == count
        with Image.open(f"{count}.png") as figure:
            widths.append(figure.width)
    assert widths[1] - widths[0] > 2 * 600


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("predicted", None),
        ("referable", "referable"),
        ("0", "grade 0 No DR"),
        ("no_dr", "grade 0 No DR"),
        ("Severe", "grade 3 Severe"),
    ],
)
def test_explain_targets(target: str, expected: str | None, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fundusgrade.reports import explanation_pages

    drawn = []
    monkeypatch.setattr(explanation_pages, "draw_explanations", lambda rows, out, **named: drawn.extend(rows[0]))
    install_model()
    save_photographs(workplace, [1])
    assert Outcome(f"fundusgrade explain eye01.png --target {target}").code == 0
    predicted = drawn[0].prediction.grade
    assert drawn[0].target.name == (expected or f"grade {int(predicted)} {predicted.label}")


def test_explain_refuses_an_unknown_target_before_anything_else() -> None:
    outcome = Outcome("fundusgrade explain gone.png --target edema --model gone")
    assert outcome.code == 1
    assert "Error: cannot explain 'edema'" in outcome.stderr
    assert "predicted, referable, expected, a grade 0 to 4" in outcome.stderr


def test_explain_names_its_figure_after_the_photograph(workplace: Path) -> None:
    install_model()
    save_photographs(workplace / "images", [1])
    assert Outcome("fundusgrade explain images/eye01.png").code == 0
    assert (workplace / "eye01-explained.png").is_file()


def test_explain_draws_a_row_per_method(workplace: Path) -> None:
    install_model()
    save_photographs(workplace, [1])
    heights = []
    for words in ("", "--method auto --method grad-cam@fine"):
        assert Outcome(f"fundusgrade explain eye01.png {words} --out heat.png").code == 0
        with Image.open("heat.png") as figure:
            heights.append(figure.height)
    assert heights[1] > heights[0] + 600


def test_explain_saves_raw_maps(workplace: Path) -> None:
    install_model()
    save_photographs(workplace, [1])
    outcome = Outcome("fundusgrade explain eye01.png --arrays --target expected --out heat.png")
    assert outcome.code == 0
    assert "written: heat-tiny-integrated.npz" in outcome.stderr
    with np.load("heat-tiny-integrated.npz") as content:
        assert content["heat"].shape == (160, 160)
        assert str(content["target"]) == "expected"


def test_explain_makes_a_folder_with_an_index_and_goes_on(workplace: Path) -> None:
    install_model()
    save_photographs(workplace / "images" / "clinic", [1, 2])
    (workplace / "images" / "bad.png").write_bytes(b"")
    outcome = Outcome("fundusgrade explain images --out maps")
    assert outcome.code == 3
    assert outcome.stdout.count("(tiny)\n") == 2
    assert "not explained: images/bad.png: the file is empty" in outcome.stderr
    assert "written: maps/index.html" in outcome.stderr
    files = sorted(path.relative_to("maps").as_posix() for path in Path("maps").rglob("*") if path.is_file())
    assert files == ["clinic/eye01-explained.jpg", "clinic/eye02-explained.jpg", "index.html"]
    page = Path("maps/index.html").read_text()
    assert page.count("<img ") == 2 and "the file is empty" in page
    assert "fundusgrade" in page


def test_a_mask_that_does_not_fit_does_not_end_the_run(workplace: Path) -> None:
    install_model()
    save_photographs(workplace / "images", [1, 2])
    (workplace / "masks").mkdir()
    Image.fromarray(np.zeros((20, 20), np.uint8)).resize((40, 40)).save("masks/eye01_HE.png")
    outcome = Outcome("fundusgrade explain images --out maps --masks masks")
    assert outcome.code == 3
    assert "eye01_HE.png has 40 x 40 pixels, its photograph 160 x 160" in outcome.stderr
    assert Path("maps/eye02-explained.jpg").is_file()


def test_several_photographs_need_a_folder(workplace: Path) -> None:
    install_model()
    save_photographs(workplace / "images", [1, 2])
    outcome = Outcome("fundusgrade explain images --out heat.png")
    assert outcome.code == 1
    assert "--out heat.png: several photographs need a folder" in outcome.stderr


def test_one_photograph_is_explained_alike_alone_and_in_a_folder(workplace: Path) -> None:
    install_model()
    save_photographs(workplace / "images", [1])
    assert Outcome("fundusgrade explain images --arrays --out maps").code == 0
    assert Outcome("fundusgrade explain images/eye01.png --arrays --out one.png").code == 0
    with np.load("maps/eye01-explained-tiny-integrated.npz") as one, np.load("one-tiny-integrated.npz") as other:
        assert np.array_equal(one["heat"], other["heat"])


def test_explain_scores_its_maps(workplace: Path) -> None:
    install_model()
    save_photographs(workplace, [1])
    outcome = Outcome("fundusgrade explain eye01.png --score --method grad-cam --target referable")
    assert outcome.code == 0
    for word in ("perturbation", "concentration", "randomization", "stability", "│ random ", "center", "ROAD"):
        assert word in outcome.stdout


@pytest.mark.parametrize("option", ["--method gradcam", "--method integrated@fine"])
def test_explain_refuses_an_unknown_method_before_anything_else(option: str) -> None:
    outcome = Outcome(f"fundusgrade explain gone.png {option} --model gone")
    assert outcome.code == 1
    assert "Error: cannot explain by" in outcome.stderr


def test_faithfulness_of_a_folder_of_lesions(workplace: Path) -> None:
    install_model()
    (path,) = save_photographs(workplace / "idrid" / "images", [1])
    (workplace / "idrid" / "masks").mkdir()
    mask = np.zeros((160, 160), np.uint8)
    mask[60:80, 60:80] = 255
    Image.fromarray(mask).save(workplace / "idrid" / "masks" / f"{path.stem}_HE.png")
    outcome = Outcome("fundusgrade faithfulness --lesions idrid --method grad-cam --target referable --out study")
    assert outcome.code == 0, outcome.stderr
    assert "lesions: idrid, evidence for referable" in outcome.stdout
    assert "haemorrhages: idrid" in outcome.stdout
    assert "idrid-lesions.png" in outcome.stderr
    outcome = Outcome("fundusgrade faithfulness gone --lesions nowhere")
    assert "no photographs with lesion masks in nowhere" in outcome.stderr


def test_faithfulness_of_a_data_set(workplace: Path) -> None:
    install_model()
    dataset = install_dataset("drawn")
    with photographs_of(dataset):
        outcome = Outcome(
            "fundusgrade faithfulness drawn --target referable --method grad-cam --limit 1 --split all --out study"
        )
    assert outcome.code == 0, outcome.stderr
    assert "written: study/faithfulness.json" in outcome.stderr
    assert "concentration: drawn, all, evidence for referable" in outcome.stdout
    content = json.loads((workplace / "study" / "faithfulness.json").read_text())
    assert content["studies"][0]["num_photographs"] == len(dataset.graded_rows())


def test_faithfulness_needs_something_to_test_on() -> None:
    outcome = Outcome("fundusgrade faithfulness")
    assert outcome.code == 1
    assert "nothing to test on: name a data set, or a folder with lesion masks by --lesions" in outcome.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone.png"], "Error: gone.png: the file does not exist"),
        (["[red]gone.png"], "Error: [red]gone.png: the file does not exist"),
        (["eye01.png", "--out", "heat.gif"], "unknown image suffix '.gif'"),
        (["eye01.png", "--out", "missing/heat.png"], "the folder missing does not exist"),
    ],
)
def test_explain_says_what_was_wrong(words: list[str], message: str, workplace: Path) -> None:
    install_model()
    save_photographs(workplace, [1])
    outcome = Outcome(["explain", *words])
    assert outcome.code == 1
    assert message in outcome.stderr


# --- data sets and evaluation -----------------------------------------------------------------------------------------


@pytest.fixture
def labeled(workplace: Path) -> Path:
    save_labeled_photographs(workplace / "labeled")
    return workplace / "labeled"


def test_preprocess_then_train_then_evaluate(labeled: Path, home: Path) -> None:
    """The five commands of a beginner, on a data set of 20 drawn eyes."""
    made = Outcome("fundusgrade preprocess labeled --size 64 --workers 1")
    assert made.code == 0
    assert "data set labeled: 20 of 20 photographs prepared" in made.stdout
    trained = Outcome("fundusgrade train --arch cnn --epochs 1 --batch-size 4 --device cpu --precision float32")
    assert trained.code == 0, trained.stderr
    assert "best epoch 1: validation kappa" in trained.stdout
    assert "device: cpu, float32: as asked" in trained.stderr
    assert sorted(path.name for path in (home / "models" / "labeled-cnn").iterdir()) == sorted(store.MODEL_FILES)
    evaluated = Outcome("fundusgrade evaluate --model labeled-cnn --device cpu --precision float32")
    assert evaluated.code == 0
    assert "quadratic weighted kappa" in evaluated.stdout


def test_preprocess_ends_with_a_code_of_its_own_where_photographs_failed(labeled: Path) -> None:
    (labeled / "3" / "broken.png").write_bytes(b"")
    outcome = Outcome("fundusgrade preprocess labeled --size 64 --workers 1")
    assert outcome.code == 3
    assert "20 of 21 photographs prepared" in outcome.stdout
    assert "not prepared, 1: the file is empty" in outcome.stdout


def test_preprocess_names_what_it_cannot_find() -> None:
    outcome = Outcome("fundusgrade preprocess nowhere")
    assert outcome.code == 1
    assert "nowhere" in outcome.stderr


@pytest.mark.parametrize("options", ["", " --overwrite", " --resume"])
def test_train_on_a_missing_gpu_is_refused_before_anything_is_fetched_or_lost(
    options: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*arguments: object, **options: object) -> None:
        raise AssertionError("weights were fetched")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(timm, "create_model", fetch)
    install_dataset("drawn")
    if options:
        (home / "runs" / "drawn-vit").mkdir(parents=True)
        (home / "runs" / "drawn-vit" / "state.safetensors").write_bytes(b"hours of work")
    before = sorted(home.rglob("*"))
    outcome = Outcome("fundusgrade train --arch vit --device cuda" + options)
    assert (outcome.code, outcome.stdout) == (1, "")
    assert "Error: --device cuda: this machine has none that PyTorch" in outcome.stderr
    assert "use --device auto or --device cpu, or install a PyTorch built for your GPU" in outcome.stderr
    assert sorted(home.rglob("*")) == before


@pytest.mark.parametrize("command", ["predict eye00.png", "explain eye00.png", "evaluate"])
def test_every_command_refuses_a_missing_gpu(command: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    install_model()
    install_dataset("drawn")
    save_photographs(workplace, [0])
    outcome = Outcome(f"fundusgrade {command} --device cuda")
    assert (outcome.code, outcome.stdout) == (1, "")
    assert "Error: --device cuda: this machine has none" in outcome.stderr


@pytest.mark.parametrize("command", ["evaluate", "train --arch cnn"])
def test_the_data_set_must_be_plain(command: str) -> None:
    install_model()
    none = Outcome(f"fundusgrade {command}")
    assert none.code == 1
    assert "no data set in the store" in none.stderr
    assert "`fundusgrade preprocess FOLDER`" in none.stderr
    install_dataset("aptos")
    install_dataset("eyepacs")
    several = Outcome(f"fundusgrade {command}")
    assert several.code == 1
    assert "several data sets are in the store; choose one with --data: aptos, eyepacs" in several.stderr
    unknown = Outcome(f"fundusgrade {command} --data idrid")
    assert unknown.code == 1
    assert "no data set 'idrid'" in unknown.stderr
    assert "aptos, eyepacs" in unknown.stderr


def test_evaluate_shows_a_table_and_writes_files(workplace: Path) -> None:
    install_dataset("drawn")
    names = ["cnn-a", "cnn-b"]
    for seed, name in enumerate(names):
        install_model(name, seed=seed)
    arithmetic = "--device cpu --precision float32"
    outcome = Outcome(f"fundusgrade evaluate --model cnn-a --model cnn-b --split all --out results {arithmetic}")
    assert outcome.code == 0
    dataset = load_dataset(store.resolve_dataset("drawn"))
    graders = [Grader.load(name, device=DeviceName.CPU, precision=Precision.FLOAT32) for name in names]
    rows = dataset.graded_rows("all")
    grades = [int(row.grade) for row in rows if row.grade is not None]
    expected = [evaluate_predictions(grades, predict_rows(grader, dataset, rows)) for grader in graders]
    written = json.loads((workplace / "results" / "evaluation.json").read_text())
    assert (written["data"], written["part"]) == ("drawn", "all")
    assert [model["model"] for model in written["models"]] == names
    assert [model["evaluation"]["kappa"] for model in written["models"]] == [each.kappa for each in expected]
    assert [model["evaluation"]["num_photographs"] for model in written["models"]] == [20, 20]
    assert [(pair["first"], pair["second"]) for pair in written["comparisons"]] == [("cnn-a", "cnn-b")]
    row = next(line for line in outcome.stdout.splitlines() if "quadratic weighted kappa" in line)
    assert [f"{each.kappa:.3f}" in row for each in expected] == [True, True]
    assert "cnn-a" in outcome.stdout and "cnn-b" in outcome.stdout
    assert read_image(workplace / "results" / "confusion.png").shape[0] > 500
    assert "results/evaluation.json, results/confusion.png" in outcome.stderr


def test_folds_are_trained_pooled_compared_and_reported(labeled: Path, home: Path) -> None:
    """Cross-validation as its guide tells it, on 20 drawn eyes."""
    assert Outcome("fundusgrade preprocess labeled --size 64 --workers 1").code == 0
    arithmetic = "--device cpu --precision float32"
    train = f"fundusgrade train --arch cnn --epochs 1 --batch-size 4 {arithmetic} --name"
    for name, options in (("own", "--folds 3"), ("reference", "--folds 3 --recipe reference")):
        trained = Outcome(f"{train} {name} {options}")
        assert trained.code == 0, trained.stderr
        assert "out of fold: 20 photographs, kappa" in trained.stdout
    evaluated = Outcome(
        "fundusgrade evaluate --predictions own --predictions reference --by quality --report out/report.html "
        f"--images 2 --draws 100 --out out {arithmetic}"
    )
    assert evaluated.code == 0, evaluated.stderr
    assert "own - reference" in evaluated.stdout
    assert "each image was graded by one of 3 networks, trained without it" in evaluated.stderr
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert RESEARCH_USE in page and page.count("data:image/jpeg") >= 1
    assert page.count("How training went") == 2 and "own-fold3" in page
    written = json.loads(Path("out/evaluation.json").read_text())
    assert [model["evaluation"]["num_photographs"] for model in written["models"]] == [20, 20]


def test_predictions_of_joined_data_sets_are_scored_by_origin_and_reported(labeled: Path, home: Path) -> None:
    arithmetic = "--device cpu --precision float32"
    for name in ("north", "south"):
        assert Outcome(f"fundusgrade preprocess labeled --size 64 --workers 1 --name {name}").code == 0
    trained = Outcome(
        "fundusgrade train --arch cnn --epochs 1 --batch-size 4 --data north --data south --folds 2 --name both "
        + arithmetic
    )
    assert trained.code == 0, trained.stderr
    evaluated = Outcome(
        "fundusgrade evaluate --predictions both --by origin --report out/report.html --images 1 --draws 100 --out out"
    )
    assert evaluated.code == 0, evaluated.stderr
    groups = json.loads(Path("out/evaluation.json").read_text())["models"][0]["subgroups"]
    assert [(group["value"], group["num_photographs"]) for group in groups] == [("north", 20), ("south", 20)]
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 2, "an error, and its evidence on the photograph of its own data set"
    audited = Outcome("fundusgrade evaluate --predictions both --audit")
    assert audited.code == 1 and "is a combination of data sets; audit each separately" in audited.stderr


def test_photographs_seen_in_training_are_refused_unless_allowed(labeled: Path) -> None:
    assert Outcome("fundusgrade preprocess labeled --size 64 --workers 1").code == 0
    assert Outcome("fundusgrade train --arch cnn --epochs 1 --batch-size 4 --device cpu --name seeing").code == 0
    refused = Outcome("fundusgrade evaluate --model seeing --split train --device cpu")
    assert (refused.code, refused.stdout) == (1, "")
    assert "were used to train or select the model" in refused.stderr and "--allow-leakage" in refused.stderr
    allowed = Outcome("fundusgrade evaluate --model seeing --split train --device cpu --allow-leakage")
    assert allowed.code == 0
    assert "scores are inflated" in allowed.stderr
    assert Outcome("fundusgrade evaluate --model seeing --split train --device cpu --allow-leakage --out out").code == 0
    assert "scores are inflated" in json.loads(Path("out/evaluation.json").read_text())["seen"]["seeing"]
    again = Outcome("fundusgrade evaluate --predictions out/predictions-seeing.csv")
    assert again.code == 0 and "scores are inflated" in again.stderr, "predictions in a file keep the warning"


def test_predict_with_coverage_adds_ranges_that_hold_the_grade(labeled: Path, workplace: Path) -> None:
    assert Outcome("fundusgrade preprocess labeled --size 64 --workers 1").code == 0
    assert Outcome("fundusgrade train --arch cnn --epochs 1 --batch-size 4 --device cpu --name ranged").code == 0
    predict = "fundusgrade predict labeled --model ranged --device cpu --csv out.csv --coverage"
    both = Outcome(f"{predict} 0.9 --tta")
    assert both.code == 1 and "leave out either --coverage or --tta" in both.stderr
    assert Outcome(f"{predict} 0.9").code == 0
    header, *rows = list(csv.reader(io.StringIO((workplace / "out.csv").read_text())))
    assert header == [*COLUMNS, "grade_low", "grade_high"]
    for row in rows:
        low, high = int(row[-2]), int(row[-1])
        assert 0 <= low <= int(row[1]) <= high <= 4


def test_a_model_without_conformity_gives_no_ranges(workplace: Path) -> None:
    install_model()
    save_photographs(workplace / "images", [0])
    outcome = Outcome("fundusgrade predict images --coverage 0.9")
    assert (outcome.code, outcome.stdout) == (1, "")
    assert "--coverage" in outcome.stderr


def test_evaluate_uses_the_test_split_and_the_default_model(workplace: Path) -> None:
    dataset = install_dataset("drawn")
    install_model()
    outcome = Outcome("fundusgrade evaluate --out .")
    assert outcome.code == 0
    (model,) = json.loads((workplace / "evaluation.json").read_text())["models"]
    count = model["evaluation"]["num_photographs"]
    assert (model["model"], count) == ("tiny", len(dataset.graded_rows("test")))


def test_audit_of_data_and_model_shows_tables_a_sentence_and_writes_files(workplace: Path) -> None:
    save_labeled_photographs(workplace / "eyes", 60)
    assert Outcome("fundusgrade preprocess eyes --method natural --size 64").code == 0
    install_model()
    alone = Outcome("fundusgrade audit eyes")
    assert alone.code == 0
    assert "color and sharpness" in alone.stdout and "Without any retina" in alone.stdout
    outcome = Outcome("fundusgrade audit eyes --model tiny --limit 4 --out found --device cpu --precision float32")
    assert outcome.code == 0
    assert "cut above and below" in outcome.stdout and "was not measured" in outcome.stdout
    written = json.loads((workplace / "found" / "audit.json").read_text())
    assert (written["data"], written["model"]) == ("eyes", "tiny")
    assert [probe["num_photographs"] for probe in written["probes"]] == [60] * 5
    assert written["conclusion"] in outcome.stdout.replace("\n", " ")
    assert read_image(workplace / "found" / "audit.png").shape[0] > 300
    evaluated = Outcome("fundusgrade evaluate --model tiny --audit --out scores --device cpu --precision float32")
    assert evaluated.code == 0
    assert (workplace / "scores" / "audit-tiny" / "audit.json").is_file()


def test_require_gradable_withholds_what_is_in_doubt(workplace: Path) -> None:
    install_model()
    save_photographs(workplace / "images", [0])
    sharp = read_image(workplace / "images" / "eye00.png")
    blurred = cv2.GaussianBlur(sharp, (0, 0), 6)
    write_image(workplace / "images" / "blurred.png", np.asarray(blurred, np.uint8))
    told = Outcome("fundusgrade predict images --csv out.csv")
    assert told.code == 0
    assert "1 of those graded are of doubtful quality" in told.stderr
    doubted, good = rows_of((workplace / "out.csv").read_text())
    assert (doubted["gradable"], doubted["quality_reasons"]) == ("no", "out of focus or veiled")
    assert (good["gradable"], good["quality_reasons"]) == ("yes", "")
    assert doubted["grade"] != ""
    withheld = Outcome("fundusgrade predict images --csv out.csv --require-gradable")
    assert withheld.code == 3
    doubted, good = rows_of((workplace / "out.csv").read_text())
    assert (doubted["grade"], doubted["gradable"]) == ("", "no")
    assert doubted["error"] == "not gradable: out of focus or veiled"
    assert good["grade"] != ""


def test_evaluate_refuses_images_prepared_otherwise() -> None:
    install_dataset("drawn", size_px=48)
    install_model()
    outcome = Outcome("fundusgrade evaluate")
    assert (outcome.code, outcome.stdout) == (1, "")
    assert "`fundusgrade preprocess FOLDER --name NAME --method natural --outline band --size 64`" in outcome.stderr


def test_lists_of_an_empty_store_say_how_to_fill_it() -> None:
    models, datasets = Outcome("fundusgrade models"), Outcome("fundusgrade datasets")
    assert (models.code, datasets.code) == (0, 0)
    assert "no model yet; train one with `fundusgrade train`" in models.stderr
    assert "no data set yet; make one with `fundusgrade preprocess FOLDER`" in datasets.stderr


def test_lists_tell_models_and_data_sets_apart(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = workplace / "shipped" / "aptos-cnn"
    install_model("aptos-cnn", kappa=None).parent.rename(shipped.parent.mkdir() or shipped)
    monkeypatch.setattr(store, "shipped_weights", lambda: shipped.parent)
    install_model("tiny", kappa=0.875)
    dataset = install_dataset("drawn")
    models = Outcome("fundusgrade models").stdout
    mine = next(line for line in models.splitlines() if "tiny" in line)
    theirs = next(line for line in models.splitlines() if "aptos-cnn" in line)
    assert all(word in mine for word in ("(default)", "cnn", "0.875", "2024-05-06T07:08:09+00:00", "store"))
    assert all(word in theirs for word in ("undefined", "shipped")) and "(default)" not in theirs
    (stored,) = [model for model in store.list_models() if not model.shipped]
    assert stored.hash[:12] in mine and len(stored.hash) == 64
    row = next(line for line in Outcome("fundusgrade datasets").stdout.splitlines() if "drawn" in line)
    assert "20" in row and dataset.hash[:12] in row


# --- the process ------------------------------------------------------------------------------------------------------


def test_python_m_answers() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fundusgrade", "--version"], capture_output=True, text=True, check=True, timeout=120
    )
    assert (done.stdout, done.stderr) == (f"fundusgrade {__version__}\n", "")


STOPPED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
from fundusgrade.commands.app import main

def run(*words):
    sys.argv = ["fundusgrade", "predict", "--model", sys.argv[sys.argv.index("--model") + 1], *words]
    try:
        main()
    except SystemExit as error:
        return error.code

print(run("empty"), file=sys.stderr, flush=True)
sys.exit(run("photographs", "--csv", "out.csv"))
"""


def test_a_reader_who_has_enough_and_control_c_end_predict_cleanly(workplace: Path) -> None:
    """`fundusgrade predict empty | head -1`, then Ctrl-C; one process for both, as importing PyTorch takes seconds."""
    model = install_model()
    source = save_photographs(workplace, [0])[0]
    for folder in ("empty", "photographs"):
        (workplace / folder).mkdir()
    for number in range(2000):  # more rows than a pipe holds
        (workplace / "empty" / f"{number:04d}.png").touch()
    for number in range(1500):
        os.link(source, workplace / "photographs" / f"{number:04d}.png")
    words = [sys.executable, "-c", STOPPED, "--model", str(model)]
    with subprocess.Popen(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().strip().split(",") == COLUMNS
        process.stdout.close()
        assert re.fullmatch(r"model tiny; .*\n", process.stderr.readline())
        assert "photographs at a time" in process.stderr.readline()
        assert process.stderr.readline() == "1\n"  # and not a word about the pipe
        partial = workplace / "out.csv.partial"
        deadline = time.monotonic() + 120
        while not (partial.is_file() and partial.read_bytes().count(b"\n") > 20):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        messages = process.stderr.read()
    assert process.returncode == 130
    rows = rows_of(partial.read_text())
    assert 20 <= len(rows) < 1500
    named = re.fullmatch(
        r"model tiny; .*\n.*at a time.*\nThe rows written so far \((\d+)\) are in out\.csv\.partial\. Give --resume to "
        r"go on\.\nInterrupted\.\n",
        messages,
    )
    assert named and int(named[1]) in (len(rows), len(rows) - 1)  # stopped before or after a row was counted
    assert not (workplace / "out.csv").exists()
