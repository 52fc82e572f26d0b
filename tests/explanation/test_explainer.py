"""Explanations of photographs: exact places, tiles, several models, and files."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from fundusgrade.errors import DatasetError, ExplanationError, NoRetinaError
from fundusgrade.explanation.explainer import explain, explain_photograph
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.explanation.targets import REFERABLE, parse_target
from fundusgrade.grading.grader import Grader
from fundusgrade.networks.checkpoint import load_checkpoint, save_checkpoint
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.options import Attribution, Precision
from fundusgrade.photographs.images import read_image
from fundusgrade.photographs.recipe import Method, PreprocessRecipe
from fundusgrade.photographs.sources import FoundImage
from fundusgrade.reports.explanation_pages import (
    IndexEntry,
    draw_figure,
    entry_of,
    figure_names,
    index_html,
    write_arrays,
)
from tests.drawn_eyes import DrawnEye, LesionMasks, cut, darken, off_center, plain_retina, squash
from tests.models_for_tests import install_model, save_photographs

CPU = DeviceChoice(device=torch.device("cpu"), precision=Precision.FLOAT32, reason="exact")
SEVERE = ExplainOptions(target=parse_target("severe"))
GRAD_CAM = replace(SEVERE, method=Attribution.GRAD_CAM)


def watch_for_white_spots(network: GradingNetwork) -> None:
    """Weights by which the small CNN votes for severe disease where white is brighter than anything a retina shows."""
    backbone: Any = network.backbone
    with torch.no_grad():
        for module in backbone.features:
            if isinstance(module, torch.nn.Conv2d):
                module.weight.zero_()
                # Its first channel passes the middle of the window on; the first layer takes blue, which is dark else.
                module.weight[0, 2 if module.in_channels == 3 else 0, 2, 2] = 1.0
            elif isinstance(module, torch.nn.BatchNorm2d):
                module.reset_running_stats()
        backbone.features[1].bias[0] = -0.8
        backbone.classifier.weight.zero_()
        backbone.classifier.bias.zero_()
        backbone.classifier.weight[3, 0] = 50.0


@pytest.fixture
def watcher() -> Grader:
    path = install_model("watcher")
    checkpoint = load_checkpoint(path)
    watch_for_white_spots(checkpoint.network)
    recipe = PreprocessRecipe(method=Method.NATURAL, size_px=224)
    spec = replace(checkpoint.network.spec, size_px=224)
    network = GradingNetwork(spec, checkpoint.network.backbone)
    save_checkpoint(path, network, replace(checkpoint.description, network=spec, recipe=recipe))
    return Grader(load_checkpoint(path), CPU)


def eye_with_one_lesion(x: float, y: float) -> DrawnEye:
    """A retina with one white spot, its place in radii from the disc's center."""
    eye = plain_retina(700, seed=1)
    radius = eye.disc.radius_x
    spot = np.zeros((700, 700), np.uint8)
    center = (round(eye.disc.center_x + x * radius), round(eye.disc.center_y + y * radius))
    cv2.circle(spot, center, round(0.05 * radius), 1, -1)
    photograph = eye.photograph.copy()
    photograph[spot > 0] = 250
    none = np.zeros((700, 700), np.bool_)
    masks = LesionMasks(microaneurysms=none, haemorrhages=none, exudates=spot > 0)
    return replace(eye, photograph=photograph, masks=masks)


VIEWS = {
    "whole": lambda eye: eye,
    "cut": lambda eye: cut(eye, top=0.12, bottom=0.2),
    "cut aside": lambda eye: cut(eye, left=0.1, right=0.05),
    "squashed": lambda eye: squash(eye, width_px=480, height_px=640),
    "stretched": lambda eye: squash(eye, width_px=900, height_px=600),
    "off-center": lambda eye: off_center(eye, width_px=1200, height_px=800, dx_px=170, dy_px=-30),
    "dark, cut, squashed and off-center": lambda eye: off_center(
        squash(cut(darken(eye, 0.97), top=0.1, bottom=0.12), width_px=500, height_px=520),
        width_px=900,
        height_px=640,
        dx_px=-120,
    ),
}


