"""The network: the small CNN, and a backbone with a grading head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fundusgrade.grades import NUM_GRADES
from fundusgrade.networks.head_logits import grade_logits
from fundusgrade.networks.heads import Calibration
from fundusgrade.networks.spec import NetworkSpec

# Initial bias of a regression head: near the mean grade of the usual data sets.
INITIAL_SEVERITY = 1.0


class SmallCnn(nn.Module):
    """Three convolution layers and a linear one, trained from scratch: the baseline of comparisons."""

    def __init__(self, num_outputs: int = NUM_GRADES, dropout: float = 0.2) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 32, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 5, padding=2, bias=False), nn.BatchNorm2d(128), nn.ReLU(),
        )  # fmt: skip
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(128, num_outputs)
        if num_outputs == 1:
            nn.init.constant_(self.classifier.bias, INITIAL_SEVERITY)

    def forward(self, x: Tensor) -> Tensor:
        """Normalized images (B, 3, H, W) -> outputs of the head (B, n)."""
        logits: Tensor = self.classifier(self.forward_head(self.forward_features(x)))
        return logits

    # The three functions by which timm's networks give their features.

    def forward_features(self, x: Tensor) -> Tensor:
        """Normalized images (B, 3, H, W) -> feature maps (B, 128, h, w)."""
        maps: Tensor = self.features(x)
        return maps

    def forward_head(self, x: Tensor, *, pre_logits: bool = True) -> Tensor:
        """Feature maps -> their means (B, 128), the input of the last layer; its outputs where not `pre_logits`."""
        pooled: Tensor = self.dropout(x.mean(dim=(2, 3)))
        return pooled if pre_logits else self.classifier(pooled)

    def get_classifier(self) -> nn.Linear:
        """The last layer."""
        return self.classifier


class GradingNetwork(nn.Module):
    """A backbone with a head: images (B, 3, S, S) in [0, 1], which it normalizes itself -> logits (B, 5)."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: NetworkSpec, backbone: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) float in [0, 1] -> calibrated logits (B, 5) float32."""
        return grade_logits(self.spec.head, self.outputs(images), self.spec.calibration)

    def outputs(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) float in [0, 1] -> outputs of the head (B, n) float32, the input of the loss.

        Images may also consist of the network's rows only, (B, 3, rows, S).
        """
        outputs: Tensor = self.backbone(self.normalized(images))
        return outputs.float()

    def outputs_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images as of `outputs` -> outputs of the head (B, n) and features (B, D), the input of its last layer.

        The outputs are those of `outputs`, computed in the same steps; both are float32.
        """
        backbone: Any = self.backbone
        features = backbone.forward_head(backbone.forward_features(self.normalized(images)), pre_logits=True)
        return backbone.get_classifier()(features).float(), features.float()

    @torch.inference_mode()
    def gives_features(self) -> bool:
        """Whether `outputs_and_features` gives the outputs of `outputs`, as tried on noise in evaluation mode.

        Exported graphs have no features; some networks have two last layers, or compute something else before them.
        """
        was_training = self.training
        noise = torch.Generator().manual_seed(0)
        images = torch.rand(2, 3, self.spec.size_px, self.spec.size_px, generator=noise).to(self.mean.device)
        self.eval()
        try:
            outputs, features = self.outputs_and_features(images)
            return features.ndim == 2 and torch.allclose(outputs, self.outputs(images), rtol=1e-3, atol=1e-3)
        except Exception:  # it is the network's own code that is run
            return False
        finally:
            self.train(was_training)

    def normalized(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) float in [0, 1] -> normalized rows of the network (B, 3, rows, S)."""
        if self.spec.rows is not None and images.shape[2] == self.spec.size_px:
            top, bottom = self.spec.rows
            images = images[:, :, top:bottom]
        return (images - self.mean) / self.std

    def calibrate(self, calibration: Calibration) -> None:
        """Replace the calibration."""
        self.spec = replace(self.spec, calibration=calibration)

    @property
    def prefers_channels_last(self) -> bool:
        """Whether it runs faster in channels-last memory format on its device, and computes correctly.

        Convolutions do, patch embeddings do not.
        """
        convolutions = [module for module in self.modules() if isinstance(module, nn.Conv2d)]
        if self.mean.device.type == "cpu" and any(map(_corrupts_memory, convolutions)):
            return False
        return any(module.kernel_size != module.stride for module in convolutions)


def _corrupts_memory(convolution: nn.Conv2d) -> bool:
    """Whether a convolution's gradient would be written beyond its memory on a CPU, in channels-last memory format.

    PyTorch 2.14's kernels do so for 1 x 1 kernels with a stride, of 2 to 15 input channels, which the stems of FastViT,
    MobileOne and RepVGG have: the process crashes, or goes on with other tensors changed.
    """
    has_steps = convolution.kernel_size == (1, 1) and max(convolution.stride) > 1
    return has_steps and convolution.groups == 1 and 1 < convolution.in_channels < 16
