"""Explanations by PyTorch, which computes gradients and feature maps of every network.

A network's weights, gradients, modes and hooks are left as they were.
"""

from __future__ import annotations

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
from fundusgrade.explanation.attribution import heat_maps
from fundusgrade.explanation.cam import cam_cells
from fundusgrade.explanation.heat_map import ExplainOptions, HeatMap
from fundusgrade.explanation.layers import find_attentions, find_layers, refusal
from fundusgrade.explanation.strided_gradients import FastStridedGradients
from fundusgrade.explanation.target_scores import target_scores
from fundusgrade.explanation.targets import REFERABLE, Target
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.inference import to_memory_format
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.spec import NetworkSpec
from fundusgrade.networks.tensors import to_tensor
from fundusgrade.options import Attribution, Layer
from fundusgrade.photographs.pixels import Image
from fundusgrade.text import error_text, shortened

_MAX_REASON = 100

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
            _map_cells(network, to_memory_format(network, images), replace(options, target=REFERABLE))
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
    with TorchGradients.of(network, choice) as source:
        return heat_maps(source, image, methods, outline)


class TorchGradients:
    """A network in PyTorch as the source of heat maps; it must be on the chosen device."""

    def __init__(self, network: GradingNetwork, choice: DeviceChoice) -> None:
        self._network = network
        self._choice = choice

    @classmethod
    @contextmanager
    def of(cls, network: GradingNetwork, choice: DeviceChoice) -> Iterator[TorchGradients]:
        """The source, in whose context gradients are enabled; afterwards the network is as before."""
        with _restored_state(network, choice.device):
            yield cls(network, choice)

    @property
    def spec(self) -> NetworkSpec:
        """The network's description."""
        return self._network.spec

    def logits(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """Logits (B, 5) of images (S, S, 3), one by one, so that a score does not depend on what else is explained."""
        with torch.no_grad():
            rows = [self._network(self._batch(image)).float().cpu() for image in images]
        return np.asarray(torch.cat(rows).numpy(), np.float32)

    def gradients(self, images: NDArray[np.float32], target: Target) -> NDArray[np.float32]:
        """Gradients (B, 3, S, S) of the score of a resolved target to each of the images (B, 3, S, S) in [0, 1]."""
        on_device = torch.from_numpy(images).to(self._choice.device)
        leaf = to_memory_format(self._network, on_device).requires_grad_()
        with self._choice.autocast(), FastStridedGradients():
            scores = target_scores(target, self._network(leaf))
        (gradients,) = torch.autograd.grad(scores.sum(), leaf)
        return np.asarray(gradients.float().cpu().numpy(), np.float32)

    def map_cells(self, image: Image, options: ExplainOptions) -> NDArray[np.float32]:
        """The signed map (h, w) of an image (S, S, 3). Raises ExplanationError as `explain_image`."""
        return _map_cells(self._network, self._batch(image), options)

    def _batch(self, image: Image) -> Tensor:
        """An image (S, S, 3) as a batch (1, 3, S, S) on the device."""
        return to_memory_format(self._network, to_tensor(image)[None].to(self._choice.device))


def _map_cells(network: GradingNetwork, images: Tensor, options: ExplainOptions) -> NDArray[np.float32]:
    """The map (h, w) of a batch of one, as the method computes it for its resolved target."""
    if options.method is Attribution.ATTENTION_ROLLOUT:
        return attention_rollout(network, images, options.target)
    return cam_cells(network, images, options.target, options.method, options.layer)


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
