"""The figure of an explanation: every pixel where it belongs, nothing over anything else, and text that says it all."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from matplotlib.figure import Figure

from fundusgrade.explanation.heat_scale import HeatScale
from fundusgrade.options import ColorScale
from fundusgrade.reports.overlay import MarkedRegion, blend, red_free
from fundusgrade.reports.panel_layout import Column, KeyEntry, Panel, PanelFigure, PanelRow, Symbol
from fundusgrade.reports.panels import panel_figure
from fundusgrade.reports.sheet import Style, drawable, rasterize, text_width, wrap

SCALE = HeatScale(unit="logits per 0.1 % of the image", ceiling=0.5)
LONG = "vit_small_patch14_dinov2_" * 8 + "$\\frac{1}$_%"
KEY = [
    KeyEntry(text="Color marks what raised the score; it does not outline lesions. " * 2, symbol=Symbol.COLORS),
    KeyEntry(text="White line: at least half of the color bar.", symbol=Symbol.CONTOUR),
    KeyEntry(text="Gray: the photograph.", symbol=Symbol.GROUND),
    *(KeyEntry(text=name, symbol=(9, 90, 250)) for name in ("microaneurysms", "hemorrhages", "hard exudates")),
    KeyEntry(text="Grad-CAM: coarse regions. " * 4),
]


def make_panel(
    shape: tuple[int, ...], *, peak: float = 6.0, chosen: ColorScale = ColorScale.RELATIVE, message: str = ""
) -> Panel:
    heat = np.zeros(shape, np.float32)
    heat[: shape[0] // 2, : shape[1] // 2] = peak
    shown = SCALE.shown(heat, chosen)
    caption = "Maximum 0.31; log-odds 3.2 (blurred photograph −3.1, gap −1.9)"
    return Panel(heat=heat, is_seen=np.ones(shape, np.bool_), shown=shown, caption=caption, message=message)


def make_figure(
    shape: tuple[int, ...],
    *,
    num_models: int = 1,
    num_rows: int = 2,
    names: Sequence[str] = ("resnet50", "vit", "cnn"),
    banners: Sequence[str] = (),
    marked: Sequence[MarkedRegion] = (),
    message: str = "",
) -> Figure:
    generator = np.random.default_rng(3)
    photograph = generator.integers(40, 200, (*shape, 3), dtype=np.uint8)
    columns = [
        Column(
            title=names[number],
            emphasis="Grade 2 Moderate",
            lines=["Expected grade 2.10, moderate from 1.62", "Referable: yes, p = 0.97, from 0.23"],
        )
        for number in range(num_models)
    ]
    rows = [
        PanelRow(
            title="Evidence map",
            note="absolute scale",
            panels=[make_panel(shape, message=message) for _ in columns],
            scale=SCALE,
            chosen=ColorScale.ABSOLUTE if number % 2 else ColorScale.RELATIVE,
        )
        for number in range(num_rows)
    ]
    first = Column(title=names[0], lines=["Explained: referable disease (moderate or worse)"])
    return panel_figure(
        photograph, PanelFigure(columns=[first, *columns], rows=rows, key=KEY, banners=banners, marked=marked)
    )


def boxes(figure: Figure) -> dict[str, tuple[float, float, float, float]]:
    """Left, bottom, right and top of every text and image of a figure, but for messages across panels."""
    rasterize(figure)
    found = {}
    for number, text in enumerate(figure.texts):
        if text.get_gid() != "message":
            found[f"{number} {text.get_text()}"] = tuple(text.get_window_extent().extents)
    for number, axes in enumerate(figure.axes):
        found[f"axes {number}"] = tuple(axes.get_window_extent().extents)
    return found


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.texts)


@pytest.mark.parametrize("names", [("resnet50", "vit", "cnn"), (LONG, LONG, "網膜 眼底写真")])
@pytest.mark.parametrize(("num_models", "num_rows"), [(1, 1), (1, 2), (2, 2), (3, 2), (2, 4)])
@pytest.mark.parametrize("shape", [(700, 900), (900, 700), (60, 90), (1300, 400), (400, 1300)])
def test_nothing_overlaps_and_nothing_is_cut_off(
    shape: tuple[int, int], num_models: int, num_rows: int, names: Sequence[str]
) -> None:
    warning = "Doubtful quality: out of focus or veiled, too dark; unlike the training photographs. "
    figure = make_figure(shape, num_models=num_models, num_rows=num_rows, names=names, banners=[3 * warning])
    placed = boxes(figure)
    width, height = figure.get_window_extent().size
    for name, (left, bottom, right, top) in placed.items():
        assert left >= 0 and bottom >= 0 and right <= width + 0.5 and top <= height + 0.5, name
    for (first, one), (second, other) in itertools.combinations(placed.items(), 2):
        is_apart = one[2] <= other[0] + 1 or other[2] <= one[0] + 1 or one[3] <= other[1] + 1 or other[3] <= one[1] + 1
        assert is_apart, (first, one, second, other)


@pytest.mark.parametrize("shape", [(700, 900), (900, 700), (60, 90), (1300, 500), (2848, 4288)])
def test_every_panel_keeps_the_aspect_and_its_pixels(shape: tuple[int, int]) -> None:
    figure = make_figure(shape, num_models=2)
    panels = [axes for axes in figure.axes if axes.get_window_extent().width > 100]
    assert len(panels) == 1 + 2 * 2
    for axes in panels:
        shown = axes.get_window_extent()
        assert shown.height / shown.width == pytest.approx(shape[0] / shape[1], rel=0.02)
        assert 599.5 <= max(shown.width, shown.height) <= 1000.5
        image = axes.images[0].get_array()
        assert image is not None and image.shape[:2] == (round(shown.height), round(shown.width))


@pytest.mark.parametrize("shape", [(700, 900), (1000, 600), (600, 1000)])
@pytest.mark.parametrize("num_models", [1, 2, 3])
def test_no_space_is_wasted(shape: tuple[int, int], num_models: int) -> None:
    """Panels and key, which stands in a panel's place, fill most of the figure, whatever the photograph's aspect."""
    figure = make_figure(shape, num_models=num_models)
    panels = [axes.get_window_extent() for axes in figure.axes if axes.get_window_extent().width > 100]
    width, height = figure.get_window_extent().size
    assert (panels[0].width * panels[0].height) * (2 * num_models + 2) / (width * height) > 0.45


def test_the_figure_shows_the_pixels_of_a_photograph_that_fits() -> None:
    photograph = np.random.default_rng(3).integers(40, 200, (620, 640, 3), dtype=np.uint8)
    pixels = rasterize(make_figure((620, 640)))
    found = np.argwhere((pixels == photograph[0, 0]).all(axis=2))
    assert any(np.array_equal(pixels[y : y + 620, x : x + 640], photograph) for y, x in found)


def panel_image(panel: Panel, photograph: np.ndarray, marked: Sequence[MarkedRegion] = ()) -> np.ndarray:
    """The pixels of the only heat map of a figure."""
    row = PanelRow(title="Grad-CAM", note="", panels=[panel], scale=SCALE, chosen=ColorScale.RELATIVE)
    content = PanelFigure(columns=[Column(title="eye"), Column(title="cnn")], rows=[row], key=KEY, marked=marked)
    large = [axes for axes in panel_figure(photograph, content).axes if axes.get_window_extent().width > 100]
    return np.asarray(large[1].images[0].get_array())


def test_the_absolute_scale_gives_the_same_heat_the_same_color_beside_any_other() -> None:
    photograph = np.full((600, 600, 3), 120, np.uint8)
    corners = []
    for strongest in (0.4, 40.0):
        panel = make_panel((600, 600), peak=0.4, chosen=ColorScale.ABSOLUTE)
        panel.heat[500:, 500:] = strongest
        corners.append(panel_image(panel, photograph)[10, 10])
    assert np.array_equal(corners[0], corners[1])
    expected = blend(
        photograph, make_panel((600, 600), peak=0.4).heat, shown=SCALE.shown(panel.heat, ColorScale.ABSOLUTE)
    )
    assert np.array_equal(corners[0], expected[10, 10])


def test_the_relative_scale_gives_every_map_all_colors() -> None:
    photograph = np.full((600, 600, 3), 120, np.uint8)
    weak, strong = (panel_image(make_panel((600, 600), peak=peak), photograph) for peak in (0.1, 40.0))
    assert np.array_equal(weak, strong)
    assert not np.array_equal(weak[10, 10], weak[590, 590])


def test_a_map_with_nothing_to_show_says_so_across_the_panel() -> None:
    message = "Strongest evidence 0.23,\nbelow display level 0.25"
    figure = make_figure((600, 700), num_models=2, message=message)
    across = [text for text in figure.texts if text.get_gid() == "message"]
    assert [text.get_text() for text in across] == message.split("\n") * 4
    figure.canvas.draw()
    panels = [axes.get_window_extent() for axes in figure.axes if axes.get_window_extent().width > 100][1:]
    for number, text in enumerate(across):
        box, panel = text.get_window_extent(), panels[number // 2]
        assert panel.x0 < box.x0 and box.x1 < panel.x1
        assert abs((box.y0 + box.y1 - panel.y0 - panel.y1) / 2) < 0.15 * panel.height
    assert not [text for text in make_figure((600, 700)).texts if text.get_gid() == "message"]


def test_a_warning_is_an_amber_banner_over_the_whole_width() -> None:
    warned = rasterize(make_figure((600, 700), banners=["Doubtful quality: too dark."])).astype(int)
    plain = rasterize(make_figure((600, 700))).astype(int)
    assert warned.shape[0] > plain.shape[0]

    def amber(pixels: np.ndarray) -> np.ndarray:
        return (pixels[..., 0] > 240) & (pixels[..., 1] > 150) & (pixels[..., 2] < 210)

    assert amber(warned[:150]).any(axis=0).mean() > 0.9
    assert not amber(plain[:150]).any()
    assert "Doubtful quality: too dark." in texts(make_figure((600, 700), banners=["Doubtful quality: too dark."]))


def test_what_the_network_does_not_see_is_darker() -> None:
    photograph = np.full((600, 600, 3), 120, np.uint8)
    panel = make_panel((600, 600), peak=0.0)
    panel.is_seen[:100] = False
    image = panel_image(panel, photograph)
    assert np.array_equal(image[150:], red_free(photograph)[150:])
    assert (image[:90] < red_free(photograph)[:90]).all()


def test_lesions_are_outlined_in_every_column_and_named_in_the_key() -> None:
    mask = np.zeros((600, 600), np.bool_)
    mask[200:300, 200:300] = True
    figure = make_figure((600, 600), marked=[MarkedRegion(name="hemorrhages", mask=mask, color=(250, 10, 240))])
    panels = [axes for axes in figure.axes if axes.get_window_extent().width > 100]
    for axes in panels:
        image = np.asarray(axes.images[0].get_array())
        assert (image[200, 210:290] == (250, 10, 240)).all()
    assert "hemorrhages" in texts(figure)


@pytest.mark.parametrize("width_px", [40, 200, 800])
def test_text_is_wrapped_to_its_width_and_no_word_is_lost(width_px: int) -> None:
    style = Style(size_px=20)
    words = "Color marks what raised the score for referable disease"
    lines = wrap(words, style, width_px)
    assert all(text_width(line, style) <= width_px for line in lines)
    if width_px > 150:
        assert " ".join(lines) == words
    assert wrap("", style, width_px) == []
    assert len(wrap(words, style, width_px, max_lines=1)) == 1
    assert text_width(wrap(LONG, style, 100)[0], style) <= 100


def test_characters_that_the_font_lacks_become_boxes() -> None:
    assert drawable("網膜 eye α ⚠ ≥ −1") == "□□ eye α ⚠ ≥ −1"


def test_figures_are_drawn_by_several_threads_at_once() -> None:
    names = (LONG, "網膜 眼底写真", "cnn")

    def draw(number: int) -> bytes:
        return rasterize(make_figure((60, 90), num_models=1, names=names)).tobytes()

    with ThreadPoolExecutor(3) as pool:
        assert len(set(pool.map(draw, range(6)))) == 1


def test_text_is_legible_in_the_column_of_a_paper() -> None:
    """A figure of one model, 90 mm wide, has text of about 4 points; one of three models, 180 mm wide, as well."""
    for num_models, width_mm in ((1, 90), (3, 180)):
        figure = make_figure((900, 1000), num_models=num_models)
        points_px = figure.dpi / 72
        sizes = [text.get_fontsize() * points_px for text in figure.texts]
        assert min(sizes) / figure.get_window_extent().width * width_mm / 25.4 * 72 > 3.6
        assert np.median(sizes) / figure.get_window_extent().width * width_mm / 25.4 * 72 > 4.0
        assert min(sizes) >= 14


def test_drawing_touches_no_global_state_of_matplotlib_and_needs_no_torch() -> None:
    script = (
        "import sys\n"
        "from fundusgrade.reports.panels import panel_figure\n"
        "assert 'matplotlib' not in sys.modules\n"
        "import numpy as np\n"
        "from fundusgrade.explanation.heat_scale import HeatScale\n"
        "from fundusgrade.options import ColorScale\n"
        "from fundusgrade.reports.panel_layout import *\n"
        "heat, scale = np.ones((64, 64), np.float32), HeatScale(unit='', ceiling=1.0)\n"
        "panel = Panel(heat=heat, is_seen=heat > 0, shown=scale.shown(heat), caption='')\n"
        "row = PanelRow(title='a', note='b', panels=[panel], scale=scale, chosen=ColorScale.RELATIVE)\n"
        "content = PanelFigure(columns=[Column(title='a'), Column(title='b')], rows=[row], key=[])\n"
        "panel_figure(np.zeros((64, 64, 3), np.uint8), content)\n"
        "assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.mark.parametrize("written", ["0.25 to 0.38", "< 0.001 to 2", "\N{MINUS SIGN}3 to \N{MINUS SIGN}1.5"])
def test_a_range_of_numbers_stays_on_one_line(written: str) -> None:
    style = Style(size_px=20)
    text = f"Nearly the same everywhere, {written} as it seems to be"
    for width_px in range(round(text_width(f"{written} ", style)) + 40, 600, 7):
        assert any(written.removeprefix("< ") in line for line in wrap(text, style, width_px))
    assert wrap("from 3 to none", style, 1) != []
