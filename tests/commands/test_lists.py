"""`models` and `datasets`."""

from __future__ import annotations

from pathlib import Path

import pytest

from fundusgrade import store
from tests.command_line import Outcome
from tests.models_for_tests import install_dataset, install_model


def test_lists_of_an_empty_store_say_how_to_fill_it() -> None:
    models, datasets = Outcome("fundusgrade models"), Outcome("fundusgrade datasets")
    assert (models.code, datasets.code) == (0, 0)
    assert "no model yet; train one with `fundusgrade train`" in models.stderr
    assert "no data set yet; prepare one with `fundusgrade preprocess FOLDER`" in datasets.stderr


def test_lists_tell_models_and_data_sets_apart(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = workplace / "shipped" / "aptos-cnn"
    install_model("aptos-cnn", kappa=None).parent.rename(shipped.parent.mkdir() or shipped)
    monkeypatch.setattr(store, "shipped_weights", lambda: shipped.parent)
    install_model("tiny", kappa=0.875)
    dataset = install_dataset("drawn")
    models = Outcome("fundusgrade models").stdout
    mine = next(line for line in models.splitlines() if "tiny" in line)
    theirs = next(line for line in models.splitlines() if "aptos-cnn" in line)
    assert all(word in mine for word in ("(default)", "cnn", "0.875", "2024-05-06", "store"))
    assert all(word in theirs for word in ("undefined", "shipped")) and "(default)" not in theirs
    (stored,) = [model for model in store.list_models() if not model.shipped]
    assert stored.hash[:12] in mine and len(stored.hash) == 64
    row = next(line for line in Outcome("fundusgrade datasets").stdout.splitlines() if "drawn" in line)
    assert "20" in row and dataset.hash[:12] in row
