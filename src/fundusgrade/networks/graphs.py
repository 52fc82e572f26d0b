"""Exported graphs as backbones: networks that another runtime, onnxruntime or OpenVINO, computes on the CPU."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fundusgrade.errors import CheckpointError
from fundusgrade.networks.device import allowed_cores
from fundusgrade.options import Precision

# Several threads call at once; with one stream of OpenVINO they would wait for each other.
_MAX_STREAMS = 8

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class GraphBackbone(nn.Module):
    """A graph in the place of a backbone; `arithmetic` names runtime and number format, as "onnxruntime int8".

    `constants` is memory that the graph reads its weights from: it must exist as long as the graph runs.
    """

    def __init__(self, run: Run, arithmetic: str, *, constants: object = None) -> None:
        super().__init__()
        self.arithmetic = arithmetic
        self._run = run
        self._constants = constants

    def forward(self, x: Tensor) -> Tensor:
        """Normalized images (B, 3, rows, width) -> outputs of the head (B, n), on the CPU and without gradients."""
        return torch.from_numpy(self._run(np.ascontiguousarray(x.detach().numpy(), np.float32)))


def onnx_backbone(model: bytes, number_format: str, name: str) -> GraphBackbone:
    """An ONNX model as a backbone, which several threads may call at once; each call uses one core.

    Raises CheckpointError, which names `name`, where onnxruntime is not installed or cannot run the model.
    """
    runtime = optional_package("onnxruntime", "onnx", name)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors share no base
        raise CheckpointError(
            f"onnxruntime {runtime.__version__} cannot run {name} ({error}); export it again with this version"
        ) from error

    input_name = session.get_inputs()[0].name

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        outputs: NDArray[np.float32] = session.run(None, {input_name: images})[0]
        return outputs

    return GraphBackbone(run, f"onnxruntime {number_format}")


def openvino_backbone(xml: bytes, weights: bytes, number_format: str, name: str) -> GraphBackbone:
    """A model of OpenVINO (its .xml and .bin) as a backbone, which several threads may call at once.

    It computes in bfloat16 where `number_format` says so; in float32 and in 8 bits as it was exported. Each calling
    thread gets an inference request of its own, as two threads may not share one; each call uses one core. Raises
    CheckpointError, which names `name`, where OpenVINO is not installed or cannot run the model.
    """
    openvino = optional_package("openvino", "openvino", name)
    num_streams = min(_MAX_STREAMS, allowed_cores())
    settings = {
        "NUM_STREAMS": num_streams,
        "INFERENCE_NUM_THREADS": num_streams,  # one each
        "INFERENCE_PRECISION_HINT": "bf16" if number_format == Precision.BFLOAT16.value else "f32",
    }
    try:
        core = openvino.Core()
        constants = openvino.Tensor(np.frombuffer(weights, np.uint8), shared_memory=False)
        compiled = core.compile_model(core.read_model(xml, constants), "CPU", settings)
    except RuntimeError as error:
        raise CheckpointError(
            f"OpenVINO {openvino.__version__} cannot run {name} ({error}); export it again with this version"
        ) from error
    own = threading.local()

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        outputs: NDArray[np.float32] = own.request.infer([images])[0].copy()
        return outputs

    # The compiled model reads its weights from this memory, but does not keep it from being freed.
    return GraphBackbone(run, f"OpenVINO {number_format}", constants=constants)


def optional_package(package: str, extra: str, needed_by: str) -> Any:
    """Import a package that only graphs need, and that the extra installs.

    Raises CheckpointError, which says what it is `needed_by`, where the package is missing.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise CheckpointError(
            f"{needed_by} needs {package}, which is not installed; `pip install 'fundusgrade[{extra}]'`"
        ) from error
