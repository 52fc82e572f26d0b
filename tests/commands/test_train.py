"""`train`: from a prepared data set to an installed model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import typer.main

from fundusgrade import files, store
from fundusgrade.commands.app import app
from fundusgrade.data.manifest import write_manifest
from fundusgrade.training.loop import TrainResult
from fundusgrade.training.options import TrainOptions
from tests.command_line import Outcome
from tests.models_for_tests import install_dataset
from tests.prepared import prepared_dataset
from tests.worker_for_tests import always_learned


def test_preprocess_then_train_then_evaluate(labeled: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of a beginner, on a data set of 20 drawn eyes, whose arbitrary grades nothing can learn."""
    made = Outcome("fundusgrade preprocess labeled --size 64 --workers 1")
    assert made.code == 0
    assert "data set labeled: 20 of 20 photographs prepared" in made.stdout
    words = "fundusgrade train --arch cnn --epochs 1 --batch-size 4 --device cpu --precision float32"
    monkeypatch.setattr(TrainResult, "has_learned", property(lambda result: False))
    refused = Outcome(words)
    assert refused.code == 1
    assert "this model has learned nothing" in refused.stderr and "--ema-decay 0" in refused.stderr
    assert not (home / "models").exists()
    monkeypatch.setattr(TrainResult, "has_learned", always_learned())
    trained = Outcome(words)
    assert trained.code == 0, trained.stderr
    assert "best epoch 1: validation kappa" in trained.stdout
    assert "device: cpu, float32: as requested" in trained.stderr
    assert sorted(path.name for path in (home / "models" / "labeled-cnn").iterdir()) == sorted(store.MODEL_FILES)
    evaluated = Outcome("fundusgrade evaluate --model labeled-cnn --device cpu --precision float32")
    assert evaluated.code == 0
    assert "quadratic weighted kappa" in evaluated.stdout


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


def test_help_names_the_defaults_that_depend_on_the_architecture() -> None:
    described = {parameter.name: parameter.help for parameter in typer.main.get_command(app).commands["train"].params}  # type: ignore[attr-defined]
    common, cnn, vit = (TrainOptions(arch=arch).filled() for arch in ("resnet50", "cnn", "vit"))
    assert f"(default: {common.epochs}; {cnn.epochs} for cnn)" in described["epochs"]
    assert f"(default: {common.patience}; {cnn.patience} for cnn)" in described["patience"]
    rates = [f"{each.learning_rate:.0e}".replace("e-0", "e-") for each in (common, vit, cnn)]
    text = f"(default: {rates[0]}; {rates[1]} for vision transformers, {rates[2]} for cnn)"
    assert text in described["learning_rate"]
    assert (
        f"(default: {vit.layer_decay} for vision transformers, else {common.layer_decay:.0f})"
        in described["layer_decay"]
    )
    assert cnn.layer_decay == common.layer_decay and (vit.epochs, vit.patience) == (common.epochs, common.patience)
    for name in ("head", "class_weights", "decision"):
        assert getattr(common, name).value in described[name].partition("(default: ")[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--folds-by source --folds 2", "one fold for each --data; leave --folds out"),
        ("--fold south", "--fold south: expected a number"),
        ("--folds-by source --fold 0", "--fold 0: folds count from 1"),
        ("--decide-for kappa --decision most-probable", "--decide-for kappa is an objective of thresholds"),
    ],
)
def test_options_that_contradict_one_another_are_usage_errors(options: str, message: str) -> None:
    outcome = Outcome(f"fundusgrade train --data north --data south {options}")
    assert (outcome.code, outcome.stdout) == (2, "")
    assert message in " ".join(outcome.stderr.replace("│", " ").split())


def test_one_command_holds_out_each_data_set_and_the_next_scores_them(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TrainResult, "has_learned", always_learned())
    for seed, name in enumerate(("north", "south")):
        dataset = prepared_dataset(home / "datasets" / name, num_train=15, num_validation=10, seed=seed)
        rows = [replace(row, sha256=files.hash_text(f"{name} {row.source}")) for row in dataset.rows]
        write_manifest(dataset.directory, rows)
    words = "fundusgrade train --arch cnn --epochs 1 --batch-size 8 --device cpu --precision float32"
    trained = Outcome(f"{words} --data north --data south --name away --folds-by source")
    assert trained.code == 0, trained.stderr
    assert "out of fold: 50 photographs" in trained.stdout
    evaluated = Outcome("fundusgrade evaluate --predictions away --resamples 100 --report report.html --verbose")
    assert evaluated.code == 0, evaluated.stderr
    assert "away: each data set" in evaluated.stdout and "away: decision rules" in evaluated.stdout
    page = Path("report.html").read_text(encoding="utf-8")
    assert "<caption>away: each data set</caption>" in page and "<caption>away: decision rules</caption>" in page
