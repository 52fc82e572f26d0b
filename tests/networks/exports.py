"""Exported graphs for tests, and networks compared by the outputs of their heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fundusgrade.networks.export import ExportRequest, export_model
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.onnx_export import to_onnx
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


def random_images(network: GradingNetwork, num: int, seed: int = 0) -> torch.Tensor:
    """Images (num, 3, S, S) in [0, 1], each brighter than the one before."""
    size = network.spec.size_px
    noise = torch.rand(num, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return noise * torch.linspace(0.2, 1, num).view(-1, 1, 1, 1)


@torch.inference_mode()
def outputs_of(network: GradingNetwork, images: torch.Tensor) -> NDArray[np.float32]:
    return network.outputs(images).numpy()
