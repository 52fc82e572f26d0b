"""Where a grade comes from: heat maps in units of the score they explain.

Usually a map is stretched to 0-1, which makes weak evidence look like strong evidence. Here heat keeps a unit.

`integrated` follows the score from the picture without its details to the picture itself and gives each pixel its
share (integrated gradients, Sundararajan et al., ICML 2017). Its heat is what a thousandth of the picture like this
place adds to the score, as closely as eight steps can tell.

The methods of the CAM family weigh the channels of one of the network's maps; they come from pytorch-grad-cam
(J. Gildenblat and contributors). Grad-CAM (Selvaraju et al., ICCV 2017) weighs a map A_k by its mean gradient alpha_k:

    value(cell) = number of cells * max(0, sum_k alpha_k A_k(cell))

If the whole picture looked like this place, the score would rise by this much. For a network that averages its last map
and ends in a linear layer this is exact: the mean over the cells, before negative values are cut off, equals the score
less its bias. For all others, and for HiResCAM, it holds to first order.

Grad-CAM++, LayerCAM, Eigen-CAM (whose sign is the library's guess) and `rollout`, which follows the attention of a
vision transformer, have no unit: they say how many times their mean a place has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fundusgrade.errors import ExplanationError
from fundusgrade.explanation.attention_rollout import attention_rollout
from fundusgrade.explanation.cam import cam_cells
from fundusgrade.explanation.heat_map import ExplainOptions, HeatMap, HeatScale, image_batch, resize_map
from fundusgrade.explanation.integrated_gradients import blurred_baseline, gather, integrate
from fundusgrade.explanation.layers import find_attentions, find_layers
from fundusgrade.explanation.targets import Target, resolve_target, target_scores
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.graphs import GraphBackbone
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.options import Attribution
from fundusgrade.photographs.pixels import Image

DEFAULT_METHOD = Attribution.INTEGRATED
"""The method that was best for every architecture measured (docs/explanations.md)."""

RELATIVE_UNIT = "times the mean"
RELATIVE_FLOOR = 8.0
WITHOUT_UNIT = frozenset(
    {Attribution.GRAD_CAM_PLUS_PLUS, Attribution.LAYER_CAM, Attribution.EIGEN_CAM, Attribution.ROLLOUT}
)
"""Methods whose values are no change of a score: their heat says how many times its mean a place has."""

INTEGRATED_SHARE = 0.125
"""Full strength of `integrated`, of a target's floor: half a logit, or a quarter of a grade, by a thousandth."""

_THOUSANDTHS = 1000.0


def fits(network: GradingNetwork, options: ExplainOptions) -> bool:
    """Whether the network has what the method reads. Raises ExplanationError for a graph: no method reads one."""
    _refuse_graph(network)
    if options.method in (Attribution.AUTO, Attribution.INTEGRATED):
        return True
    try:
        if options.method is Attribution.ROLLOUT:
            return bool(find_attentions(network))
        return bool(find_layers(network, options.layer, *network.spec.input_px))
    except ExplanationError:
        return False


def _refuse_graph(network: GradingNetwork) -> None:
    if isinstance(network.backbone, GraphBackbone):
        raise ExplanationError(
            f"an exported graph ({network.backbone.arithmetic}) cannot be explained: it keeps neither gradients nor "
            "maps; explain the safetensors model that it was exported from"
        )


def explain_image(
    network: GradingNetwork,
    image: Image,
    *,
    options: ExplainOptions,
    choice: DeviceChoice,
    outline: NDArray[np.bool_] | None = None,
) -> HeatMap:
    """Explain the network's score for a preprocessed picture (S, S, 3); the network must be on the chosen device.

    `outline` (S, S) says which pixels can show retina; all if not given. `options.tiles` is not heeded here. Leaves the
    network as it was: weights, gradients, modes and hooks. Raises ExplanationError where the method does not fit the
    architecture.
    """
    _refuse_graph(network)
    if options.method is Attribution.AUTO:
        options = replace(options, method=DEFAULT_METHOD)
    outline = np.ones(image.shape[:2], np.bool_) if outline is None else outline
    with _undisturbed(network, choice.device):
        if options.method is Attribution.INTEGRATED:
            target, score = _answer(network, image, options.target, choice)
            shares = integrate(network, image, outline, target, choice)
            density = _density(network, image)
            heat_map = _heat_map(options, target, score, shares * density, gather(shares) * density)
            _, baseline_score = _answer(network, blurred_baseline(image, outline), target, choice)
            return replace(heat_map, baseline_score=baseline_score)
        if options.method is Attribution.ROLLOUT:
            target, score = _answer(network, image, options.target, choice)
            cells = attention_rollout(network, image_batch(network, image, choice), target)
        else:
            target, score, cells = cam_cells(network, image, options, choice)
    if options.method in WITHOUT_UNIT:
        cells = cells / max(float(np.maximum(cells, 0).mean()), 1e-12)
    return _heat_map(options, target, score, cells, _enlarged(cells, network, image))


def _heat_map(
    options: ExplainOptions,
    target: Target,
    score: float,
    cells: NDArray[np.float32],
    values: NDArray[np.float32],
) -> HeatMap:
    scale = HeatScale(unit=f"change of the score ({target.unit})", floor=target.floor)
    if options.method is Attribution.INTEGRATED:
        unit = f"evidence ({target.unit} per 0.1 % of picture)"
        # Sharp peaks would leave no color for the rest: the scale is the same for all photographs.
        scale = HeatScale(unit=unit, ceiling=INTEGRATED_SHARE * target.floor)
    elif options.method in WITHOUT_UNIT:
        scale = HeatScale(unit=RELATIVE_UNIT, floor=RELATIVE_FLOOR)
    return HeatMap(values=values, cells=cells, target=target, score=score, method=options.method, scale=scale)


def _density(network: GradingNetwork, image: Image) -> float:
    """Pixels of a thousandth of what the network sees."""
    top, bottom = network.spec.rows or (0, len(image))
    return float((bottom - top) * image.shape[1] / _THOUSANDTHS)


def _answer(network: GradingNetwork, image: Image, target: Target, choice: DeviceChoice) -> tuple[Target, float]:
    """The resolved target and its score."""
    with torch.no_grad():
        logits = network(image_batch(network, image, choice)).float()
        resolved = resolve_target(target, logits[0])
        return resolved, float(target_scores(resolved, logits)[0].item())


def _enlarged(cells: NDArray[np.float32], network: GradingNetwork, image: Image) -> NDArray[np.float32]:
    """The positive part of a map (h, w) on the picture's pixels; rows that the network does not see have no heat."""
    height, width = image.shape[:2]
    top, bottom = network.spec.rows or (0, height)
    values = np.zeros((height, width), np.float32)
    values[top:bottom] = resize_map(np.maximum(cells, 0), (bottom - top, width))
    return values


@contextmanager
def _undisturbed(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode and float32, gradients switched on but none for weights; afterwards all is as it was."""
    modes = [(module, module.training) for module in network.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    is_autocast = torch.is_autocast_enabled(device.type)
    network.eval().requires_grad_(False)
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False) if is_autocast else nullcontext(),
        ):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
