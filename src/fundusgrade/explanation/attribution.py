"""Heat maps of a preprocessed image, in units of the score that they explain.

Heat maps are often scaled to 0-1, which makes weak evidence look like strong evidence. Here heat keeps a unit.

Integrated gradients (Sundararajan et al., ICML 2017) follow the score from a blurred baseline to the image and
attribute their difference to the pixels. Heat is in units of the score per 0.1 % of the image. That of referable
disease, a log-odds, is given as a probability: all attributions are multiplied by the change of the probability over
the change of the log-odds, so that they add up to the former. In log-odds the spots of an eye of probability 0.003 are
as strong as those of an eye of 0.99.

The CAM family weights the channels of a feature map. Grad-CAM (Selvaraju et al., ICCV 2017) weights the map A_k by its
mean gradient alpha_k:

    value(cell) = number of cells * max(0, sum_k alpha_k A_k(cell))

which is how much the score would rise if all cells were like this one. For a network that averages its last feature map
and ends in a linear layer this is exact: the mean over the cells, before negative values are set to zero, is the score
less its bias. For all others, and for HiResCAM, it is a first-order approximation.

Grad-CAM++, LayerCAM and attention rollout have no unit: their heat is a multiple of the map's mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fundusgrade.explanation.heat_map import ExplainOptions, HeatMap, resize_map
from fundusgrade.explanation.heat_scale import HeatScale
from fundusgrade.explanation.integrated_gradients import blurred_baseline, integrated_gradients, smooth_attributions
from fundusgrade.explanation.score_gradients import ScoreGradients
from fundusgrade.explanation.targets import REFERABLE, Target, resolve_target, score_values
from fundusgrade.networks.spec import NetworkSpec
from fundusgrade.options import Attribution, ColorScale
from fundusgrade.photographs.pixels import Image

DEFAULT_METHOD = Attribution.INTEGRATED_GRADIENTS
"""The best method on every architecture measured (docs/explanations.md)."""

WITHOUT_UNIT = frozenset({Attribution.GRAD_CAM_PLUS_PLUS, Attribution.LAYER_CAM, Attribution.ATTENTION_ROLLOUT})
"""Methods whose values are no change of a score: their heat is a multiple of the map's mean."""

RELATIVE_UNIT = "times the mean"
RELATIVE_CEILING = 8.0
"""End of the absolute color scale of maps without a unit."""

GRADIENTS_CEILING_FLOORS = 0.125
"""End of the absolute color scale of integrated gradients, in floors of the target: 0.5 logits, or 0.25 grades.

That of Grad-CAM and HiResCAM is one floor: 4 logits or 2 grades.
"""

PROBABILITY_CEILING = 0.2
"""End of that scale for referable disease, as a probability per 0.1 % of the image."""

_UNIT_FRACTION = 0.001  # integrated gradients are per 0.1 % of the image


def heat_maps(
    source: ScoreGradients,
    image: Image,
    methods: Sequence[ExplainOptions],
    outline: NDArray[np.bool_] | None = None,
) -> list[HeatMap]:
    """Explain the score of a network for a preprocessed image (S, S, 3) by several methods, which share its logits.

    `outline` (S, S) is where the image can show retina, everywhere by default. Raises ExplanationError where a method
    does not fit the architecture.
    """
    outline = np.ones(image.shape[:2], np.bool_) if outline is None else outline
    chosen = [DEFAULT_METHOD if each.method is Attribution.AUTO else each.method for each in methods]
    integrates = Attribution.INTEGRATED_GRADIENTS in chosen
    logits = source.logits([image, blurred_baseline(image, outline)] if integrates else [image])
    maps = []
    for options, method in zip(methods, chosen, strict=True):
        target = resolve_target(options.target, logits[0])
        resolved = replace(options, method=method, target=target)
        scores = score_values(target, logits).tolist()
        if method is Attribution.INTEGRATED_GRADIENTS:
            attributions = integrated_gradients(source, image, outline, target)
            maps.append(_gradients_map(source.spec, attributions, resolved, scores[0], scores[1]))
        else:
            maps.append(_cells_map(source, image, resolved, scores[0]))
    return maps


def _gradients_map(
    spec: NetworkSpec,
    attributions: NDArray[np.float32],
    options: ExplainOptions,
    score: float,
    baseline_score: float,
) -> HeatMap:
    target = options.target
    density = _UNIT_FRACTION * _num_pixels(spec, attributions)
    if target == REFERABLE:
        density *= probability_per_log_odds(baseline_score, score)
    return HeatMap(
        values=smooth_attributions(attributions) * density,
        cells=attributions * density,
        target=target,
        score=score,
        method=options.method,
        scale=_scale(options.method, target),
        baseline_score=baseline_score,
        gap=float(attributions.sum(dtype=np.float64)) - (score - baseline_score),
    )


def _cells_map(source: ScoreGradients, image: Image, options: ExplainOptions, score: float) -> HeatMap:
    cells = source.map_cells(image, options)
    if options.method in WITHOUT_UNIT:
        cells = cells / max(float(np.maximum(cells, 0).mean()), 1e-12)
    return HeatMap(
        values=_enlarged(cells, source.spec, image),
        cells=cells,
        target=options.target,
        score=score,
        method=options.method,
        scale=_scale(options.method, options.target),
    )


def probability_per_log_odds(first: float, second: float) -> float:
    """The change of the probability over that of the log-odds, from the one to the other; at most 1/4."""
    if math.isclose(first, second, abs_tol=1e-6):
        middle = _probability((first + second) / 2)
        return middle * (1 - middle)
    return (_probability(second) - _probability(first)) / (second - first)


def _probability(log_odds: float) -> float:
    return 0.5 * (1 + math.tanh(log_odds / 2))


def _scale(method: Attribution, target: Target) -> HeatScale:
    if method is Attribution.INTEGRATED_GRADIENTS:
        # On a scale that ended at a map's sharp peaks no color would be left for the rest.
        unit = "probability" if target == REFERABLE else target.unit
        ceiling = PROBABILITY_CEILING if target == REFERABLE else GRADIENTS_CEILING_FLOORS * target.floor
        return HeatScale(unit=f"{unit} per 0.1 % of the image", ceiling=ceiling, default=ColorScale.ABSOLUTE)
    if method in WITHOUT_UNIT:
        return HeatScale(unit=RELATIVE_UNIT, ceiling=RELATIVE_CEILING)
    return HeatScale(unit=target.unit, ceiling=target.floor)


def _num_pixels(spec: NetworkSpec, values: NDArray[np.generic]) -> int:
    """Number of pixels of the rows that the network gets of an image (S, S, ...)."""
    top, bottom = spec.rows or (0, len(values))
    return int((bottom - top) * values.shape[1])


def _enlarged(cells: NDArray[np.float32], spec: NetworkSpec, image: Image) -> NDArray[np.float32]:
    """The positive part of a map (h, w) on the image's pixels; rows that the network does not get have no heat."""
    height, width = image.shape[:2]
    top, bottom = spec.rows or (0, height)
    values = np.zeros((height, width), np.float32)
    values[top:bottom] = resize_map(np.maximum(cells, 0), (bottom - top, width))
    return values