@pytest.mark.parametrize("place", [(0.4, -0.2), (-0.3, 0.45), (0.7, 0.3)])
@pytest.mark.parametrize("options", [SEVERE, GRAD_CAM, replace(SEVERE, tiles=2)], ids=["default", "grad-cam", "tiles"])
@pytest.mark.parametrize("view", list(VIEWS))
def test_the_peak_lies_in_the_lesion_on_the_photograph(
    view: str, options: ExplainOptions, place: tuple[float, float], watcher: Grader, tmp_path: Path
) -> None:
    """However the photograph was cut, squashed or moved, for a network made to look at that lesion."""
    eye = VIEWS[view](eye_with_one_lesion(*place))
    Image.fromarray(eye.photograph).save(tmp_path / "eye.png")
    explanation = explain(watcher, tmp_path / "eye.png", options)
    assert explanation.heat.shape == eye.photograph.shape[:2]
    y, x = np.unravel_index(int(explanation.heat.argmax()), explanation.heat.shape)
    assert explanation.heat.max() > 0
    outline = cv2.dilate(eye.masks.exudates.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert outline[y, x], f"peak at {x}, {y}"


def test_tiles_see_more_than_the_whole(watcher: Grader, tmp_path: Path) -> None:
    """A spot too small for the picture at its usual size is found in the larger one."""
    eye = plain_retina(1400, seed=2)
    eye.photograph[600:606, 800:806] = 250
    Image.fromarray(eye.photograph).save(tmp_path / "eye.png")
    whole = explain(watcher, tmp_path / "eye.png", SEVERE)
    tiled = explain(watcher, tmp_path / "eye.png", replace(SEVERE, tiles=3))
    assert tiled.heat_map.values.shape == (672, 672) and whole.heat_map.values.shape == (224, 224)
    assert tiled.prepared.image.shape == (672, 672, 3)
    assert tiled.heat.max() > 9 * whole.heat.max()  # a thousandth of a part is a ninth of one of the whole
    y, x = np.unravel_index(int(tiled.heat.argmax()), tiled.heat.shape)
    assert np.hypot(x - 802.5, y - 602.5) < 6
    assert tiled.options.describe() == "integrated, 3 x 3 tiles"


def test_models_and_methods_make_a_grid_that_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fundusgrade.explanation import explainer

    graders = [Grader(load_checkpoint(install_model(f"cnn-{seed}", seed=seed)), CPU) for seed in range(2)]
    (path,) = save_photographs(tmp_path, [1])
    opened: list[Path] = []
    genuine = explainer.open_photograph
    monkeypatch.setattr(
        explainer, "open_photograph", lambda path, *a, **k: opened.append(path) or genuine(path, *a, **k)
    )
    grid = explain_photograph(path, graders, [ExplainOptions(target=REFERABLE), replace(GRAD_CAM, target=REFERABLE)])
    assert opened == [path]
    assert [[each.prediction.model for each in row] for row in grid] == [["cnn-0", "cnn-1"]] * 2
    assert [row[0].options.method for row in grid] == [Attribution.INTEGRATED, Attribution.GRAD_CAM]
    for row in grid:
        for grader, each in zip(graders, row, strict=True):
            alone = explain(grader, path, each.options)
            assert np.array_equal(alone.heat, each.heat)
            assert alone.prediction == each.prediction


def test_a_method_that_does_not_fit_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    grader = Grader(load_checkpoint(install_model("cnn-a")), CPU)
    with pytest.raises(ExplanationError, match=r"--method rollout does not fit cnn-a \(cnn\)"):
        explain_photograph(tmp_path / "gone.png", [grader], [ExplainOptions(method=Attribution.ROLLOUT)])


def test_what_shows_no_retina_is_named(tmp_path: Path) -> None:
    grader = Grader(load_checkpoint(install_model()), CPU)
    Image.fromarray(np.zeros((200, 200, 3), np.uint8)).save(tmp_path / "black.png")
    with pytest.raises(NoRetinaError, match=r"black\.png: no retina"):
        explain_photograph(tmp_path / "black.png", [grader], [SEVERE])


# --- files ------------------------------------------------------------------------------------------------------------


def test_raw_maps_lie_on_the_photographs_pixels(watcher: Grader, tmp_path: Path) -> None:
    Image.fromarray(eye_with_one_lesion(0.2, 0.1).photograph).save(tmp_path / "eye.png")
    grid = explain_photograph(tmp_path / "eye.png", [watcher], [SEVERE, replace(GRAD_CAM, tiles=2)])
    written = write_arrays(grid, tmp_path / "out" / "eye")
    assert [path.name for path in written] == [
        "eye-watcher-integrated.npz",
        "eye-watcher-grad-cam-2x2tiles.npz",
    ]
    with np.load(written[0]) as content:
        assert np.array_equal(content["heat"], grid[0][0].heat)
        assert content["heat"].shape == (700, 700)
        assert (str(content["model"]), str(content["method"])) == ("watcher", "integrated")
        assert (str(content["target"]), float(content["score"])) == ("grade 3 Severe", grid[0][0].heat_map.score)
        assert str(content["unit"]) == "evidence (logits per 0.1 % of picture)"


def test_lesions_are_drawn_where_a_folder_holds_their_masks(watcher: Grader, tmp_path: Path) -> None:
    eye = eye_with_one_lesion(0.2, 0.1)
    Image.fromarray(eye.photograph).save(tmp_path / "eye.png")
    (tmp_path / "masks").mkdir()
    Image.fromarray(eye.masks.exudates.astype(np.uint8) * 255).save(tmp_path / "masks" / "eye_EX.png")
    grid = explain_photograph(tmp_path / "eye.png", [watcher], [SEVERE])
    draw_figure(grid, tmp_path / "with.png", tmp_path / "masks")
    draw_figure(grid, tmp_path / "without.png", None)
    purple = (read_image(tmp_path / "with.png") == (204, 121, 167)).all(axis=2).sum()
    assert purple > 100
    assert not (read_image(tmp_path / "without.png") == (204, 121, 167)).all(axis=2).any()
    Image.fromarray(np.zeros((70, 70), np.uint8)).save(tmp_path / "masks" / "eye_EX.png")
    with pytest.raises(DatasetError, match="70 x 70 pixels, its photograph 700 x 700"):
        draw_figure(grid, tmp_path / "with.png", tmp_path / "masks")


def test_no_figure_replaces_another() -> None:
    def found(*names: str) -> list[FoundImage]:
        return [FoundImage(path=Path(name), name=name) for name in names]

    assert figure_names(found("in/eye.png")) == ["eye-explained.jpg"]
    assert figure_names(found("in/a/eye.png", "in/b/eye.png")) == ["a/eye-explained.jpg", "b/eye-explained.jpg"]
    assert figure_names(found("in/eye.png", "in/eye.jpg", "in/other.png")) == [
        "eye.png-explained.jpg",
        "eye.jpg-explained.jpg",
        "other-explained.jpg",
    ]


def test_the_index_page_shows_figures_and_reasons(tmp_path: Path) -> None:
    grader = Grader(load_checkpoint(install_model()), CPU)
    (path,) = save_photographs(tmp_path, [1])
    entries = [
        entry_of("<eye> #1.png", "a b/<eye> #1-explained.jpg", explain_photograph(path, [grader], [SEVERE])),
        IndexEntry(name="bad.png", reason="bad.png: <empty>"),
    ]
    page = index_html(entries, title="Explanations of 2 photographs", command="fundusgrade explain 'a b'")
    assert '<img src="a b/&lt;eye&gt; %231-explained.jpg"' in page
    assert IndexEntry(name="", figure="javascript:1.jpg").link == "javascript%3A1.jpg", "a path, not a program"
    assert re.search(r"grade \d .*\(tiny\)", page)
    assert "bad.png: &lt;empty&gt;" in page and "<eye>" not in page
    assert "explained: 1; not explained: 1" in page
    assert "Research software, not a medical device." in page
    assert "http" not in page.replace("http-equiv", "")
