"""What explanations leave on disk: figures, raw maps, and an index page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fundusgrade.errors import DatasetError
from fundusgrade.explanation.explainer import Explanations, explain_photograph
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.explanation.targets import parse_target
from fundusgrade.options import Attribution, Layer
from fundusgrade.photographs.images import read_image
from fundusgrade.photographs.sources import PhotographSource
from fundusgrade.reports.explanation_pages import (
    draw_figure,
    figure_names,
    write_arrays,
)
from tests.white_spots import SIZE_PX, eye_with_white_spot, white_spot_grader

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
