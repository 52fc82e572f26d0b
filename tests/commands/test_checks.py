"""`checks`: what is installed, and a self-test that can fail."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import fundusgrade
from fundusgrade import store
from fundusgrade.errors import SelfTestError
from fundusgrade.evaluation.self_test import draw_eye, self_test
from fundusgrade.grades import Prediction
from fundusgrade.grading.grader import Grader
from fundusgrade.options import DeviceName, Precision
from fundusgrade.reports.installation import EXTRAS
from tests.command_line import Outcome
from tests.models_for_tests import install_dataset, install_model


def test_checks_names_versions_device_memory_store_and_extras_and_tests_itself(home: Path) -> None:
    install_model()
    install_dataset("drawn")
    (home / "runs" / "killed").mkdir(parents=True)
    outcome = Outcome("fundusgrade checks --device cpu --precision float32")
    assert outcome.code == 0
    values = dict(line.split(": ", 1) for line in outcome.stdout.splitlines())
    assert values["fundusgrade"].startswith(fundusgrade.__version__)
    assert "torch " in values["libraries"] and "missing" not in values["libraries"]
    assert values["device"].startswith("cpu, float32")
    assert "GB" in values["memory"]
    assert f"{store.home()}: 1 models, 1 data sets, 1 unfinished trainings (killed)" in values["store"]
    assert all(name in values["extras"] for name in EXTRAS)
    assert values["self-test"].startswith("passed in ") and "graded by tiny" in values["self-test"]


def test_extras_are_those_of_the_package() -> None:
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    listed = pyproject["project"]["optional-dependencies"]
    packages = {
        extra: {re.split(r">=|\[", name)[0] for name in names if not name.startswith("fundusgrade")}
        for extra, names in listed.items()
        if extra not in ("dev", "docs")
    }
    assert packages == {extra: set(names) for extra, names in EXTRAS.items()}


def test_the_self_test_fails_where_the_network_gives_no_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    install_model()
    grader = Grader.load("tiny", device=DeviceName.CPU, precision=Precision.FLOAT32)
    wrong = Prediction(image="eye", model="tiny", probabilities=(0.9, 0.9, 0.0, 0.0, 0.0))
    monkeypatch.setattr(Grader, "grade_all", lambda self, paths: iter([wrong] * len(list(paths))))
    with pytest.raises(SelfTestError, match=r"self-test failed: tiny gives no probabilities"):
        self_test(grader)


def test_a_failing_self_test_ends_with_an_error() -> None:
    outcome = Outcome("fundusgrade checks")
    assert outcome.code == 1
    assert "no model 'tiny'" in outcome.stderr
    assert "store: " in outcome.stdout, "what is installed is shown all the same"


def test_two_drawn_eyes_differ() -> None:
    assert draw_eye(0).shape == (640, 640, 3)
    assert (draw_eye(0) != draw_eye(1)).any()
