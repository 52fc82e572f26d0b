"""The figure of an explanation: every pixel where it belongs, one scale a row, names that fit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fundusgrade.errors import StoreError
from fundusgrade.explanation.heat_map import HeatScale
from fundusgrade.photographs.images import read_image
from fundusgrade.reports.overlay import MarkedRegion, blend
from fundusgrade.reports.panels import Panel, PanelRow, draw_explanation

SCALE = HeatScale(unit="change of the score (logits)")


def make_panel(shape: tuple[int, ...], *, title: str = "resnet50", peak: float = 6.0) -> Panel:
    heat = np.zeros(shape, np.float32)
    heat[: shape[0] // 2, : shape[1] // 2] = peak
    return Panel(title=title, subtitle="Grade 2 Moderate, p = 0.71\nExplained: grade 2 Moderate", heat=heat)


def row(*panels: Panel, scale: HeatScale = SCALE) -> PanelRow:
    return PanelRow(caption="eye.png", panels=panels, scale=scale)


@pytest.mark.parametrize("shape", [(700, 900), (900, 700), (60, 90), (1300, 500), (2848, 4288)])
def test_figure_keeps_the_aspect(shape: tuple[int, int], tmp_path: Path) -> None:
    photograph = np.full((*shape, 3), (200, 30, 90), np.uint8)  # a color that only the photograph and the bar have
    cold = Panel(title="cnn", subtitle="", heat=np.zeros(shape, np.float32))
    draw_explanation(photograph, [row(cold)], tmp_path / "figure.png")
    shown = (read_image(tmp_path / "figure.png") == (200, 30, 90)).all(axis=2)
    height = np.count_nonzero(shown.any(axis=1))
    width = np.count_nonzero(shown[np.flatnonzero(shown.any(axis=1))[1]]) / 2
    assert height / width == pytest.approx(shape[0] / shape[1], rel=0.02)
    assert 600 <= max(height, width) <= 1200


def test_figure_shows_the_pixels_of_a_photograph_that_fits(tmp_path: Path) -> None:
    photograph = np.random.default_rng(3).integers(0, 256, (620, 640, 3), dtype=np.uint8)
    draw_explanation(photograph, [row(make_panel((620, 640)))], tmp_path / "figure.png")
    figure = read_image(tmp_path / "figure.png")
    found = np.argwhere((figure == photograph[0, 0]).all(axis=2))
    assert any(np.array_equal(figure[y : y + 620, x : x + 640], photograph) for y, x in found)


def test_all_columns_share_the_scale(tmp_path: Path) -> None:
    """The same heat gets the same color beside a stronger map, and both differ from the stronger one."""
    photograph = np.full((600, 600, 3), 120, np.uint8)
    panels = [make_panel((600, 600), title=f"model {peak}", peak=peak) for peak in (2.0, 2.0, 20.0)]
    draw_explanation(photograph, [row(*panels)], tmp_path / "figure.png")
    figure = read_image(tmp_path / "figure.png")
    line = figure[figure.shape[0] // 3]
    weak = blend(photograph, panels[0].heat, scale_max=20.0)[0, 0]
    strong = blend(photograph, panels[2].heat, scale_max=20.0)[0, 0]
    assert (line == weak).all(axis=1).sum() == pytest.approx(600, abs=4)
    assert (line == strong).all(axis=1).sum() == pytest.approx(300, abs=4)


def test_long_and_strange_names_stay_inside_the_figure(tmp_path: Path) -> None:
    photograph = np.full((600, 600, 3), 120, np.uint8)
    title = "vit_small_patch14_dinov2_" * 8 + "$\\frac{1}$_%"
    draw_explanation(photograph, [row(make_panel((600, 600), title=title))], tmp_path / "long.png")
    draw_explanation(photograph, [row(make_panel((600, 600), title="cnn"))], tmp_path / "short.png")
    long, short = read_image(tmp_path / "long.png"), read_image(tmp_path / "short.png")
    assert long.shape == short.shape
    beyond = slice(18 + 600 + 18 + 600 + 2, None)
    assert np.array_equal(long[:60, beyond], short[:60, beyond])


def test_a_figure_that_cannot_be_written_is_a_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    photograph = np.full((64, 64, 3), 120, np.uint8)
    with pytest.raises(StoreError, match="missing"):
        draw_explanation(photograph, [row(make_panel((64, 64)))], tmp_path / "missing" / "figure.png")
    assert list(tmp_path.iterdir()) == []


def test_drawing_touches_no_global_state_of_matplotlib_and_needs_no_torch() -> None:
    script = (
        "import sys, numpy as np, pathlib, tempfile, types\n"
        "from fundusgrade.reports.overlay import *\n"
        "from fundusgrade.reports.panels import *\n"
        "assert 'matplotlib' not in sys.modules\n"
        "panel = Panel(title='cnn', subtitle='', heat=np.zeros((64, 64), np.float32))\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    path = pathlib.Path(folder, 'figure.png')\n"
        "    scale = types.SimpleNamespace(unit='', ceiling=None, end=lambda heats: 4.0)\n"
        "    row = PanelRow(caption='eye', panels=[panel], scale=scale)\n"
        "    draw_explanation(np.zeros((64, 64, 3), np.uint8), [row], path)\n"
        "assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_each_row_has_its_own_scale(tmp_path: Path) -> None:
    photograph = np.full((600, 600, 3), 120, np.uint8)
    strong, weak = make_panel((600, 600), peak=40.0), make_panel((600, 600), peak=2.0)
    fixed = row(weak, scale=HeatScale(unit="evidence", ceiling=2.0))
    draw_explanation(photograph, [row(strong), fixed], tmp_path / "figure.png")
    figure = read_image(tmp_path / "figure.png")
    full = blend(photograph, weak.heat, scale_max=2.0)[10, 10]
    strongest = (figure == full).all(axis=2).sum(axis=1)
    # In each row the heat of the upper left quarter is at the end of the scale.
    assert (strongest > 280).sum() == pytest.approx(600, abs=30)


def test_lesions_are_outlined_in_every_column_and_named_below(tmp_path: Path) -> None:
    photograph = np.full((600, 600, 3), 120, np.uint8)
    mask = np.zeros((600, 600), np.bool_)
    mask[200:300, 200:300] = True
    marked = [MarkedRegion(name="haemorrhages", mask=mask, color=(250, 10, 240))]
    draw_explanation(photograph, [row(make_panel((600, 600), peak=0.0))], tmp_path / "figure.png", marked=marked)
    figure = read_image(tmp_path / "figure.png")
    colored = (np.abs(figure.astype(int) - (250, 10, 240)).max(axis=2) < 40).sum(axis=0)
    lines = np.flatnonzero(colored > 90)
    assert len(lines) == pytest.approx(4, abs=1)
    assert lines[2] - lines[0] == pytest.approx(618, abs=1)
    assert (colored[:60] > 3).any()
