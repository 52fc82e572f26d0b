"""A network -> its graph for another runtime, in full precision or in 8 bits."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fundusgrade.errors import ExportError
from fundusgrade.networks.graphs import optional_package
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.spec import NetworkSpec

INPUT_NAME, OUTPUT_NAME = "images", "outputs"
"""Names of a graph's input, normalized images (B, 3, rows, width), and of its output, outputs of the head (B, n)."""

_EXPORTING = "`fundusgrade export`"
_METADATA_OF_QUANTIZER = ("onnx.quant.pre_process", "onnxruntime.quant")
# A transformer's sums and norms have rare, large values, which 8 bits per tensor cannot hold beside small ones.
_PRODUCTS = ("Conv", "Gemm", "MatMul")
_LINEAR = ("Gemm", "MatMul")


def to_onnx(network: GradingNetwork) -> Any:
    """The backbone as an ONNX model for batches of any size; batch norms are folded into convolutions.

    Raises ExportError where PyTorch cannot trace the architecture, CheckpointError where a package is missing.
    """
    example = torch.zeros(2, 3, *network.spec.input_px)
    return trace_to_onnx(network.backbone, example, [OUTPUT_NAME], network.spec)


def trace_to_onnx(module: nn.Module, example: Tensor, output_names: list[str], spec: NetworkSpec) -> Any:
    """A module as an ONNX model for batches of any size of inputs like the example. Raises as `to_onnx`."""
    for package in ("onnx", "onnxscript"):
        optional_package(package, "onnx", _EXPORTING)
    try:
        program: Any = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[INPUT_NAME],
            output_names=output_names,
            external_data=False,
            verbose=False,
        )
    except Exception as error:  # tracing runs the network's code with other types, and may fail in any way
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ExportError(
            f"PyTorch {torch.__version__} cannot export {spec.timm_name or spec.arch} ({reason}); "
            "use its safetensors file, or --format hub"
        ) from error
    return _without_traces(program.model_proto)


def _without_traces(model: Any) -> Any:
    """The model without the file names and lines of code that PyTorch notes at its nodes: they are of this machine."""
    del model.metadata_props[:]
    for described in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del described.metadata_props[:]
        described.ClearField("doc_string")
    for described in (*model.graph.input, *model.graph.output):
        del described.metadata_props[:]
    return model


def quantize(model: Any, batches: Iterator[NDArray[np.float32]]) -> Any:
    """The ONNX model in 8 bits (QDQ form), calibrated on batches of normalized images (B, 3, rows, width) float32.

    Weights are signed with a scale for each channel, activations unsigned, as VNNI multiplies them. An activation's
    range is the mean of those of the batches: with the range over all batches, a ResNet-50 uses too few of the 256
    steps. The last linear layer stays in float32: it costs little, and errors in it go straight into the logits.
    Raises CheckpointError where a package is missing.
    """
    onnx = optional_package("onnx", "onnx", f"{_EXPORTING} --int8")
    optional_package("onnxruntime", "onnx", f"{_EXPORTING} --int8")
    from onnxruntime import quantization

    class Images(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(batches, None)
            return None if batch is None else {INPUT_NAME: batch}

    copied = onnx.ModelProto()
    copied.CopyFrom(model)  # the quantizer moves the weights out of its input
    # Shapes are known and batch norms folded already; without this entry the quantizer warns that they may not be.
    onnx.helper.set_model_props(copied, dict([_METADATA_OF_QUANTIZER]))
    kinds = {node.op_type for node in model.graph.node}
    last = [node.name for node in model.graph.node if node.op_type in _LINEAR][-1]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        path = Path(folder) / "quantized.onnx"
        quantization.quantize_static(
            copied,
            path,
            Images(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=_PRODUCTS if "LayerNormalization" in kinds else None,
            nodes_to_exclude=[last],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"CalibMovingAverage": True},
        )
        quantized = onnx.load(path)
    return _without_traces(quantized)


def to_openvino(model: bytes) -> tuple[bytes, bytes]:
    """An ONNX model as the two files of OpenVINO, .xml (the graph) and .bin (its weights, in the same precision).

    Raises ExportError where OpenVINO cannot convert it, CheckpointError where OpenVINO is not installed.
    """
    openvino = optional_package("openvino", "openvino", f"{_EXPORTING} --format openvino")
    try:
        return openvino_files(openvino.Core().read_model(model))
    except RuntimeError as error:
        raise ExportError(
            f"OpenVINO {openvino.__version__} cannot convert this network ({error}); use --format onnx"
        ) from error


def openvino_files(model: Any) -> tuple[bytes, bytes]:
    """A model of OpenVINO as the contents of its two files, .xml and .bin. Raises RuntimeError where it cannot."""
    openvino = optional_package("openvino", "openvino", f"{_EXPORTING} --format openvino")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.xml"
        openvino.save_model(model, path, compress_to_fp16=False)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()
