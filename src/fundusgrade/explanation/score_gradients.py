"""A network as explanations need it: its logits, the gradients of its scores, and its feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.explanation.targets import Target
from fundusgrade.networks.spec import NetworkSpec
from fundusgrade.photographs.pixels import Image


def scaled(image: Image) -> NDArray[np.float32]:
    """An image (S, S, 3) uint8 -> (3, S, S) float32 in [0, 1], of which gradients are taken."""
    return image.transpose(2, 0, 1).astype(np.float32) / np.float32(255)


class ScoreGradients(Protocol):
    """A network whose scores have gradients: by PyTorch, or by a graph of another runtime."""

    @property
    def spec(self) -> NetworkSpec:
        """The network's description."""

    def logits(self, images: Sequence[Image]) -> NDArray[np.floating]:
        """The calibrated logits (B, 5) of preprocessed images (S, S, 3) uint8, which do not depend on one another."""

    def gradients(self, images: NDArray[np.float32], target: Target) -> NDArray[np.float32]:
        """Gradients (B, 3, S, S) of the score of a resolved target to each of the images (B, 3, S, S) in [0, 1]."""

    def map_cells(self, image: Image, options: ExplainOptions) -> NDArray[np.float32]:
        """The signed map (h, w) of an image (S, S, 3) by a method that uses feature maps or attention.

        The target of the options is resolved. The map is in units of its score for Grad-CAM and HiResCAM. Raises
        ExplanationError where the method does not fit the architecture.
        """
