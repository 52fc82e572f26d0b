"""What explanations leave on disk: figures, raw maps, and an index page."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fundusgrade.errors import DatasetError
from fundusgrade.explanation.explainer import Explanations, explain_photograph
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.explanation.targets import parse_target
from fundusgrade.grading.grader import Grader
from fundusgrade.networks.checkpoint import load_checkpoint
from fundusgrade.networks.torch_runtime import on_pytorch
from fundusgrade.options import Attribution, Layer
from fundusgrade.photographs.images import read_image
from fundusgrade.photographs.sources import PhotographSource
from fundusgrade.reports.explanation_pages import (
    IndexEntry,
    draw_figure,
    entry_of,
    figure_names,
    index_html,
    write_arrays,
)
from tests.models_for_tests import install_model, save_photographs
from tests.white_spots import CPU, SIZE_PX, eye_with_white_spot, white_spot_grader

SEVERE = ExplainOptions(target=parse_target("severe"))
FINE_GRAD_CAM = replace(SEVERE, method=Attribution.GRAD_CAM, layer=Layer.FINE)


def explained_eye(folder: Path, *methods: ExplainOptions) -> Explanations:
    Image.fromarray(eye_with_white_spot(0.2, 0.1).photograph).save(folder / "eye.png")
    return explain_photograph(folder / "eye.png", [white_spot_grader()], methods)


def test_raw_maps_lie_on_the_photographs_pixels(tmp_path: Path) -> None:
    grid = explained_eye(tmp_path, SEVERE, FINE_GRAD_CAM)
    written = write_arrays(grid, tmp_path / "out" / "eye")
    assert [path.name for path in written] == [
        "eye-spots-integrated-gradients.npz",
        "eye-spots-grad-cam-fine.npz",
    ]
    with np.load(written[0]) as content:
        assert np.array_equal(content["heat"], grid[0][0].heat)
        assert content["heat"].shape == (SIZE_PX, SIZE_PX)
        assert (str(content["model"]), str(content["method"])) == ("spots", "integrated-gradients")
        assert (str(content["target"]), float(content["score"])) == ("grade 3 Severe", grid[0][0].heat_map.score)
        assert str(content["unit"]) == "logits per 0.1 % of the image"
        assert float(content["gap"]) == grid[0][0].heat_map.gap
    with np.load(written[1]) as content:
        assert np.isnan(content["gap"])


def test_lesions_are_drawn_where_a_folder_holds_their_masks(tmp_path: Path) -> None:
    mask = eye_with_white_spot(0.2, 0.1).masks.exudates.astype(np.uint8) * 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "eye_EX.png")
    grid = explained_eye(tmp_path, SEVERE)
    draw_figure(grid, tmp_path / "with.png", tmp_path / "masks")
    draw_figure(grid, tmp_path / "without.png", None)
    green = (read_image(tmp_path / "with.png") == (0, 190, 120)).all(axis=2).sum()
    assert green > 100
    assert not (read_image(tmp_path / "without.png") == (0, 190, 120)).all(axis=2).any()
    Image.fromarray(np.zeros((70, 70), np.uint8)).save(tmp_path / "masks" / "eye_EX.png")
    with pytest.raises(DatasetError, match="70 x 70 pixels, its photograph 420 x 420"):
        draw_figure(grid, tmp_path / "with.png", tmp_path / "masks")


def test_no_figure_replaces_another() -> None:
    def found(*names: str) -> list[PhotographSource]:
        return [PhotographSource(path=Path(name), name=name) for name in names]

    assert figure_names(found("in/eye.png")) == ["eye-explained.jpg"]
    assert figure_names(found("in/a/eye.png", "in/b/eye.png")) == ["a/eye-explained.jpg", "b/eye-explained.jpg"]
    assert figure_names(found("in/eye.png", "in/eye.jpg", "in/other.png")) == [
        "eye.png-explained.jpg",
        "eye.jpg-explained.jpg",
        "other-explained.jpg",
    ]


def test_the_index_page_shows_figures_and_reasons(tmp_path: Path) -> None:
    grader = Grader(on_pytorch(load_checkpoint(install_model()), CPU))
    (path,) = save_photographs(tmp_path, [1])
    entries = [
        entry_of("<eye> #1.png", "a b/<eye> #1-explained.jpg", [grader.grade(path)]),
        IndexEntry(name="bad.png", reason="bad.png: <empty>"),
    ]
    page = index_html(entries, title="Explanations of 2 photographs", command="fundusgrade explain 'a b'")
    assert '<img src="a b/&lt;eye&gt; %231-explained.jpg"' in page
    assert IndexEntry(name="", figure="javascript:1.jpg").link == "javascript%3A1.jpg", "a path, not a scheme"
    assert re.search(r"grade \d .*\(tiny\)", page)
    assert "bad.png: &lt;empty&gt;" in page and "<eye>" not in page
    assert "explained: 1; not explained: 1" in page
    assert page.count("&lt;eye&gt; #1.png") == 2, "the name is given once, and in the description of the figure"
    assert "Research software, not a medical device." in page
    assert "http" not in page.replace("http-equiv", "")
