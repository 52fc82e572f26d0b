"""Options of a training run: defaults of recipe and architecture, and ranges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.errors import TrainingError
from fundusgrade.options import DecideFor, Decision, Recipe
from fundusgrade.training.loop import train
from fundusgrade.training.options import TrainOptions
from tests.training.short_runs import FLOAT32, QUICK, Quiet


@pytest.mark.parametrize(
    ("arch", "epochs", "layer_decay"), [("cnn", 40, 1.0), ("resnet50", 12, 1.0), ("vit_small_patch14_dinov2", 12, 0.75)]
)
def test_options_not_given_are_the_architecture_s(arch: str, epochs: int, layer_decay: float) -> None:
    filled = TrainOptions(arch=arch).filled()
    assert (filled.epochs, filled.layer_decay) == (epochs, layer_decay)
    assert None not in (filled.learning_rate, filled.patience)
    given = TrainOptions(arch=arch, epochs=2, learning_rate=0.5, layer_decay=0.9, patience=3)
    names = ("epochs", "learning_rate", "layer_decay", "patience")
    assert [getattr(given.filled(), name) for name in names] == [2, 0.5, 0.9, 3]
    assert given.filled().filled() == given.filled()


def test_an_objective_implies_thresholds_and_thresholds_are_balanced_by_default() -> None:
    for given, expected in (
        (TrainOptions(), (Decision.MOST_PROBABLE, None)),
        (TrainOptions(decision=Decision.THRESHOLDS), (Decision.THRESHOLDS, DecideFor.BALANCED)),
        (TrainOptions(decide_for=DecideFor.MACRO_F1), (Decision.THRESHOLDS, DecideFor.MACRO_F1)),
        (
            TrainOptions(decision=Decision.THRESHOLDS, decide_for=DecideFor.KAPPA),
            (Decision.THRESHOLDS, DecideFor.KAPPA),
        ),
    ):
        filled = given.filled()
        filled.check()
        assert (filled.decision, filled.decide_for) == expected
        assert filled.filled() == filled


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 1}, "batch size must be at least 2"),
        ({"ema_decay": 1.0}, r"must be in \[0, 1\)"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 2**70}, "seed must be"),
        ({"decide_for": DecideFor.KAPPA, "decision": Decision.MOST_PROBABLE}, "decided for kappa, .* most-probable"),
        ({"decide_for": DecideFor.KAPPA, "calibrate": False}, "fitted to calibrated probabilities"),
        ({"decide_for": DecideFor.ACCURACY, "recipe": Recipe.REFERENCE}, "fitted to calibrated probabilities"),
    ],
)
def test_options_that_cannot_be_trained_with(
    tmp_path: Path, toy: PreparedDataset, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        train(toy, replace(QUICK, **change), FLOAT32, tmp_path, observer=Quiet())
