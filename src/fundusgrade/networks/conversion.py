"""A network of PyTorch -> a graph for another runtime that takes pixels, and the proof that it computes the same."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from fundusgrade.errors import CheckpointError, ExportError
from fundusgrade.networks.device import choose_device
from fundusgrade.networks.graphs import optional_package
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.onnx_export import openvino_files, trace_to_onnx
from fundusgrade.networks.runtime import Graded, Pixels, Runtime, predict
from fundusgrade.networks.spec import NetworkSpec
from fundusgrade.networks.tensors import scale_pixels
from fundusgrade.networks.torch_runtime import TorchRuntime
from fundusgrade.options import DeviceName, ExportFormat, Precision
from fundusgrade.text import error_text, shortened

_NUM_PROBES = 9
# Batches of other sizes than the traced one: the last one of 9 images is a single image.
_PROBE_BATCH = 4
_MAX_REASON = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The largest difference of a probability, and of the features as a share of their length, on drawn images."""

    probability_change: float
    feature_change: float


TOLERANCES = {
    Precision.FLOAT32.value: Agreement(probability_change=0.001, feature_change=0.001),
    Precision.BFLOAT16.value: Agreement(probability_change=0.05, feature_change=0.15),
}
"""How far a graph may be from PyTorch in float32, by its number format: bfloat16 has 8 binary digits."""


class PixelNetwork(nn.Module):
    """The network from the pixels of its rows (B, rows, width, 3) uint8 to the outputs, and features if it has them."""

    def __init__(self, network: GradingNetwork) -> None:
        super().__init__()
        self.network = network
        self.gives_features = network.gives_features()

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Outputs of the head (B, n), and features (B, D)."""
        images = scale_pixels(pixels.permute(0, 3, 1, 2))
        return self.network.outputs_and_features(images) if self.gives_features else (self.network.outputs(images),)


def convert(network: GradingNetwork, format: ExportFormat) -> tuple[bytes, ...]:
    """The contents of a graph's files, in the order of `graph_files.SUFFIXES`, for batches of any size.

    Raises ExportError where the network cannot be converted, CheckpointError where a package is missing.
    """
    module = PixelNetwork(network).eval()
    example = torch.zeros(2, *network.spec.input_px, 3, dtype=torch.uint8)
    if format is ExportFormat.OPENVINO:
        return openvino_files(_openvino_model(module, example, network))
    names = ["outputs", "features"] if module.gives_features else ["outputs"]
    return (trace_to_onnx(module, example, names, network.spec).SerializeToString(),)


def check_agreement(network: GradingNetwork, graph: Runtime) -> Agreement:
    """Grade drawn images by PyTorch in float32 and by the graph.

    Raises ExportError where they differ by more than the TOLERANCES of the graph's number format.
    """
    pixels = probe_images(network.spec)
    with_features = network.gives_features()
    by_torch = TorchRuntime(network, choose_device(DeviceName.CPU, Precision.FLOAT32))
    expected, found = (
        predict(runtime, network.spec, pixels, batch_size=_PROBE_BATCH, with_features=with_features)
        for runtime in (by_torch, graph)
    )
    agreement = _agreement(expected, found)
    limit = TOLERANCES[graph.arithmetic.number_format]
    if not (
        agreement.probability_change <= limit.probability_change and agreement.feature_change <= limit.feature_change
    ):
        raise ExportError(
            f"{graph.arithmetic.runtime} differs from PyTorch by {agreement.probability_change:.3f} in a probability "
            f"and {agreement.feature_change:.1%} in the features of drawn images (allowed are "
            f"{limit.probability_change} and {limit.feature_change:.1%})"
        )
    return agreement


def probe_images(spec: NetworkSpec) -> Pixels:
    """Drawn images (N, S, S, 3): discs of smooth color with spots, of which each has more than the one before."""
    size, rng = spec.size_px, np.random.default_rng(0)
    images = np.zeros((_NUM_PROBES, size, size, 3), np.uint8)
    for number, image in enumerate(images):
        coarse = rng.uniform((90, 40, 10), (220, 130, 90), (6, 6, 3)).astype(np.float32)
        smooth = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
        for x, y, radius, shade in rng.uniform((0, 0, 0.004, -60), (1, 1, 0.02, 90), (8 * number, 4)):
            cv2.circle(smooth, (int(x * size), int(y * size)), max(1, int(radius * size)), (220 + shade,) * 3, -1)
        disc = cv2.circle(np.zeros((size, size), np.uint8), (size // 2, size // 2), size // 2, 1, -1)
        image[:] = np.clip(smooth, 0, 255).astype(np.uint8) * disc[..., None]
    return images


def _agreement(expected: Graded, found: Graded) -> Agreement:
    feature_change = 0.0
    if expected.features is not None:
        if found.features is None or found.features.shape != expected.features.shape:
            raise ExportError("the graph gives no features")
        lengths = np.linalg.norm(expected.features, axis=1)
        feature_change = float((np.linalg.norm(found.features - expected.features, axis=1) / lengths).max())
    return Agreement(
        probability_change=float(np.abs(found.probabilities - expected.probabilities).max()),
        feature_change=feature_change,
    )


def _openvino_model(module: nn.Module, example: Tensor, network: GradingNetwork) -> Any:
    openvino = optional_package("openvino", "openvino", "converting a model")
    try:
        with warnings.catch_warnings():  # of PyTorch's tracer, on what depends on the example: batches are tested
            warnings.simplefilter("ignore")
            return openvino.convert_model(module, example_input=example)
    except CheckpointError:
        raise
    except Exception as error:  # tracing runs the network's code, which may fail in any way
        reason = shortened(error_text(error), _MAX_REASON)
        raise ExportError(
            f"OpenVINO {openvino.__version__} cannot convert {network.spec.timm_name or network.spec.arch} ({reason})"
        ) from error
