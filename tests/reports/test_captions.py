"""What the figure of an explanation says: models, grades, targets, maxima, warnings, and how to read it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fundusgrade.errors import StoreError
from fundusgrade.explanation.explainer import Explanation
from fundusgrade.explanation.heat_map import ExplainOptions, HeatMap
from fundusgrade.explanation.heat_scale import HeatScale
from fundusgrade.explanation.targets import REFERABLE, parse_target
from fundusgrade.grades import Prediction
from fundusgrade.options import Attribution, ColorScale
from fundusgrade.photographs.images import read_image
from fundusgrade.photographs.recipe import PreprocessRecipe
from fundusgrade.reports.captions import describe_figure, visible_box
from fundusgrade.reports.figures import draw_explanations, explanation_figure
from fundusgrade.reports.overlay import MarkedRegion
from fundusgrade.reports.panel_layout import PanelFigure
from tests.drawn_eyes import plain_retina, preprocess_photograph

GRADIENTS, GRAD_CAM = Attribution.INTEGRATED_GRADIENTS, Attribution.GRAD_CAM
FIXED = HeatScale(unit="logits per 0.1 % of the image", ceiling=0.5, default=ColorScale.ABSOLUTE)


def explanation(
    model: str = "cnn",
    *,
    target: str = "2",
    method: Attribution = GRADIENTS,
    peak: float = 3.0,
    scores: tuple[float, float] = (-0.3, -9.6),
    warnings: tuple[str, ...] = (),
    quality_reasons: tuple[str, ...] = (),
    thresholds: tuple[float, ...] | None = None,
) -> Explanation:
    eye = plain_retina(64)
    preprocessed = preprocess_photograph(eye.photograph, PreprocessRecipe(size_px=64))
    heat = np.zeros(eye.photograph.shape[:2], np.float32)
    heat[30:34, 30:34] = max(peak, 0)
    cells = np.full((7, 7), min(peak, 0), np.float32)
    cells[3, 3] = peak
    is_path = method is GRADIENTS
    prediction = Prediction(
        image="eyes/left eye.png",
        model=model,
        probabilities=(0.05, 0.1, 0.6, 0.2, 0.05),
        thresholds=thresholds,
        warnings=warnings,
        quality_reasons=quality_reasons,
    )
    heat_map = HeatMap(
        values=heat,
        cells=cells,
        target=parse_target(target),
        score=scores[0],
        baseline_score=scores[1] if is_path else None,
        gap=-0.7 if is_path else None,
        method=method,
        scale=FIXED if is_path else HeatScale(unit="logits", ceiling=4.0),
    )
    return Explanation(
        photograph=eye.photograph,
        prediction=prediction,
        target=heat_map.target,
        options=ExplainOptions(target=heat_map.target, method=method),
        heat=heat,
        heat_map=heat_map,
        preprocessed=preprocessed,
    )


def content(*rows: tuple[Explanation, ...], chosen: ColorScale | None = None) -> PanelFigure:
    return describe_figure(rows, chosen=chosen)[1]


def test_explanations_become_titled_columns_and_rows() -> None:
    models = ("cnn", "vit")
    found = content(
        tuple(explanation(model, method=GRAD_CAM) for model in models), tuple(explanation(model) for model in models)
    )
    assert [column.title for column in found.columns] == ["left eye.png", "cnn", "vit"]
    assert [(row.title, row.note) for row in found.rows] == [
        ("Grad-CAM", "relative scale"),
        ("Evidence map", "absolute scale"),
    ]
    assert found.columns[1].emphasis == "Grade 2 Moderate"
    assert list(found.columns[1].lines) == [
        "Most probable, p = 0.60",
        "p of grades 0-4: 0.05, 0.10, 0.60, 0.20, 0.05",
        "Referable: yes, p = 0.85, from 0.50",
    ]
    assert found.columns[0].lines[0] == "Explained: grade 2 Moderate"
    assert found.rows[0].panels[0].caption == "Maximum 3.0 logits"
    assert found.rows[1].panels[0].caption == "Maximum 3.0; logit −0.3 (blurred photograph −9.6, gap −0.7)"
    assert not found.banners


def test_the_quantity_that_decided_stands_in_the_figure() -> None:
    found = content((explanation(thresholds=(0.5, 1.0, 1.5, 2.05)),))
    assert found.columns[1].emphasis == "Grade 4 Proliferative"
    assert found.columns[1].lines[0] == "Expected grade 2.10, proliferative from 2.05"


def test_targets_that_differ_are_named_in_each_column() -> None:
    found = content((explanation("cnn", target="2"), explanation("vit", target="3")))
    assert [list(column.lines)[-1] for column in found.columns[1:]] == [
        "Explained: grade 2 Moderate",
        "Explained: grade 3 Severe",
    ]
    assert "the score named above each column;" in found.key[0].text


def test_the_key_says_how_to_read_colors_contour_and_outlines() -> None:
    region = MarkedRegion(name="hemorrhages", mask=np.zeros((64, 64), np.bool_), color=(1, 2, 3))
    rows = ((explanation(target="referable"),),)
    _, found = describe_figure(rows, marked=[region], notes=["Grad-CAM is not shown."])
    said = [entry.text for entry in found.key]
    assert said[0].startswith(
        "Color marks what raised the score for referable disease (moderate or worse); it does not"
    )
    assert said[1] == "White line: at least half of the color bar."
    assert "hemorrhages" in said and said[-1] == "Grad-CAM is not shown."


@pytest.mark.parametrize(
    ("method", "peak", "expected"),
    [
        (GRADIENTS, 0.23, "Strongest evidence 0.23,\nbelow display level 0.25"),
        (GRADIENTS, 0.2496, "Strongest evidence 0.2496,\nbelow display level 0.2500"),
        (GRADIENTS, 0.00002, "Strongest evidence < 0.001,\nbelow display level 0.25"),
        (GRADIENTS, 0.26, ""),
        (GRAD_CAM, 0.19, "Strongest evidence 0.19,\nbelow display level 0.20"),
        (GRAD_CAM, 0.21, ""),
        (GRAD_CAM, -1.32, "No region raises the score:\nstrongest evidence −1.32,\nbelow display level 0.20"),
    ],
)
def test_a_map_with_nothing_above_the_display_level_says_so(method: Attribution, peak: float, expected: str) -> None:
    (row,) = content((explanation(method=method, peak=peak),)).rows
    assert row.panels[0].message == expected
    figure = explanation_figure(((explanation(method=method, peak=peak),),))
    assert ("display level" in " ".join(text.get_text() for text in figure.texts)) is bool(expected)


@pytest.mark.parametrize(("lowest", "expected"), [(0.31, True), (0.19, True), (0.17, False), (-0.2, False)])
def test_a_map_that_is_the_same_everywhere_says_so(lowest: float, expected: bool) -> None:
    found = explanation(method=GRAD_CAM, peak=0.37)
    found.heat_map.cells[:] = lowest
    found.heat_map.cells[2, 2] = 0.37
    (row,) = content((found,)).rows
    message = f"Nearly the same everywhere, {lowest} to 0.37:\nno region stands out" if expected else ""
    assert row.panels[0].message == message
    assert bool(row.panels[0].heat.any()) is not expected


def test_evidence_that_is_outweighed_is_called_so() -> None:
    outweighed = "Evidence against outweighs what is colored."
    for scores, expected in (((-5.7, -3.0), True), ((-3.1, -3.0), False), ((5.0, -3.0), False)):
        (row,) = content((explanation(target="referable", scores=scores),)).rows
        assert (outweighed in row.panels[0].caption) is expected
    (row,) = content((explanation(target="referable", scores=(-5.7, -3.0), peak=0.01),)).rows
    assert outweighed not in row.panels[0].caption, "nothing is colored"


def test_a_scale_can_be_chosen_for_all_rows() -> None:
    rows = ((explanation(method=GRAD_CAM),), (explanation(),))
    for chosen in ColorScale:
        found = content(*rows, chosen=chosen)
        assert [row.note for row in found.rows] == [f"{chosen} scale"] * 2
        assert [row.panels[0].shown.scale for row in found.rows] == [chosen] * 2
    assert content(*rows, chosen=ColorScale.RELATIVE).rows[1].panels[0].shown.end == 3.0


def test_warnings_become_banners_once_or_by_model() -> None:
    both = content(
        (explanation("cnn", quality_reasons=("too dark",)), explanation("vit", quality_reasons=("too dark",)))
    )
    ending = ". The grade and the heat maps may be wrong."
    assert list(both.banners) == [f"⚠ Doubtful quality: too dark{ending}"]
    one = content((explanation("cnn"), explanation("vit", warnings=("unlike the training photographs",))))
    assert list(one.banners) == [f"⚠ vit: unlike the training photographs{ending}"]


def test_the_black_border_is_cut_off_and_the_heat_with_it() -> None:
    first = explanation()
    canvas = np.zeros((260, 400, 3), np.uint8)
    canvas[50:210, 100:260] = plain_retina(160).photograph
    preprocessed = preprocess_photograph(canvas, PreprocessRecipe(size_px=64))
    heat = np.zeros((260, 400), np.float32)
    heat[130, 180] = 3.0
    bordered = Explanation(
        photograph=canvas,
        prediction=first.prediction,
        target=REFERABLE,
        options=first.options,
        heat=heat,
        heat_map=first.heat_map,
        preprocessed=preprocessed,
    )
    photograph, found = describe_figure(((bordered,),))
    assert photograph.shape[:2] == pytest.approx((160, 160), abs=12)
    assert photograph[..., 0].sum() > 0.995 * canvas[..., 0].sum()
    (row,) = found.rows
    assert row.panels[0].heat.shape == photograph.shape[:2] == row.panels[0].is_seen.shape
    box = visible_box(bordered)
    assert row.panels[0].heat[130 - box[0].start, 180 - box[1].start] == 3.0
    assert "Shown without its black border" in found.columns[0].lines


def test_explanations_are_drawn(tmp_path: Path) -> None:
    draw_explanations(((explanation(),),), tmp_path / "heat.png")
    assert read_image(tmp_path / "heat.png").shape[1] > 2 * 600


def test_a_figure_that_cannot_be_written_is_a_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="missing"):
        draw_explanations(((explanation(),),), tmp_path / "missing" / "figure.png")
    assert list(tmp_path.iterdir()) == []
