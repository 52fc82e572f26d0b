"""`evaluate`: models, stored predictions, subgroups, leakage, reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fundusgrade import store
from fundusgrade.data.dataset import load_dataset
from fundusgrade.evaluation import candidates
from fundusgrade.grades import RESEARCH_USE
from fundusgrade.grading.datasets import predict_rows
from fundusgrade.grading.grader import Grader
from fundusgrade.metrics.classification import evaluate_predictions
from fundusgrade.options import DeviceName, Precision
from fundusgrade.photographs.images import read_image
from fundusgrade.photographs.recipe import Method
from tests.command_line import Outcome
from tests.models_for_tests import install_dataset, install_model


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
        "fundusgrade evaluate --predictions own --predictions reference --subgroup quality --report out/report.html "
        f"--images 2 --resamples 100 --out out {arithmetic}"
    )
    assert evaluated.code == 0, evaluated.stderr
    assert "own - reference" in evaluated.stdout
    assert "each image was graded by one of 3 networks, trained without it" in evaluated.stderr
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert RESEARCH_USE in page and page.count("data:image/jpeg") >= 1
    assert page.count("Learning curve") == 2 and "own-fold3" in page
    written = json.loads(Path("out/evaluation.json").read_text())
    assert [model["evaluation"]["num_photographs"] for model in written["models"]] == [20, 20]


def test_predictions_of_combined_data_sets_are_scored_by_origin_and_reported(labeled: Path, home: Path) -> None:
    arithmetic = "--device cpu --precision float32"
    for name in ("north", "south"):
        assert Outcome(f"fundusgrade preprocess labeled --size 64 --workers 1 --name {name}").code == 0
    trained = Outcome(
        "fundusgrade train --arch cnn --epochs 1 --batch-size 4 --data north --data south --folds 2 --name both "
        + arithmetic
    )
    assert trained.code == 0, trained.stderr
    evaluated = Outcome(
        "fundusgrade evaluate --predictions both --subgroup origin --report out/report.html --images 1 "
        "--resamples 100 --out out"
    )
    assert evaluated.code == 0, evaluated.stderr
    groups = json.loads(Path("out/evaluation.json").read_text())["models"][0]["subgroups"]
    assert [(group["value"], group["num_photographs"]) for group in groups] == [("north", 20), ("south", 20)]
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 2, "an error, and its evidence on the photograph of its own data set"
    audited = Outcome("fundusgrade evaluate --predictions both --audit")
    assert audited.code == 1 and "is a combination of data sets; audit each separately" in audited.stderr


def test_photographs_of_the_training_are_refused_unless_leakage_is_allowed() -> None:
    install_dataset("drawn")
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


def test_evaluate_uses_the_test_split_and_the_default_model(workplace: Path) -> None:
    dataset = install_dataset("drawn")
    install_model()
    outcome = Outcome("fundusgrade evaluate --out .")
    assert outcome.code == 0
    (model,) = json.loads((workplace / "evaluation.json").read_text())["models"]
    count = model["evaluation"]["num_photographs"]
    assert (model["model"], count) == ("tiny", len(dataset.graded_rows("test")))


def test_evaluate_refuses_images_of_another_preprocessing() -> None:
    install_dataset("drawn", size_px=48)
    install_model()
    outcome = Outcome("fundusgrade evaluate")
    assert (outcome.code, outcome.stdout) == (1, "")
    assert "`fundusgrade preprocess FOLDER --name NAME --method natural --outline band --size 64`" in outcome.stderr


def test_what_is_wrong_with_any_model_is_said_before_the_first_one_grades(monkeypatch: pytest.MonkeyPatch) -> None:
    install_model("good")
    install_model("other-recipe", method=Method.CLAHE)
    install_dataset("drawn")
    monkeypatch.setattr(candidates, "predict_dataset", lambda *_: pytest.fail("a model graded"))
    for words, reason in (
        ("--model good --model other-recipe", "the model 'other-recipe' needs"),
        ("--model good --model good", "models are identified by name"),
        ("--model good --subgroup wing", "the manifest has no such column"),
    ):
        outcome = Outcome(f"fundusgrade evaluate {words} --data drawn")
        assert outcome.code == 1
        assert reason in outcome.stderr


def test_a_model_is_shown_in_ten_lines_and_all_scores_where_they_are_asked_for(workplace: Path) -> None:
    install_dataset("drawn")
    for seed, name in enumerate(("cnn-a", "cnn-b")):
        install_model(name, seed=seed)
    words = "fundusgrade evaluate --model cnn-a --model cnn-b --split all --resamples 100"
    short, full = Outcome(words), Outcome(f"{words} --verbose")
    assert (short.code, full.code) == (0, 0)
    rows = [line for line in short.stdout.splitlines() if line.strip() and "─" not in line]
    header, *scores = rows[: next(n for n, line in enumerate(rows) if "first - second" in line)]
    assert header.split()[-2:] == ["cnn-a", "cnn-b"]
    assert len(scores) == 10
    assert "cnn-a - cnn-b" in rows[-1]
    assert "--verbose" in short.stderr and "--verbose" not in full.stderr
    for name in ("photographs", "quadratic weighted kappa", "accuracy"):
        (of_summary,) = [line.split()[-6:] for line in scores if line.strip().startswith(name)][:1]
        of_all = [line for line in full.stdout.splitlines() if name in line]
        assert any(all(value in line for value in of_summary[-2:]) for line in of_all), name
    assert "precision, Mild" in full.stdout and "precision, Mild" not in short.stdout
