"""Explanations of photographs: exact places, several models and methods, and what cannot be explained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fundusgrade.errors import ExplanationError, NoRetinaError
from fundusgrade.explanation.explainer import explain, explain_photograph
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.explanation.targets import REFERABLE, parse_target
from fundusgrade.grading.grader import Grader
from fundusgrade.networks.checkpoint import load_checkpoint
from fundusgrade.networks.torch_runtime import on_pytorch
from fundusgrade.options import Attribution
from tests.drawn_eyes import cut, darken, off_center, squash
from tests.models_for_tests import install_model, save_photographs
from tests.white_spots import CPU, eye_with_white_spot, white_spot_grader

SEVERE = ExplainOptions(target=parse_target("severe"))
GRAD_CAM = replace(SEVERE, method=Attribution.GRAD_CAM)

VIEWS = {
    "whole": lambda eye: eye,
    "cut": lambda eye: cut(eye, top=0.12, bottom=0.2),
    "cut at the sides": lambda eye: cut(eye, left=0.1, right=0.05),
    "squashed": lambda eye: squash(eye, width_px=290, height_px=385),
    "stretched": lambda eye: squash(eye, width_px=540, height_px=360),
    "off-center": lambda eye: off_center(eye, width_px=720, height_px=480, dx_px=100, dy_px=-18),
    "dark, cut, squashed and off-center": lambda eye: off_center(
        squash(cut(darken(eye, 0.97), top=0.1, bottom=0.12), width_px=300, height_px=312),
        width_px=540,
        height_px=385,
        dx_px=-72,
    ),
}


@pytest.mark.parametrize("place", [(0.4, -0.2), (-0.3, 0.45), (0.7, 0.3)])
@pytest.mark.parametrize("view", list(VIEWS))
def test_the_peak_lies_in_the_lesion_on_the_photograph(view: str, place: tuple[float, float], tmp_path: Path) -> None:
    """However the photograph was cut, squashed or moved, for a network whose score depends on that lesion."""
    eye = VIEWS[view](eye_with_white_spot(*place))
    Image.fromarray(eye.photograph).save(tmp_path / "eye.png")
    lesion = cv2.dilate(eye.masks.exudates.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    for (explanation,) in explain_photograph(tmp_path / "eye.png", [white_spot_grader()], [SEVERE, GRAD_CAM]):
        assert explanation.heat.shape == eye.photograph.shape[:2]
        assert explanation.heat.max() > 0
        y, x = np.unravel_index(int(explanation.heat.argmax()), explanation.heat.shape)
        assert lesion[y, x], f"{explanation.options.describe()}: peak at {x}, {y}"


def test_models_and_methods_make_a_grid_that_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fundusgrade.explanation import explainer

    graders = [Grader(on_pytorch(load_checkpoint(install_model(f"cnn-{seed}", seed=seed)), CPU)) for seed in range(2)]
    (path,) = save_photographs(tmp_path, [1])
    opened: list[Path] = []
    genuine = explainer.open_photograph
    monkeypatch.setattr(
        explainer, "open_photograph", lambda path, *a, **k: opened.append(path) or genuine(path, *a, **k)
    )
    grid = explain_photograph(path, graders, [ExplainOptions(target=REFERABLE), replace(GRAD_CAM, target=REFERABLE)])
    assert opened == [path]
    assert [[each.prediction.model for each in row] for row in grid] == [["cnn-0", "cnn-1"]] * 2
    assert [row[0].options.method for row in grid] == [Attribution.INTEGRATED_GRADIENTS, Attribution.GRAD_CAM]
    for row in grid:
        for grader, each in zip(graders, row, strict=True):
            alone = explain(grader, path, each.options)
            assert np.array_equal(alone.heat, each.heat)
            assert alone.prediction == each.prediction


def test_a_method_that_does_not_fit_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    grader = Grader(on_pytorch(load_checkpoint(install_model("cnn-a")), CPU))
    with pytest.raises(ExplanationError, match=r"--method attention-rollout does not fit cnn-a \(cnn\)"):
        explain_photograph(tmp_path / "gone.png", [grader], [ExplainOptions(method=Attribution.ATTENTION_ROLLOUT)])


def test_what_shows_no_retina_is_named(tmp_path: Path) -> None:
    grader = Grader(on_pytorch(load_checkpoint(install_model()), CPU))
    Image.fromarray(np.zeros((200, 200, 3), np.uint8)).save(tmp_path / "black.png")
    with pytest.raises(NoRetinaError, match=r"black\.png: no retina"):
        explain_photograph(tmp_path / "black.png", [grader], [SEVERE])
