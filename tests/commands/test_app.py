"""The application: its commands and options, help, usage errors, and errors that all commands share."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main

from fundusgrade import __version__
from fundusgrade.commands.app import app
from fundusgrade.grades import RESEARCH_USE
from tests.command_line import Outcome
from tests.models_for_tests import install_dataset, install_model, save_photographs

GENERAL = {"--config", "--verbose", "-v", "--quiet", "-q"}
"""Options of every command."""
OPTIONS = {
    "preprocess": {
        *("--name", "--method", "--outline", "--size", "--labels", "--grades", "--seed", "--workers", "--overwrite"),
        "--strict",
        *("--image-column", "--grade-column", "--patient-column", "--eye-column", "--site-column"),
    },
    "train": {
        *("--arch", "--data", "--name", "--device", "--precision", "--init-weights", "--pretrained", "--no-pretrained"),
        *("--recipe", "--head", "--loss", "--class-weights", "--decision", "--calibrate", "--no-calibrate"),
        *("--epochs", "--batch-size", "--learning-rate", "--layer-decay", "--patience", "--seed"),
        *("--mixup", "--degrade", "--ema-decay", "--folds", "--folds-by", "--fold", "--tta", "--resume", "--overwrite"),
        *("--compile", "--tensorboard", "--decide-for", "--progressive", "--teacher", "--teacher-weight"),
    },
    "refit": {"--on", "--name", "--data", "--decision", "--decide-for", "--overwrite", "--device", "--precision"},
    "add-checks": {"--data", "--quality", "--photographs", "--device", "--precision"},
    "calibrate": {
        *("--data", "--name", "--sensitivity", "--confidence", "--camera", "--grades", "--overwrite"),
        *("--device", "--precision", "--labels"),
    },
    "evaluate": {
        *("--model", "--predictions", "--data", "--split", "--common", "--subgroup", "--out", "--report", "--images"),
        *("--audit", "--coverage", "--tta", "--allow-leakage", "--resamples", "--device", "--precision"),
        *("--sensitivity", "--threshold", "--overwrite", "--labels", "--prevalence"),
    },
    "compare": {"--out", "--overwrite"},
    "audit": {"--model", "--split", "--limit", "--lesions", "--out", "--overwrite", "--device", "--precision"},
    "predict": {
        *("--csv", "--out", "--list", "--model", "--device", "--precision", "--runtime", "--batch-size", "--workers"),
        *("--require-gradable", "--tta", "--coverage", "--sensitivity", "--threshold"),
        *("--by-patient", "--patients", "--patient-pattern", "--fields", "--shard", "--resume", "--overwrite"),
        *("--report", "--sample", "--sample-seed", "--engine", "--address"),
    },
    "merge": {
        *("--csv", "--out", "--list", "--by-patient", "--patients", "--patient-pattern", "--fields", "--overwrite"),
        *("--report", "--sample", "--sample-seed"),
    },
    "explain": {
        *("--out", "--model", "--target", "--method", "--masks", "--arrays", "--faithfulness", "--scale"),
        *("--coverage", "--resume", "--overwrite", "--workers", "--device", "--precision"),
        *("--patients", "--patient-pattern"),
    },
    "faithfulness": {
        *("--model", "--target", "--method", "--split", "--fold", "--limit", "--lesions", "--out", "--allow-leakage"),
        *("--overwrite", "--device", "--precision"),
    },
    "export": {
        *("--format", "--int8", "--data", "--split", "--limit", "--check", "--no-check", "--out", "--overwrite"),
    },
    "models list": set(),
    "models show": set(),
    "models rename": set(),
    "models remove": {"--yes", "-y"},
    "models import": {"--name", "--overwrite"},
    "models export": {"--out", "--overwrite"},
    "models path": set(),
    "datasets list": set(),
    "datasets show": set(),
    "datasets rename": set(),
    "datasets remove": {"--yes", "-y"},
    "datasets import": {"--name", "--overwrite"},
    "datasets export": {"--out", "--overwrite"},
    "datasets path": set(),
    "checks": {"--model", "--device", "--precision"},
}


def options_of(command: typer.core.TyperCommand) -> set[str]:
    names = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return {name for name in names if name.startswith("-")}


def all_commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """All commands with their names, such as "models export"; groups themselves are left out."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from all_commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def test_commands_and_their_options_are_those_listed_here() -> None:
    """A change of these words breaks somebody's script: change the list and the changelog with them."""
    assert {name: options_of(command) for name, command in all_commands(typer.main.get_command(app))} == {
        name: options | GENERAL for name, options in OPTIONS.items()
    }


@pytest.mark.parametrize("command", list(OPTIONS))
def test_help_names_every_option(command: str) -> None:
    outcome = Outcome([*command.split(), "--help"])
    assert outcome.code == 0
    assert outcome.stderr == ""
    for option in OPTIONS[command] | GENERAL | {"--help", "-h"}:
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", outcome.stdout), option


@pytest.mark.parametrize("command", list(OPTIONS))
def test_every_option_is_explained_in_sentences_with_its_default(command: str) -> None:
    """A default that is a value is shown by Typer; others are part of the sentence."""
    for parameter in dict(all_commands(typer.main.get_command(app)))[command].params:
        explanation = parameter.help
        assert explanation and explanation[0].isupper() and explanation.endswith("."), parameter.name
        if parameter.default is None and not parameter.required and parameter.param_type_name == "option":
            assert "(default: " in explanation, parameter.name


def test_help_names_every_command_and_the_limits() -> None:
    outcome = Outcome("fundusgrade --help")
    assert outcome.code == 0
    assert all(re.search(rf"\b{command.split()[0]}\b", outcome.stdout) for command in OPTIONS)
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
def test_wrong_options_are_a_usage_error(command: str) -> None:
    outcome = Outcome(command)
    assert outcome.code == 2
    assert "Usage:" in outcome.stderr + outcome.stdout


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
def test_the_data_set_must_be_unambiguous(command: str) -> None:
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


def test_python_m_answers() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fundusgrade", "--version"], capture_output=True, text=True, check=True, timeout=120
    )
    assert (done.stdout, done.stderr) == (f"fundusgrade {__version__}\n", "")
