"""PyTorch as the runtime of a network."""

from __future__ import annotations

from pathlib import Path

import torch

from fundusgrade.networks.checkpoint import Checkpoint, load_checkpoint
from fundusgrade.networks.device import DeviceChoice, choose_device
from fundusgrade.networks.inference import to_device, to_memory_format
from fundusgrade.networks.model import Model
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.runtime import PYTORCH, Arithmetic, Outputs, Pixels
from fundusgrade.networks.tensors import copy_to_device, scale_pixels
from fundusgrade.options import DeviceName, Precision


class TorchRuntime:
    """A network that PyTorch computes on the chosen device, in evaluation mode."""

    def __init__(self, network: GradingNetwork, choice: DeviceChoice) -> None:
        self.network = to_device(network, choice).eval()
        self.choice = choice

    @property
    def arithmetic(self) -> Arithmetic:
        """PyTorch, on the chosen device and at the chosen precision."""
        return Arithmetic(
            runtime=f"{PYTORCH} {'.'.join(torch.__version__.split('.')[:2])}",
            number_format=self.choice.precision.value,
            device=self.choice.device.type,
            reason=self.choice.reason,
        )

    @torch.inference_mode()
    def run(self, pixels: Pixels, *, with_features: bool) -> Outputs:
        """Outputs, and features if asked for, of preprocessed images (B, S, S, 3) uint8."""
        on_device = copy_to_device(torch.from_numpy(pixels.copy()), self.choice.device)
        images = to_memory_format(self.network, scale_pixels(on_device.permute(0, 3, 1, 2)))
        with self.choice.autocast():
            if not with_features:
                return Outputs(outputs=self.network.outputs(images).cpu().numpy())
            outputs, features = self.network.outputs_and_features(images)
        return Outputs(outputs=outputs.cpu().numpy(), features=features.cpu().numpy())


def load_on_pytorch(path: Path, device: DeviceName, precision: Precision) -> TorchRuntime:
    """A checkpoint's network in PyTorch. Raises as `load_checkpoint` and `choose_device`."""
    return TorchRuntime(load_checkpoint(path).network, choose_device(device, precision))


def on_pytorch(checkpoint: Checkpoint, choice: DeviceChoice) -> Model:
    """A checkpoint as a model that PyTorch computes."""
    return Model(
        description=checkpoint.description,
        fingerprints=checkpoint.fingerprints,
        checks=checkpoint.checks,
        runtime=TorchRuntime(checkpoint.network, choice),
    )
