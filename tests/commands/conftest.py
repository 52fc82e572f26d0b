"""Fixtures of all commands' tests: an empty folder to work in, and a labeled folder in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fundusgrade import store
from fundusgrade.training.loop import TrainResult
from tests.models_for_tests import save_labeled_photographs
from tests.worker_for_tests import always_learned


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder, no shipped models (`shipped` is where they would be), and one processor thread."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "shipped_weights", lambda: tmp_path / "shipped")
    monkeypatch.setattr(store, "DEFAULT_MODEL", "tiny")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(before)


@pytest.fixture
def labeled(workplace: Path) -> Path:
    """A folder per grade with 20 drawn eyes."""
    save_labeled_photographs(workplace / "labeled")
    return workplace / "labeled"


@pytest.fixture(autouse=True)
def _short_runs_have_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a few steps on drawn eyes raise kappa above 0 depends on rounding: no test of a command does."""
    monkeypatch.setattr(TrainResult, "has_learned", always_learned())
