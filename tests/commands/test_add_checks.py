"""`add-checks` from labeled photographs to flags in the rows of `predict`."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from fundusgrade import store
from fundusgrade.networks.checkpoint import load_checkpoint
from fundusgrade.store import resolve_model
from fundusgrade.training import feature_checks
from tests.command_line import TRAIN, Outcome, rows_of
from tests.models_for_tests import install_model


def test_checks_need_the_photographs_of_their_labels(workplace: Path) -> None:
    install_model()
    (workplace / "labels.csv").write_text("image,quality\n")
    outcome = Outcome("fundusgrade add-checks tiny --quality labels.csv")
    assert outcome.code == 2 and "--quality and --photographs belong together" in " ".join(outcome.stderr.split())


def test_other_data_than_the_model_was_trained_with_are_refused(labeled: Path, workplace: Path) -> None:
    install_model()
    Outcome(f"fundusgrade preprocess {labeled} --name other --size 64 --method natural")
    outcome = Outcome("fundusgrade add-checks tiny --data other")
    assert outcome.code == 1 and "is not the one that 'tiny' was trained with" in " ".join(outcome.stderr.split())
    assert load_checkpoint(resolve_model("tiny")).checks is None


def test_a_model_without_checks_says_that_it_flags_nothing(workplace: Path) -> None:
    install_model()
    outcome = Outcome("fundusgrade predict nothing.png --csv out.csv")
    assert "tiny: no feature checks are stored with it" in outcome.stderr
    assert [row["warnings"] for row in rows_of((workplace / "out.csv").read_text())] == [""]


def test_checks_are_fitted_to_the_training_data_and_written_into_the_model(
    labeled: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_checks, "_FEWEST", 5)
    monkeypatch.setattr(store, "DEFAULT_MODEL", "trained")
    assert Outcome(f"fundusgrade preprocess {labeled} --name drawn --size 64 --method natural").code == 0
    assert Outcome([*TRAIN, "--data", "drawn", "--name", "trained"]).code == 0
    paths = sorted(labeled.rglob("*.png"))
    with (workplace / "labels.csv").open("w", newline="") as file:
        labels = ("good", "reject", "usable", "")
        csv.writer(file).writerows(
            [["image", "quality"], *([path.name, labels[i % 4]] for i, path in enumerate(paths))]
        )
    before = load_checkpoint(resolve_model("trained"))
    outcome = Outcome(f"fundusgrade add-checks trained --quality labels.csv --photographs {labeled}")
    assert outcome.code == 0, outcome.stderr
    after = load_checkpoint(resolve_model("trained"))
    assert after.checks is not None and after.checks.quality is not None and after.description.checks is not None
    added, rates = after.description.checks, after.description.checks.quality
    assert f"{added.num_reference} of drawn" in outcome.stdout and f"of {rates[2].num_photographs}" in outcome.stdout
    assert added.num_reference > added.num_held_out >= 5
    assert [rate.label for rate in rates] == ["good", "usable", "reject"]
    assert sum(rate.num_photographs for rate in rates) == 15
    for name, tensor in before.network.state_dict().items():
        assert torch.equal(tensor, after.network.state_dict()[name])
    assert Outcome(f"fundusgrade predict {labeled} --csv out.csv").code == 0
    distances = [float(row["training_distance"]) for row in rows_of((workplace / "out.csv").read_text())]
    assert len(distances) == 20 and all(0 < distance < np.inf for distance in distances)
