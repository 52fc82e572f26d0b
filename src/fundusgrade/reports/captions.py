"""What the figure of an explanation says: titles, captions, warnings, and how to read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fundusgrade.explanation.explainer import Explanation
from fundusgrade.explanation.heat_scale import CONTOUR_FRACTION, ShownHeat
from fundusgrade.explanation.targets import EXPECTED, Target
from fundusgrade.options import Attribution, ColorScale, Layer
from fundusgrade.photographs.pixels import Image
from fundusgrade.reports.listings import doubts_in_words, referral_in_words
from fundusgrade.reports.overlay import MarkedRegion
from fundusgrade.reports.panel_layout import Column, KeyEntry, Panel, PanelFigure, PanelRow, Symbol
from fundusgrade.reports.thumbnails import crop_to_retina
from fundusgrade.text import one_line, significant

_METHODS = {
    Attribution.INTEGRATED_GRADIENTS: ("Evidence map", "what each place adds to the score, by integrated gradients"),
    Attribution.GRAD_CAM: ("Grad-CAM", "coarse regions that raise the score"),
    Attribution.HIRES_CAM: ("HiResCAM", "coarse regions that raise the score"),
    Attribution.GRAD_CAM_PLUS_PLUS: ("Grad-CAM++", "coarse regions with positive gradients"),
    Attribution.LAYER_CAM: ("LayerCAM", "regions with positive gradients"),
    Attribution.ATTENTION_ROLLOUT: ("Attention rollout", "patches that the network attends to"),
}
_SCALES = {
    ColorScale.RELATIVE: ("relative scale", "colors of each map from 0 to its own maximum: compare places, not maps"),
    ColorScale.ABSOLUTE: ("absolute scale", "the same colors on every photograph"),
}
_MOST_UNCUT = 0.95
_OUTWEIGHED_FLOORS = 0.125


def describe_figure(
    rows: Sequence[Sequence[Explanation]],
    *,
    marked: Sequence[MarkedRegion] = (),
    chosen: ColorScale | None = None,
    notes: Sequence[str] = (),
) -> tuple[Image, PanelFigure]:
    """The photograph and what its figure shows: a row for each method and a column for each model.

    The black border around the field of view is cut off. `chosen` is the color scale of all rows, by default that of
    each method; `notes` are sentences below the key.
    """
    first = rows[0][0]
    height, width = first.photograph.shape[:2]
    box = visible_box(first)
    is_cut = (box[0].stop - box[0].start) * (box[1].stop - box[1].start) < _MOST_UNCUT * height * width
    targets = list(dict.fromkeys(explanation.target for explanation in rows[0]))
    photograph = Column(
        title=one_line(Path(first.prediction.image).name),
        lines=[
            *([f"Explained: {_target_in_words(targets[0])}"] if len(targets) == 1 else []),
            *(["Shown without its black border"] if is_cut else []),
        ],
    )
    return first.photograph[box], PanelFigure(
        columns=[photograph, *(_column(explanation, is_named=len(targets) > 1) for explanation in rows[0])],
        rows=[_row(row, box, chosen) for row in rows],
        key=[*_key(rows, targets, marked, chosen), *(KeyEntry(text=note) for note in notes)],
        banners=_banners(rows[0]),
        marked=[replace(region, mask=region.mask[box]) for region in marked],
    )


def visible_box(explanation: Explanation) -> tuple[slice, slice]:
    """Rows and columns of the photograph that show its field of view, and a narrow margin."""
    height, width = explanation.photograph.shape[:2]
    fov, placement = explanation.preprocessed.field_of_view, explanation.preprocessed.placement
    crop = crop_to_retina(fov, height=placement.photograph_height, width=placement.photograph_width)
    return crop.box(height=height, width=width)


def _column(explanation: Explanation, *, is_named: bool) -> Column:
    """The model, its grade, what decided the grade and the referral, and its target where models differ in it."""
    prediction = explanation.prediction
    stated = [prediction.stated(probability).removeprefix("= ") for probability in prediction.probabilities]
    return Column(
        title=one_line(prediction.model),
        emphasis=f"Grade {int(prediction.grade)} {prediction.grade.label}",
        lines=[
            _sentence(prediction.decided_by),
            f"p of grades 0-4: {', '.join(each.replace(' ', '') for each in stated)}",
            _sentence(referral_in_words(prediction)),
            *([] if prediction.grade_range is None else [_sentence(prediction.grade_range.describe())]),
            *([f"Explained: {_target_in_words(explanation.target)}"] if is_named else []),
        ],
    )


def _row(row: Sequence[Explanation], box: tuple[slice, slice], chosen: ColorScale | None) -> PanelRow:
    first = row[0]
    scale = first.heat_map.scale
    on_scale = chosen or scale.default
    return PanelRow(
        title=method_name(first),
        note=_SCALES[on_scale][0],
        panels=[describe_panel(explanation, box, on_scale) for explanation in row],
        scale=scale,
        chosen=on_scale,
    )


def method_name(explanation: Explanation) -> str:
    """The name of the method of a heat map, for people."""
    layer = explanation.options.layer
    return _METHODS[explanation.options.method][0] + ("" if layer is Layer.LAST else f", layer {layer}")


def describe_panel(explanation: Explanation, box: tuple[slice, slice], on_scale: ColorScale) -> Panel:
    """What is shown of a heat map in a part of the photograph; where nothing is, a message says so and heat is 0."""
    heat = explanation.heat[box]
    shown = explanation.heat_map.scale.shown(heat, on_scale)
    is_drawn = shown.draws(heat) and not _is_uniform(explanation)
    return Panel(
        heat=heat if is_drawn else np.zeros_like(heat),
        is_seen=_seen_by_network(explanation)[box],
        shown=shown,
        caption=_caption(explanation, float(heat.max()), is_drawn=is_drawn),
        message="" if is_drawn else _message(explanation, float(heat.max()), shown),
    )


def _seen_by_network(explanation: Explanation) -> NDArray[np.bool_]:
    """Which pixels (H, W) of the photograph are retina that the network gets."""
    preprocessed = explanation.preprocessed
    placement = preprocessed.placement.resized_to(*explanation.photograph.shape[:2])
    return np.asarray(placement.to_photograph(preprocessed.mask.astype(np.float32)) > 0.5)


def _caption(explanation: Explanation, maximum: float, *, is_drawn: bool) -> str:
    """The maximum with its unit; of integrated gradients also both scores and the gap."""
    heat_map, target = explanation.heat_map, explanation.target
    written = _strength(maximum)
    if heat_map.gap is None or heat_map.baseline_score is None:
        return f"Maximum {written} {heat_map.scale.unit}"
    score, baseline, gap = (_decimals(each, 1) for each in (heat_map.score, heat_map.baseline_score, heat_map.gap))
    scores = f"Maximum {written}; {target.score_name} {score} (blurred photograph {baseline}, gap {gap})"
    if is_drawn and heat_map.score < heat_map.baseline_score - _OUTWEIGHED_FLOORS * target.floor:
        return f"{scores}. Evidence against outweighs what is colored."
    return scores


def _is_uniform(explanation: Explanation) -> bool:
    """Whether a map is nearly the same everywhere, so that its contour would surround all that the network sees.

    Grad-CAM of a vision transformer often is: channels that are large in every patch outweigh what differs.
    """
    cells = explanation.heat_map.cells
    return explanation.heat_map.gap is None and bool(cells.min() > CONTOUR_FRACTION * cells.max() > 0)


def _message(explanation: Explanation, maximum: float, shown: ShownHeat) -> str:
    """Why nothing is colored."""
    if shown.draws(explanation.heat) and _is_uniform(explanation):
        cells = explanation.heat_map.cells
        low, high = (_strength(float(value)) for value in (cells.min(), cells.max()))
        return f"Nearly the same everywhere, {low} to {high}:\nno region stands out"
    # Heat is cut off at 0; the signed map says how far from any evidence it was.
    is_empty = maximum <= 0 and explanation.heat_map.gap is None
    strongest = float(explanation.heat_map.cells.max()) if is_empty else maximum
    # A value just below the level, rounded like it, would seem to have reached it.
    digits = next(each for each in range(2, 9) if each == 8 or float(f"{strongest:.{each}g}") < shown.level)
    below = f"below display level {significant(shown.level, digits)}"
    if is_empty:
        return f"No region raises the score:\nstrongest evidence {_decimals(strongest, 2)},\n{below}"
    return f"Strongest evidence {_strength(strongest, digits)},\n{below}"


def _key(
    rows: Sequence[Sequence[Explanation]],
    targets: Sequence[Target],
    marked: Sequence[MarkedRegion],
    chosen: ColorScale | None,
) -> list[KeyEntry]:
    """One sentence on how to read the colors, one on each method, then what contour, gray and outlines are."""
    score = f"for {_target_in_words(targets[0])}" if len(targets) == 1 else "named above each column"
    methods = []
    for row in rows:
        on_scale = chosen or row[0].heat_map.scale.default
        meaning = _METHODS[row[0].options.method][1]
        methods.append(f"{method_name(row[0])}: {meaning}; {_SCALES[on_scale][1]}.")
    return [
        KeyEntry(
            text=f"Color marks what raised the score {score}; it does not outline lesions, and retina without color "
            "can be diseased.",
            symbol=Symbol.COLORS,
        ),
        KeyEntry(text="White line: at least half of the color bar.", symbol=Symbol.CONTOUR),
        KeyEntry(
            text="Gray: the photograph's green channel; darker where the network does not look.", symbol=Symbol.GROUND
        ),
        *(KeyEntry(text=region.name, symbol=region.color) for region in marked),
        *(KeyEntry(text=text) for text in methods),
    ]


def _banners(row: Sequence[Explanation]) -> list[str]:
    """The doubts about the photograph, once where all models have the same, else by model."""
    doubts = [doubts_in_words(explanation.prediction) for explanation in row]
    warned = [words for words in dict.fromkeys(doubts) if words]
    if len(set(doubts)) == 1:
        return [_warning(words) for words in warned]
    named = zip(row, doubts, strict=True)
    return [_warning(words, f"{one_line(each.prediction.model)}: ") for each, words in named if words]


def _warning(words: str, of_model: str = "") -> str:
    stated = of_model + words if of_model else _sentence(words)
    return f"\N{WARNING SIGN} {stated}. The grade and the heat maps may be wrong."


def _target_in_words(target: Target) -> str:
    if target.grade is not None:
        return target.name
    return "a higher grade" if target == EXPECTED else "referable disease (moderate or worse)"


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def _strength(value: float, digits: int = 2) -> str:
    """A maximum of heat: "0.23", or "< 0.001"."""
    return "< 0.001" if 0 < value < 0.001 else significant(value, digits)


def _decimals(value: float, count: int) -> str:
    return f"{round(value, count) + 0.0:.{count}f}".replace("-", "\N{MINUS SIGN}")
