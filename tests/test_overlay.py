"""Heat on a photograph: what is untouched stays untouched, and weak evidence looks weak."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fundusgrade.errors import StoreError
from fundusgrade.images import read_image
from fundusgrade.overlay import MAX_OPACITY, SCALE_FLOOR, Panel, blend, draw_explanation, scale_maximum

UNIT = "change of the score (logits)"


@pytest.fixture
def photograph() -> NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, (300, 400, 3), dtype=np.uint8)


def make_panel(shape: tuple[int, ...], *, title: str = "resnet50", peak: float = 6.0) -> Panel:
    heat = np.zeros(shape, np.float32)
    heat[: shape[0] // 2, : shape[1] // 2] = peak
    return Panel(title=title, subtitle="Grade 2 Moderate, p = 0.71\nExplained: grade 2 Moderate", heat=heat)


def lightness(color: NDArray[np.float64]) -> float:
    linear = np.where(color <= 10.31, color / 255 / 12.92, ((color / 255 + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ [0.2126, 0.7152, 0.0722])
    return 116 * luminance ** (1 / 3) - 16


def test_pixels_without_heat_stay_bit_identical(photograph: NDArray[np.uint8]) -> None:
    before = photograph.copy()
    heat = np.zeros((300, 400), np.float32)
    heat[250:290, 10:60] = 5.0
    tinted = blend(photograph, heat, scale_max=5.0)
    assert np.array_equal(tinted[heat == 0], photograph[heat == 0])
    assert (tinted != photograph)[heat > 0].any(axis=1).mean() > 0.99
    assert np.array_equal(photograph, before)


def test_opacity_grows_with_heat_up_to_its_limit_and_not_beyond(photograph: NDArray[np.uint8]) -> None:
    black, white = np.zeros_like(photograph), np.full_like(photograph, 255)
    heat = np.broadcast_to(np.linspace(0, 6, 400, dtype=np.float32), (300, 400))
    visible = (blend(white, heat, scale_max=4.0).astype(float) - blend(black, heat, scale_max=4.0)).max(axis=(0, 2))
    opacity = 1 - visible / 255
    assert (np.diff(opacity) >= -0.005).all()
    assert opacity[0] == 0
    assert opacity[400 // 3] == pytest.approx(MAX_OPACITY / 2, abs=0.01)
    assert opacity[-1] == pytest.approx(MAX_OPACITY, abs=0.005)


def test_colors_rise_in_equal_steps_of_lightness() -> None:
    black = np.zeros((1, 41, 3), np.uint8)
    strength = np.linspace(0.2, 1, 41, dtype=np.float32)
    tinted = blend(black, strength[None], scale_max=1.0)[0].astype(float)
    colors = tinted / (MAX_OPACITY * strength[:, None])
    steps = np.diff([lightness(color) for color in colors[::4]])
    assert steps.min() > 0.5 * steps.mean()
    assert steps.max() < 1.5 * steps.mean()


def test_blend_refuses_a_map_of_another_size(photograph: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"\(224, 224\).*\(300, 400\)"):
        blend(photograph, np.zeros((224, 224), np.float32), scale_max=4.0)


@pytest.mark.parametrize(
    ("peaks", "expected"), [([], SCALE_FLOOR), ([0.0], SCALE_FLOOR), ([0.3, 1.2], SCALE_FLOOR), ([0.3, 9.5], 9.5)]
)
def test_the_scale_is_common_and_has_a_floor(peaks: list[float], expected: float) -> None:
    assert scale_maximum(np.full((4, 5), peak, np.float32) for peak in peaks) == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(700, 900), (900, 700), (60, 90), (1300, 500), (2848, 4288)])
def test_figure_keeps_the_aspect(shape: tuple[int, int], tmp_path: Path) -> None:
    photograph = np.full((*shape, 3), (200, 30, 90), np.uint8)  # a color that only the photograph and the bar have
    cold = Panel(title="cnn", subtitle="", heat=np.zeros(shape, np.float32))
    draw_explanation(photograph, [cold], tmp_path / "figure.png", unit=UNIT)
    shown = (read_image(tmp_path / "figure.png") == (200, 30, 90)).all(axis=2)
    height = np.count_nonzero(shown.any(axis=1))
    width = np.count_nonzero(shown[np.flatnonzero(shown.any(axis=1))[1]]) / 2
    assert height / width == pytest.approx(shape[0] / shape[1], rel=0.02)
    assert 600 <= max(height, width) <= 1200


def test_figure_shows_the_pixels_of_a_photograph_that_fits(tmp_path: Path) -> None:
    photograph = np.random.default_rng(3).integers(0, 256, (620, 640, 3), dtype=np.uint8)
    draw_explanation(photograph, [make_panel((620, 640))], tmp_path / "figure.png", unit=UNIT)
    figure = read_image(tmp_path / "figure.png")
    found = np.argwhere((figure == photograph[0, 0]).all(axis=2))
    assert any(np.array_equal(figure[y : y + 620, x : x + 640], photograph) for y, x in found)


def test_all_columns_share_the_scale(tmp_path: Path) -> None:
    """The same heat gets the same color beside a stronger map, and both differ from the stronger one."""
    photograph = np.full((600, 600, 3), 120, np.uint8)
    panels = [make_panel((600, 600), title=f"model {peak}", peak=peak) for peak in (2.0, 2.0, 20.0)]
    draw_explanation(photograph, panels, tmp_path / "figure.png", unit=UNIT)
    figure = read_image(tmp_path / "figure.png")
    row = figure[figure.shape[0] // 3]
    weak = blend(photograph, panels[0].heat, scale_max=20.0)[0, 0]
    strong = blend(photograph, panels[2].heat, scale_max=20.0)[0, 0]
    assert (row == weak).all(axis=1).sum() == pytest.approx(600, abs=4)
    assert (row == strong).all(axis=1).sum() == pytest.approx(300, abs=4)


def test_long_and_strange_names_stay_inside_the_figure(tmp_path: Path) -> None:
    photograph = np.full((600, 600, 3), 120, np.uint8)
    title = "vit_small_patch14_dinov2_" * 8 + "$\\frac{1}$_%"
    draw_explanation(photograph, [make_panel((600, 600), title=title)], tmp_path / "long.png", unit=UNIT)
    draw_explanation(photograph, [make_panel((600, 600), title="cnn")], tmp_path / "short.png", unit=UNIT)
    long, short = read_image(tmp_path / "long.png"), read_image(tmp_path / "short.png")
    assert long.shape == short.shape
    beyond = slice(18 + 600 + 18 + 600 + 2, None)
    assert np.array_equal(long[:60, beyond], short[:60, beyond])


def test_a_figure_that_cannot_be_written_is_a_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    photograph = np.full((64, 64, 3), 120, np.uint8)
    with pytest.raises(StoreError, match="missing"):
        draw_explanation(photograph, [make_panel((64, 64))], tmp_path / "missing" / "figure.png", unit=UNIT)
    assert list(tmp_path.iterdir()) == []


def test_drawing_touches_no_global_state_of_matplotlib_and_needs_no_torch() -> None:
    script = (
        "import sys, numpy as np, pathlib, tempfile\n"
        "from fundusgrade.overlay import *\n"
        "assert 'matplotlib' not in sys.modules\n"
        "panel = Panel(title='cnn', subtitle='', heat=np.zeros((64, 64), np.float32))\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    path = pathlib.Path(folder, 'figure.png')\n"
        "    draw_explanation(np.zeros((64, 64, 3), np.uint8), [panel], path, unit='')\n"
        "assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
