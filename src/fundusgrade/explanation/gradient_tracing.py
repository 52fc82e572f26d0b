"""A network -> a graph for OpenVINO that computes the gradients of its scores, and the proof that they are the same.

PyTorch traces the score together with its gradient (reverse mode) into one list of operations, in which OpenVINO finds
no gradients any more, only operations that it knows (`gradient_operations`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from fundusgrade.errors import ExplanationError, ExportError
from fundusgrade.explanation.attribution import heat_maps
from fundusgrade.explanation.gradient_operations import decompositions, simplify
from fundusgrade.explanation.graph_gradients import SCORES, GraphGradients
from fundusgrade.explanation.heat_map import ExplainOptions, HeatMap
from fundusgrade.explanation.layers import MapLayer, find_layers
from fundusgrade.explanation.target_scores import target_scores
from fundusgrade.explanation.targets import REFERABLE
from fundusgrade.explanation.torch_gradients import explain_image_by_methods
from fundusgrade.networks.conversion import probe_images
from fundusgrade.networks.device import choose_device
from fundusgrade.networks.graph_files import load_graph
from fundusgrade.networks.graph_store import ConvertedGraph
from fundusgrade.networks.graphs import optional_package
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.onnx_export import openvino_files
from fundusgrade.networks.torch_runtime import TorchRuntime
from fundusgrade.options import Attribution, DeviceName, ExportFormat, Layer, Precision
from fundusgrade.text import error_text, shortened

TOLERANCES = {Precision.FLOAT32.value: 0.02, Precision.BFLOAT16.value: 0.25}
"""How far heat maps of a graph may be from those of PyTorch in float32, as a share of their length, by number format.

Those in float32 prove the conversion. In bfloat16 rounding moves maps, those of PyTorch as much (docs/explanations.md);
where it moves them further, float32 is taken.
"""
_PROBES = slice(2, 7, 2)  # three, with few and with many spots
_MAX_REASON = 200
_METHODS = (Attribution.INTEGRATED_GRADIENTS, Attribution.GRAD_CAM)


def gradient_files(network: GradingNetwork) -> tuple[bytes, bytes]:
    """The files of OpenVINO, .xml and .bin, of the graph that `GraphGradients` runs.

    Raises ExportError where the network cannot be traced or OpenVINO cannot convert it, CheckpointError where OpenVINO
    is missing.
    """
    openvino = optional_package("openvino", "openvino", "converting a model")
    network = network.eval().requires_grad_(False)
    try:
        with warnings.catch_warnings():  # of PyTorch's tracer, on what depends on the example: it has one size
            warnings.simplefilter("ignore")
            traced, example = trace_gradients(network)
            program = torch.jit.trace(traced, example, check_trace=False)  # type: ignore[no-untyped-call]
            shapes = [list(each.shape) for each in example]
            return openvino_files(openvino.convert_model(program, example_input=example, input=shapes))
    except Exception as error:  # tracing runs the network's code, which may fail in any way
        reason = shortened(error_text(error), _MAX_REASON)
        name = network.spec.timm_name or network.spec.arch
        raise ExportError(f"the gradients of {name} cannot be converted for OpenVINO ({reason})") from error


def trace_gradients(network: GradingNetwork) -> tuple[GraphModule, tuple[Tensor, Tensor]]:
    """The operations from an image and a choice of score to the gradients, and example inputs.

    Inputs: an image of the network's rows (1, 3, rows, width) in [0, 1], and a weight for each of SCORES (1, 7).
    Outputs: the gradient of the weighted scores to the image, the last feature map (1, K, h, w), and the gradient to
    it; without the last two where the network has no such map. Raises whatever the network's code raises.
    """
    image = torch.full((1, 3, *network.spec.input_px), 0.5)
    weights = torch.ones(1, len(SCORES))
    layer = _last_map(network)
    function = _gradients_of(network, layer, _map_shape(network, layer, image) if layer else None)
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no list of operations
        traced = make_fx(torch.func.functionalize(function), decomposition_table=decompositions())(image, weights)
    simplify(traced)
    return traced, (image, weights)


def _gradients_of(
    network: GradingNetwork, layer: MapLayer | None, map_shape: torch.Size | None
) -> Callable[[Tensor, Tensor], tuple[Tensor, ...]]:
    vjp: Callable[..., Any] = torch.func.vjp

    def gradients(image: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        seen: list[Tensor] = []

        def score(image: Tensor, change: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
            def change_map(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
                seen.append(output)
                return output if change is None else output + change

            handle = layer.module.register_forward_hook(change_map) if layer else None
            try:
                logits = network(image)
            finally:
                if handle:
                    handle.remove()
            scores = torch.stack([target_scores(each, logits) for each in SCORES], dim=1)
            return (scores * weights).sum(), tuple(seen)

        if layer is None or map_shape is None:
            _, pull_back, _ = vjp(lambda image: score(image, None), image, has_aux=True)
            return (pull_back(torch.ones(()))[0],)
        _, pull_back, maps = vjp(score, image, torch.zeros(map_shape), has_aux=True)
        of_image, of_map = pull_back(torch.ones(()))
        return of_image, layer.arrange(maps[0]), layer.arrange(of_map)

    return gradients


def _last_map(network: GradingNetwork) -> MapLayer | None:
    """The feature map of Grad-CAM; None where the architecture has none."""
    try:
        return find_layers(network, Layer.LAST, *network.spec.input_px)[0]
    except ExplanationError:
        return None


@torch.inference_mode()
def _map_shape(network: GradingNetwork, layer: MapLayer, image: Tensor) -> torch.Size | None:
    """The shape of the module's output; None where it gives no feature map, or not exactly one in each pass."""
    shapes: list[torch.Size] = []

    def note(module: nn.Module, inputs: object, output: Tensor) -> None:
        layer.arrange(output)
        shapes.append(output.shape)

    handle = layer.module.register_forward_hook(note)
    try:
        network(image)
    except ExplanationError:
        return None
    finally:
        handle.remove()
    return shapes[0] if len(shapes) == 1 else None


