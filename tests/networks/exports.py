"""Exported graphs for tests, and networks compared by the outputs of their heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fundusgrade.networks.export import ExportRequest, export_model
from fundusgrade.networks.graphs import GraphRuntime
from fundusgrade.networks.model import Model
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.onnx_export import to_onnx
from fundusgrade.networks.runtime import Pixels
from fundusgrade.networks.spec import NetworkSpec
from fundusgrade.networks.tensors import scale_pixels
from fundusgrade.options import ExportFormat

GRAPHS = (ExportFormat.ONNX, ExportFormat.OPENVINO)

_traced: dict[tuple[object, ...], bytes] = {}


def traced_once(network: GradingNetwork) -> Any:
    """What `to_onnx` gives for a network with these weights, computed for the first test that needs it."""
    import onnx

    weights = tuple(float(tensor.double().sum()) for tensor in network.state_dict().values())
    key = (str(network.spec), weights)
    if key not in _traced:
        _traced[key] = to_onnx(network).SerializeToString()
    return onnx.ModelProto.FromString(_traced[key])


def exported(model: Path, folder: Path, format: ExportFormat = ExportFormat.ONNX) -> Path:
    """The file of a graph of the model, without an export check."""
    out = folder / ("graph.onnx" if format is ExportFormat.ONNX else "graph.xml")
    return export_model(ExportRequest(format=format, model=str(model), out=out, check=False)).paths[0]


def random_pixels(spec: NetworkSpec, num: int, seed: int = 0) -> Pixels:
    """Images (num, S, S, 3), each brighter than the one before."""
    noise = np.random.default_rng(seed).uniform(0, 255, (num, spec.size_px, spec.size_px, 3))
    return (noise * np.linspace(0.2, 1, num).reshape(-1, 1, 1, 1)).astype(np.uint8)


@torch.inference_mode()
def outputs_of(network: GradingNetwork, pixels: Pixels) -> NDArray[np.float32]:
    """PyTorch's outputs in float32 for images (N, S, S, 3)."""
    return network.outputs(scale_pixels(torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2))).numpy()


def graph_outputs(model: Model, pixels: Pixels) -> NDArray[np.float32]:
    """A graph's outputs for images (N, S, S, 3)."""
    assert isinstance(model.runtime, GraphRuntime)
    return model.runtime.run(pixels, with_features=False).outputs
