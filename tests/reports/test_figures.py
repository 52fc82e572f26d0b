"""Figures show what was scored, trained and explained, and leave no trace in the process."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fundusgrade.errors import MetricsError, StoreError
from fundusgrade.metrics.classification import evaluate_predictions
from fundusgrade.reports.figures import ModelEvaluation, draw_confusion_matrices
from fundusgrade.training.history import EpochRecord, draw_training_curves

GENERATOR = np.random.default_rng(0)
EVALUATIONS = [
    ModelEvaluation(
        model="cnn",
        evaluation=evaluate_predictions(GENERATOR.integers(0, 5, 60), GENERATOR.dirichlet(np.ones(5), 60)),
    ),
    ModelEvaluation(model="vit $x_[bold]", evaluation=evaluate_predictions([0, 0], [[1.0, 0, 0, 0, 0]] * 2)),
]


def curve(num_epochs: int) -> list[EpochRecord]:
    return [
        EpochRecord(
            validation_accuracy=0.5,
            seconds=1.0,
            images_per_second=10.0,
            epoch=epoch,
            train_loss=1 / epoch,
            validation_loss=1.2 / epoch,
            validation_kappa=None if epoch == 2 else 0.8 - 0.5 / epoch,
            learning_rate=1e-4,
        )
        for epoch in range(1, num_epochs + 1)
    ]


def assert_figure(path: Path, *, width: int, height: int) -> None:
    with Image.open(path) as image:
        assert (image.format, image.size) == ("PNG", (width, height))
        assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        assert len(np.unique(np.asarray(image.convert("L")))) > 20
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("num_models", "width", "height"), [(1, 870, 765), (2, 1410, 765), (5, 2490, 1500)])
def test_confusion_matrices_are_drawn_side_by_side(tmp_path: Path, num_models: int, width: int, height: int) -> None:
    draw_confusion_matrices((EVALUATIONS * 3)[:num_models], tmp_path / "matrices.png")
    assert_figure(tmp_path / "matrices.png", width=width, height=height)


@pytest.mark.parametrize("num_epochs", [1, 3])
def test_training_curves_are_drawn(tmp_path: Path, num_epochs: int) -> None:
    draw_training_curves(curve(num_epochs), num_epochs, tmp_path / "curves.png")
    assert_figure(tmp_path / "curves.png", width=1350, height=600)


def test_figures_refuse_to_be_empty_or_lost(tmp_path: Path) -> None:
    with pytest.raises(MetricsError, match="no evaluation"):
        draw_confusion_matrices([], tmp_path / "matrices.png")
    with pytest.raises(MetricsError, match="no epoch"):
        draw_training_curves([], 1, tmp_path / "curves.png")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot write"):
        draw_training_curves(curve(1), 1, tmp_path / "file" / "curves.png")


def test_drawing_leaves_matplotlib_as_it_was(tmp_path: Path) -> None:
    """In a process of its own: whether pyplot and torch are imported is a property of the process."""
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from types import SimpleNamespace
        from fundusgrade.training.history import draw_training_curves
        assert "matplotlib" not in sys.modules and "torch" not in sys.modules
        import matplotlib
        before = matplotlib.rcParams.copy()  # reading the backend as dict() does would itself import pyplot
        point = SimpleNamespace(
            epoch=1, train_loss=1.0, validation_loss=1.0, validation_kappa=0.5, learning_rate=0.1
        )
        draw_training_curves([point], 1, Path(sys.argv[1]))
        assert matplotlib.rcParams.copy() == before
        assert "matplotlib.pyplot" not in sys.modules and "torch" not in sys.modules
        """
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "curves.png")], check=True)
