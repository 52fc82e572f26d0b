"""The figure of the worst validation photographs shows those that are furthest from their grade, with both grades."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from fundusgrade import store
from fundusgrade.metrics.classification import order_of_errors
from fundusgrade.networks.checkpoint import load_checkpoint
from fundusgrade.networks.inference import predict_probabilities
from fundusgrade.networks.tensors import LabeledImages
from fundusgrade.photographs.images import read_image
from fundusgrade.training import loop, worst_photographs
from fundusgrade.training.decision import GradedOutputs
from fundusgrade.training.worst_photographs import NUM_SHOWN, WORST_FILE, draw_worst_photographs
from tests.prepared import prepared_dataset
from tests.scored import draw_photographs
from tests.training.short_runs import FLOAT32, UNFITTED, Quiet


def drawn(count: int) -> tuple[LabeledImages, GradedOutputs]:
    photographs = draw_photographs(count, 0, skill=0.8)
    pixels = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 3, 16, 16).contiguous()
    images = LabeledImages(stored=pixels, grades=torch.from_numpy(photographs.grades), fill=0)
    return images, GradedOutputs(probabilities=photographs.probabilities, predicted=photographs.predicted)


def test_errors_are_ordered_by_distance_then_by_how_little_the_true_grade_was_expected() -> None:
    grades, predicted = np.array([0, 0, 0, 4, 2]), np.array([1, 0, 4, 0, 1])
    table = np.full((5, 5), 0.2)
    table[3, 4], table[2, 0], table[0, 0], table[4, 2] = 0.01, 0.02, 0.3, 0.1
    assert order_of_errors(grades, predicted, table).tolist() == [3, 2, 4, 0]
    assert order_of_errors(grades, grades, table).tolist() == []


def test_each_panel_shows_a_photograph_under_its_name_and_both_its_grades(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Figure] = []
    monkeypatch.setattr(worst_photographs, "save_figure", lambda figure, _: kept.append(figure))
    images, graded = drawn(100)
    grades = np.asarray(images.grades.numpy())
    draw_worst_photographs(images, [f"{i}.png" for i in range(100)], graded, Path("worst.png"))
    worst = order_of_errors(grades, graded.predicted, graded.probabilities)
    shown = [panel for panel in kept[0].axes if panel.get_images()]
    assert len(shown) == NUM_SHOWN < len(worst)
    for panel, position in zip(shown, worst.tolist(), strict=False):
        name, graders, model = panel.get_title().splitlines()
        assert name == f"{position}.png"
        assert graders.startswith(f"graders: {grades[position]} ")
        assert graders.endswith(f"(p = {graded.probabilities[position, grades[position]]:.2f})")
        assert model.startswith(f"model: {graded.predicted[position]} ")
        assert (np.asarray(panel.get_images()[0].get_array()) == position).all(), "its own picture"
    number = int((graded.predicted != grades).sum())
    assert kept[0].get_suptitle().startswith(f"{number} of 100 validation photographs are graded wrongly")


def test_a_split_without_errors_has_a_figure_that_says_so(tmp_path: Path) -> None:
    images, graded = drawn(20)
    right = GradedOutputs(probabilities=graded.probabilities, predicted=np.asarray(images.grades.numpy()))
    draw_worst_photographs(images, ["a"] * 20, right, tmp_path / "worst.png")
    assert read_image(tmp_path / "worst.png").shape[0] > 100


def test_a_run_draws_the_photographs_as_its_model_grades_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = prepared_dataset(tmp_path / "toy")
    kept: list[GradedOutputs] = []
    draw = worst_photographs.draw_worst_photographs

    def keep(images: LabeledImages, sources: list[str], graded: GradedOutputs, path: Path) -> None:
        kept.append(graded)
        draw(images, sources, graded, path)

    monkeypatch.setattr(loop, "draw_worst_photographs", keep)
    run = tmp_path / "run"
    loop.train(dataset, UNFITTED, FLOAT32, run, observer=Quiet())
    assert (run / WORST_FILE).is_file() and WORST_FILE in store.MODEL_FILES
    network = load_checkpoint(run / store.MODEL_FILE).network
    images = loop.load_splits(dataset, UNFITTED.filled(), FLOAT32, rows=network.spec.rows)[1]
    assert np.allclose(kept[0].probabilities, predict_probabilities(network, images.pixels, FLOAT32), atol=1e-5)
