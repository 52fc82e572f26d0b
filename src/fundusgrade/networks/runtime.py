"""What computes a network: PyTorch, or a graph in another runtime; and predictions by any of them.

From the outputs of the network on, everything is NumPy's: the mean over mirrored views, the head, the calibration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fundusgrade.errors import CheckpointError
from fundusgrade.networks.heads import NUM_OUTPUTS, grade_probabilities
from fundusgrade.networks.spec import NetworkSpec

PYTORCH, OPENVINO, ONNX_RUNTIME = "PyTorch", "OpenVINO", "ONNX Runtime"
"""The names of the runtimes, as they are written before their versions."""
Pixels = NDArray[np.uint8]
"""Preprocessed images (B, S, S, 3), RGB."""
_NO_MIRRORING: tuple[int, ...] = ()
# Axes of the images that are reversed in each view of test-time augmentation, the unchanged image first.
_VIEWS = (_NO_MIRRORING, (2,), (1,), (1, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """Which runtime computes a network, with its version ("OpenVINO 2026.4"), in which number format, where, and why.

    `device` is "cpu", "cuda" or "mps".
    """

    runtime: str
    number_format: str
    device: str
    reason: str

    def describe(self) -> str:
        """One line for people."""
        return f"runtime: {self.runtime}, {self.number_format}, {self.device}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outputs:
    """Outputs of the head (B, n) float32 and features (B, D) float32, the input of the network's last layer.

    `features` are None where they were not asked for, or the network gives none.
    """

    outputs: NDArray[np.float32]
    features: NDArray[np.float32] | None = None


class Runtime(Protocol):
    """A network that is ready to run; several threads may use it at once."""

    @property
    def arithmetic(self) -> Arithmetic:
        """Which runtime it is, and how it computes."""

    def run(self, pixels: Pixels, *, with_features: bool) -> Outputs:
        """Outputs, and features if asked for, of preprocessed images (B, S, S, 3) uint8."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Graded:
    """Probabilities (N, 5), and the features (N, D) float32 of the same images; None where not asked for."""

    probabilities: NDArray[np.float64]
    features: NDArray[np.float32] | None = None


def predict(
    runtime: Runtime,
    spec: NetworkSpec,
    pixels: Pixels,
    *,
    batch_size: int,
    tta: bool = False,
    with_features: bool = False,
) -> Graded:
    """Probabilities of preprocessed images (N, S, S, 3) uint8, and the features of the images, if asked for.

    With `tta` (test-time augmentation) outputs are means over the four horizontal and vertical flips, and features are
    those of the image that is not mirrored. Raises CheckpointError where an output is not a finite number.
    """
    parts = [
        _run_views(runtime, pixels[start : start + batch_size], tta=tta, with_features=with_features)
        for start in range(0, len(pixels), batch_size)
    ]
    outputs = np.concatenate([np.zeros((0, NUM_OUTPUTS[spec.head]), np.float32), *(part.outputs for part in parts)])
    check_finite(outputs, spec, runtime.arithmetic.number_format)
    features = [part.features for part in parts if part.features is not None]
    return Graded(
        probabilities=grade_probabilities(spec.head, outputs, spec.calibration),
        features=np.concatenate(features) if features else None,
    )


def check_finite(outputs: NDArray[np.float32], spec: NetworkSpec, number_format: str) -> None:
    """Raise CheckpointError where an output of a network is not a finite number."""
    if not np.isfinite(outputs).all():
        raise CheckpointError(
            f"the network {spec.arch} gave values that are not finite at {number_format}; "
            "try --precision float32; if that does not help, the checkpoint is damaged"
        )


def _run_views(runtime: Runtime, pixels: Pixels, *, tta: bool, with_features: bool) -> Outputs:
    first = runtime.run(pixels, with_features=with_features)
    if not tta:
        return first
    mirrored = [runtime.run(np.flip(pixels, axes), with_features=False).outputs for axes in _VIEWS[1:]]
    mean = np.stack([first.outputs, *mirrored]).mean(axis=0)
    return Outputs(outputs=np.asarray(mean, np.float32), features=first.features)
