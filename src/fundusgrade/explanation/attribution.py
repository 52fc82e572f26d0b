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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fundusgrade.errors import ExplanationError
from fundusgrade.explanation.attention_rollout import attention_rollout
from fundusgrade.explanation.cam import cam_cells
from fundusgrade.explanation.heat_map import ExplainOptions, HeatMap, resize_map
from fundusgrade.explanation.heat_scale import HeatScale
from fundusgrade.explanation.integrated_gradients import blurred_baseline, integrated_gradients, smooth_attributions
from fundusgrade.explanation.layers import find_attentions, find_layers, refusal
from fundusgrade.explanation.targets import REFERABLE, Target, resolve_target, target_scores
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.inference import to_memory_format
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.tensors import to_tensor
from fundusgrade.options import Attribution, ColorScale, Layer
from fundusgrade.photographs.pixels import Image
from fundusgrade.text import error_text, shortened

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

_MAX_REASON = 100
_UNIT_FRACTION = 0.001  # integrated gradients are per 0.1 % of the image


# What is found by trying a method is kept for as long as the network is.
_OBSTACLES: WeakKeyDictionary[GradingNetwork, dict[tuple[Attribution, Layer], str | None]] = WeakKeyDictionary()


def fits(network: GradingNetwork, options: ExplainOptions) -> bool:
    """Whether the method can explain the network. Raises ExplanationError for an exported graph, which none can."""
    return find_obstacle(network, options) is None


def find_obstacle(network: GradingNetwork, options: ExplainOptions) -> str | None:
    """Why the method cannot explain the network; None where it can.

    Methods that use feature maps or attention are tried on a gray image, once for each network: modules of the same
    name do different things in different architectures. Raises ExplanationError for an exported graph.
    """
    if options.method in (Attribution.AUTO, Attribution.INTEGRATED_GRADIENTS):
        return None
    found = _OBSTACLES.setdefault(network, {})
    key = (options.method, options.layer)
    if key not in found:
        found[key] = _try_method(network, options)
    return found[key]


def _try_method(network: GradingNetwork, options: ExplainOptions) -> str | None:
    """Why a method fails on a gray image, whatever is raised: it is the network's own code that is run."""
    device = network.mean.device
    images = torch.full((1, 3, network.spec.size_px, network.spec.size_px), 0.5, device=device)
    try:
        if options.method is Attribution.ATTENTION_ROLLOUT:
            find_attentions(network)
        else:
            find_layers(network, options.layer, *network.spec.input_px)
        with _restored_state(network, device), np.errstate(all="ignore"):
            _map_cells(network, to_memory_format(network, images), REFERABLE, options)
    except ExplanationError as error:
        return str(error)
    except Exception as error:
        reason = shortened(error_text(error), _MAX_REASON)
        return str(refusal(network, f"its code fails ({reason})", supported="use --method integrated-gradients"))
    return None


def explain_image(
    network: GradingNetwork,
    image: Image,
    *,
    options: ExplainOptions,
    choice: DeviceChoice,
    outline: NDArray[np.bool_] | None = None,
) -> HeatMap:
    """Explain the network's score for a preprocessed image (S, S, 3); the network must be on the chosen device.

    `outline` (S, S) is where the image can show retina, everywhere by default. The network's weights, gradients, modes
    and hooks are left as they were. Raises ExplanationError where the method does not fit the architecture.
    """
    return explain_image_by_methods(network, image, methods=[options], choice=choice, outline=outline)[0]


def explain_image_by_methods(
    network: GradingNetwork,
    image: Image,
    *,
    methods: Sequence[ExplainOptions],
    choice: DeviceChoice,
    outline: NDArray[np.bool_] | None = None,
) -> list[HeatMap]:
    """As `explain_image`, by several methods, which share the forward pass that gives the score."""
    for options in methods:
        if (obstacle := find_obstacle(network, options)) is not None:
            raise ExplanationError(obstacle)
    outline = np.ones(image.shape[:2], np.bool_) if outline is None else outline
    maps = []
    with _restored_state(network, choice.device):
        chosen = [DEFAULT_METHOD if each.method is Attribution.AUTO else each.method for each in methods]
        integrates = Attribution.INTEGRATED_GRADIENTS in chosen
        scored = [image, blurred_baseline(image, outline)] if integrates else [image]
        logits = _logits(network, scored, choice)
        for options, method in zip(methods, chosen, strict=True):
            target = resolve_target(options.target, logits[0])
            resolved = replace(options, method=method, target=target)
            scores = target_scores(target, logits).tolist()
            if method is Attribution.INTEGRATED_GRADIENTS:
                attributions = integrated_gradients(network, image, outline, target, choice)
                maps.append(_gradients_map(network, attributions, resolved, scores[0], scores[1]))
            else:
                maps.append(_cells_map(network, image, resolved, scores[0], choice))
    return maps


