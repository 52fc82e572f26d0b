"""Inference: preprocessed images -> outputs of the head -> probabilities of the five grades."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fundusgrade.errors import CheckpointError
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.heads import NUM_OUTPUTS, Calibration, grade_logits
from fundusgrade.networks.network import GradingNetwork, NetworkSpec
from fundusgrade.networks.tensors import scale_pixels


def to_device(network: GradingNetwork, choice: DeviceChoice) -> GradingNetwork:
    """Move a network to the chosen device, to channels-last memory format if it runs faster so."""
    network = network.to(choice.device)
    if network.prefers_channels_last:
        network = network.to(memory_format=torch.channels_last)
    return network


def to_memory_format(network: GradingNetwork, images: Tensor) -> Tensor:
    """A batch of images (B, 3, H, W) in the memory format of the network."""
    return images.contiguous(memory_format=torch.channels_last) if network.prefers_channels_last else images


def predict_probabilities(
    network: GradingNetwork, pixels: Tensor, choice: DeviceChoice, batch_size: int = 32, *, tta: bool = False
) -> NDArray[np.float64]:
    """Probabilities (N, 5) of preprocessed images (N, 3, S, S) uint8, in evaluation mode.

    Raises CheckpointError as `predict_outputs`.
    """
    return to_probabilities(network.spec, predict_outputs(network, pixels, choice, batch_size, tta=tta))


@torch.inference_mode()
def predict_outputs(
    network: GradingNetwork, pixels: Tensor, choice: DeviceChoice, batch_size: int = 32, *, tta: bool = False
) -> Tensor:
    """Outputs of the head (N, n) float32 on the CPU, for preprocessed images (N, 3, S, S) uint8, in evaluation mode.

    With `tta` (test-time augmentation) they are means over the four horizontal and vertical flips. Raises
    CheckpointError where an output is not a finite number.
    """
    batches = _batches(network, pixels, choice, batch_size, tta)
    with _evaluating(network):
        parts = [_mean_outputs(network, map(network.outputs, views), choice) for views in batches]
    return torch.cat(parts) if parts else torch.zeros(0, NUM_OUTPUTS[network.spec.head])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GradedFeatures:
    """Probabilities (N, 5), and the features (N, D) float32 of the same images."""

    probabilities: NDArray[np.float64]
    features: NDArray[np.float32]


@torch.inference_mode()
def predict_with_features(
    network: GradingNetwork, pixels: Tensor, choice: DeviceChoice, batch_size: int = 32, *, tta: bool = False
) -> GradedFeatures:
    """Probabilities as of `predict_probabilities`, and the features from which the network's last layer computes them.

    With `tta` the features are those of the image that is not mirrored. Raises CheckpointError as `predict_outputs`.
    """
    outputs, features = [torch.zeros(0, NUM_OUTPUTS[network.spec.head])], [torch.zeros(0, 0)]
    with _evaluating(network):
        for views in _batches(network, pixels, choice, batch_size, tta):
            with choice.autocast():
                first, seen = network.outputs_and_features(views[0])
            outputs.append(_mean_outputs(network, itertools.chain([first], map(network.outputs, views[1:])), choice))
            features.append(seen.cpu())
    return GradedFeatures(
        probabilities=to_probabilities(network.spec, torch.cat(outputs[1:] or outputs)),
        features=torch.cat(features[1:] or features).numpy(),
    )


def to_probabilities(spec: NetworkSpec, outputs: Tensor, calibration: Calibration | None = None) -> NDArray[np.float64]:
    """Outputs (N, n) -> probabilities (N, 5) float64, by the network's own calibration if `calibration` is None."""
    chosen = spec.calibration if calibration is None else calibration
    return torch.softmax(grade_logits(spec.head, outputs.double(), chosen), dim=1).cpu().numpy()


@contextlib.contextmanager
def _evaluating(network: GradingNetwork) -> Iterator[None]:
    """The network in evaluation mode; afterwards in the mode in which it was."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


def _batches(
    network: GradingNetwork, pixels: Tensor, choice: DeviceChoice, batch_size: int, tta: bool
) -> Iterator[list[Tensor]]:
    """The views of each batch of images (N, 3, S, S) uint8, in the memory format of the network.

    A view is (B, 3, S, S) in [0, 1] on the device; with `tta` there are three mirrored ones too.
    """
    for start in range(0, len(pixels), batch_size):
        images = scale_pixels(pixels[start : start + batch_size].to(choice.device))
        views = [images, images.flip(3), images.flip(2), images.flip(2, 3)] if tta else [images]
        yield [to_memory_format(network, view) for view in views]


def _mean_outputs(network: GradingNetwork, outputs: Iterable[Tensor], choice: DeviceChoice) -> Tensor:
    """The mean outputs of all views, on the CPU. Raises CheckpointError where one is not finite."""
    with choice.autocast():
        mean = torch.stack(list(outputs)).mean(dim=0)
    if not torch.isfinite(mean).all():
        raise CheckpointError(
            f"the network {network.spec.arch} gave values that are not finite at {choice.precision.value}; "
            "try --precision float32; if that does not help, the checkpoint is damaged"
        )
    return mean.cpu()