def check_gradients(network: GradingNetwork, converted: ConvertedGraph) -> dict[str, float]:
    """Heat maps of drawn images by the graph, in float32 and in its own number format, and by PyTorch in float32.

    Returns the distance by method and number format. Raises ExportError where one exceeds the TOLERANCES.
    """
    own, float32 = converted.arithmetic.number_format, Precision.FLOAT32.value
    proof = converted.graph
    if own != float32:
        proof = load_graph(ExportFormat.OPENVINO, converted.contents, float32, "the graph of gradients")
    choice = choose_device(DeviceName.CPU, Precision.FLOAT32)
    grading, images = TorchRuntime(network, choice), probe_images(network.spec)[_PROBES]
    graphs = {float32: proof, own: converted.graph}
    sources = {name: GraphGradients(grading, graph, network.spec) for name, graph in graphs.items()}
    distances: dict[str, float] = {}
    for options in [ExplainOptions(target=REFERABLE, method=method) for method in _METHODS]:
        if not all(source.fits(options) for source in sources.values()):
            continue
        expected = [explain_image_by_methods(network, each, methods=[options], choice=choice)[0] for each in images]
        for number_format, source in sources.items():
            found = [heat_maps(source, image, [options])[0] for image in images]
            distance = map_distance(found, expected)
            distances[f"{options.method.value} {number_format}"] = distance
            if not distance <= TOLERANCES[number_format]:
                raise ExportError(
                    f"{options.method.value} by {converted.graph.name} in {number_format} differs from that by PyTorch "
                    f"by {distance:.0%} on drawn images (allowed are {TOLERANCES[number_format]:.0%})"
                )
    return distances


def map_distance(found: Sequence[HeatMap], expected: Sequence[HeatMap]) -> float:
    """The distance of heat maps on their preprocessed images, as a share of the length of those expected.

    It is that of all maps together: of a map that is nearly empty rounding can leave nothing, or double it.
    """
    values, others = (np.stack([each.values for each in maps]) for maps in (found, expected))
    return float(np.linalg.norm(values - others)) / max(float(np.linalg.norm(others)), 1e-12)