def _gradients_map(
    network: GradingNetwork,
    attributions: NDArray[np.float32],
    options: ExplainOptions,
    score: float,
    baseline_score: float,
) -> HeatMap:
    target = options.target
    density = _UNIT_FRACTION * _num_pixels(network, attributions)
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


def _cells_map(
    network: GradingNetwork, image: Image, options: ExplainOptions, score: float, choice: DeviceChoice
) -> HeatMap:
    cells = _cells(network, image, options.target, options, choice)
    return HeatMap(
        values=_enlarged(cells, network, image),
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


def _cells(
    network: GradingNetwork, image: Image, target: Target, options: ExplainOptions, choice: DeviceChoice
) -> NDArray[np.float32]:
    """The map (h, w) of a method that uses feature maps or attention."""
    cells = _map_cells(network, _batch(network, image, choice), target, options)
    return cells / max(float(np.maximum(cells, 0).mean()), 1e-12) if options.method in WITHOUT_UNIT else cells


def _map_cells(network: GradingNetwork, images: Tensor, target: Target, options: ExplainOptions) -> NDArray[np.float32]:
    """The map (h, w) of a batch of one, as the method computes it."""
    if options.method is Attribution.ATTENTION_ROLLOUT:
        return attention_rollout(network, images, target)
    return cam_cells(network, images, target, options.method, options.layer)


def _scale(method: Attribution, target: Target) -> HeatScale:
    if method is Attribution.INTEGRATED_GRADIENTS:
        # On a scale that ended at a map's sharp peaks no color would be left for the rest.
        unit = "probability" if target == REFERABLE else target.unit
        ceiling = PROBABILITY_CEILING if target == REFERABLE else GRADIENTS_CEILING_FLOORS * target.floor
        return HeatScale(unit=f"{unit} per 0.1 % of the image", ceiling=ceiling, default=ColorScale.ABSOLUTE)
    if method in WITHOUT_UNIT:
        return HeatScale(unit=RELATIVE_UNIT, ceiling=RELATIVE_CEILING)
    return HeatScale(unit=target.unit, ceiling=target.floor)


def _batch(network: GradingNetwork, image: Image, choice: DeviceChoice) -> Tensor:
    """An image (S, S, 3) as a batch (1, 3, S, S) on the device."""
    return to_memory_format(network, to_tensor(image)[None].to(choice.device))


def _logits(network: GradingNetwork, images: Sequence[Image], choice: DeviceChoice) -> Tensor:
    """The logits (B, 5) of images (S, S, 3), one by one, so that a score does not depend on what else is explained."""
    with torch.no_grad():
        return torch.cat([network(_batch(network, image, choice)).float() for image in images])


def _num_pixels(network: GradingNetwork, values: NDArray[np.generic]) -> int:
    """Number of pixels of the rows that the network gets of an image (S, S, ...)."""
    top, bottom = network.spec.rows or (0, len(values))
    return int((bottom - top) * values.shape[1])


def _enlarged(cells: NDArray[np.float32], network: GradingNetwork, image: Image) -> NDArray[np.float32]:
    """The positive part of a map (h, w) on the image's pixels; rows that the network does not get have no heat."""
    height, width = image.shape[:2]
    top, bottom = network.spec.rows or (0, height)
    values = np.zeros((height, width), np.float32)
    values[top:bottom] = resize_map(np.maximum(cells, 0), (bottom - top, width))
    return values


@contextmanager
def _restored_state(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode and float32, gradients for images but not for weights; afterwards the network is as before."""
    modes = [(module, module.training) for module in network.modules()]
    parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in network.parameters()]
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
        for parameter, requires_grad, gradient in parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
