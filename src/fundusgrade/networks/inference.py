"""Inference: preprocessed images -> outputs of the head -> probabilities of the five grades."""

from __future__ import annotations

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
    if network.prefers_channels_last:
        return network.to(choice.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
    return network.to(choice.device)


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
    was_training = network.training
    network.eval()
    starts = range(0, len(pixels), batch_size)
    try:
        parts = [_predict_batch(network, pixels[start : start + batch_size], choice, tta) for start in starts]
    finally:
        network.train(was_training)
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
    was_training = network.training
    network.eval()
    starts = range(0, len(pixels), batch_size)
    outputs, features = [torch.zeros(0, NUM_OUTPUTS[network.spec.head])], [torch.zeros(0, 0)]
    try:
        for start in starts:
            views = _views(pixels[start : start + batch_size], choice, tta)
            with choice.autocast():
                first, seen = network.outputs_and_features(to_memory_format(network, views[0]))
                others = [network.outputs(to_memory_format(network, view)) for view in views[1:]]
            outputs.append(_checked(network, torch.stack([first, *others]).mean(dim=0), choice))
            features.append(seen.cpu())
    finally:
        network.train(was_training)
    return GradedFeatures(
        probabilities=to_probabilities(network.spec, torch.cat(outputs[1:] or outputs)),
        features=torch.cat(features[1:] or features).numpy(),
    )


def to_probabilities(spec: NetworkSpec, outputs: Tensor, calibration: Calibration | None = None) -> NDArray[np.float64]:
    """Outputs (N, n) -> probabilities (N, 5) float64, by the network's own calibration if `calibration` is None."""
    chosen = spec.calibration if calibration is None else calibration
    return torch.softmax(grade_logits(spec.head, outputs.double(), chosen), dim=1).cpu().numpy()


def _predict_batch(network: GradingNetwork, pixels: Tensor, choice: DeviceChoice, tta: bool) -> Tensor:
    views = _views(pixels, choice, tta)
    with choice.autocast():
        outputs = torch.stack([network.outputs(to_memory_format(network, view)) for view in views]).mean(dim=0)
    return _checked(network, outputs, choice)


def _views(pixels: Tensor, choice: DeviceChoice, tta: bool) -> list[Tensor]:
    """Images (B, 3, S, S) uint8 in [0, 1] on the device; with `tta` mirrored in three ways too."""
    images = scale_pixels(pixels.to(choice.device))
    return [images, images.flip(3), images.flip(2), images.flip(2, 3)] if tta else [images]


def _checked(network: GradingNetwork, outputs: Tensor, choice: DeviceChoice) -> Tensor:
    """Outputs on the CPU. Raises CheckpointError where one is not finite."""
    if not torch.isfinite(outputs).all():
        raise CheckpointError(
            f"the network {network.spec.arch} gave values that are not finite at {choice.precision.value}; "
            "try --precision float32; if that does not help, the checkpoint is damaged"
        )
    return outputs.cpu()
