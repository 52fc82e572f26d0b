"""Inference with PyTorch: images as tensors -> outputs of the head -> probabilities of the five grades.

Training and its evaluation use it; `runtime.predict` grades photographs, by PyTorch too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.heads import NUM_OUTPUTS, Calibration, grade_probabilities
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.runtime import check_finite
from fundusgrade.networks.spec import NetworkSpec
from fundusgrade.networks.tensors import copy_to_device, scale_pixels


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
    network: GradingNetwork, pixels: Tensor, choice: DeviceChoice, batch_size: int = 32
) -> NDArray[np.float64]:
    """Probabilities (N, 5) of preprocessed images (N, 3, S, S) uint8, in evaluation mode.

    Raises CheckpointError as `predict_outputs`.
    """
    return to_probabilities(network.spec, predict_outputs(network, pixels, choice, batch_size))


@torch.inference_mode()
def predict_outputs(network: GradingNetwork, pixels: Tensor, choice: DeviceChoice, batch_size: int = 32) -> Tensor:
    """Outputs of the head (N, n) float32 on the CPU, for preprocessed images (N, 3, S, S) uint8, in evaluation mode.

    Raises CheckpointError where an output is not a finite number.
    """
    parts = [torch.zeros(0, NUM_OUTPUTS[network.spec.head])]
    with _evaluating(network), choice.autocast():
        parts += [network.outputs(images).cpu() for images in _batches(network, pixels, choice, batch_size)]
    return _finite(network, torch.cat(parts), choice)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GradedFeatures:
    """Probabilities (N, 5), and the features (N, D) float32 of the same images."""

    probabilities: NDArray[np.float64]
    features: NDArray[np.float32]


@torch.inference_mode()
def predict_with_features(
    network: GradingNetwork, pixels: Tensor, choice: DeviceChoice, batch_size: int = 32
) -> GradedFeatures:
    """Probabilities as of `predict_probabilities`, and the features from which the network's last layer computes them.

    Raises CheckpointError as `predict_outputs`.
    """
    outputs, features = [torch.zeros(0, NUM_OUTPUTS[network.spec.head])], [torch.zeros(0, 0)]
    with _evaluating(network), choice.autocast():
        for images in _batches(network, pixels, choice, batch_size):
            first, seen = network.outputs_and_features(images)
            outputs.append(first.cpu())
            features.append(seen.cpu())
    return GradedFeatures(
        probabilities=to_probabilities(network.spec, _finite(network, torch.cat(outputs), choice)),
        features=torch.cat(features[1:] or features).numpy(),
    )


def to_probabilities(spec: NetworkSpec, outputs: Tensor, calibration: Calibration | None = None) -> NDArray[np.float64]:
    """Outputs (N, n) -> probabilities (N, 5) float64, by the network's own calibration if `calibration` is None."""
    chosen = spec.calibration if calibration is None else calibration
    return grade_probabilities(spec.head, outputs.detach().float().cpu().numpy(), chosen)


@contextlib.contextmanager
def _evaluating(network: GradingNetwork) -> Iterator[None]:
    """The network in evaluation mode; afterwards in the mode in which it was."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


def _batches(network: GradingNetwork, pixels: Tensor, choice: DeviceChoice, batch_size: int) -> Iterator[Tensor]:
    """Batches of images (B, 3, S, S) in [0, 1] on the device, in the memory format of the network."""
    for start in range(0, len(pixels), batch_size):
        on_device = copy_to_device(pixels[start : start + batch_size], choice.device)
        yield to_memory_format(network, scale_pixels(on_device))


def _finite(network: GradingNetwork, outputs: Tensor, choice: DeviceChoice) -> Tensor:
    check_finite(outputs.numpy(), network.spec, choice.precision.value)
    return outputs
