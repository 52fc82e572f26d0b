"""Exported graphs as backbones: another runtime computes what PyTorch's layers computed, on one core of the CPU.

Both runtimes are told to compute a batch on one core, in one order, so that the same pictures give the same bits. Any
number of threads may call one graph at the same time, each with a batch of its own.
"""

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
from fundusgrade.options import Precision
from fundusgrade.pace import allowed_cores

PICTURES, OUTPUTS = "pictures", "outputs"
"""Names of a graph's input (B, 3, rows, width), normalized, and of its output (B, n): the head's."""

# As many threads as decode photographs may call at once; with one stream they would wait for each other.
_MAX_STREAMS = 8

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class GraphBackbone(nn.Module):
    """A graph in the place of a backbone; `arithmetic` names runtime and number format, as "onnxruntime int8".

    `kept` is what must live as long as the graph runs.
    """

    def __init__(self, run: Run, arithmetic: str, *, kept: object = None) -> None:
        super().__init__()
        self.arithmetic = arithmetic
        self._run = run
        self._kept = kept

    def forward(self, x: Tensor) -> Tensor:
        """Normalized pictures (B, 3, rows, width) -> outputs of the head (B, n), on the CPU and without gradients."""
        return torch.from_numpy(self._run(np.ascontiguousarray(x.detach().numpy(), np.float32)))


def onnx_session(model: bytes, what: str) -> Any:
    """An onnxruntime session over a whole model. Raises CheckpointError, which names `what`, where it cannot run."""
    runtime = optional_package("onnxruntime", "onnx", what)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors share no base
        raise CheckpointError(
            f"onnxruntime {runtime.__version__} cannot run {what} ({error}); export it again with this version"
        ) from error


def onnx_backbone(session: Any, number_format: str) -> GraphBackbone:
    """A session as a backbone; onnxruntime's sessions may be run by several threads at once."""

    def run(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
        outputs: NDArray[np.float32] = session.run([OUTPUTS], {PICTURES: pictures})[0]
        return outputs

    return GraphBackbone(run, f"onnxruntime {number_format}")


def openvino_backbone(xml: bytes, weights: bytes, number_format: str, what: str) -> GraphBackbone:
    """A model of OpenVINO as a backbone. Raises CheckpointError, which names `what`, where it cannot run.

    It computes in bfloat16 where `number_format` says so; float32 and 8 bits are as they were exported. Each calling
    thread gets a request of its own, as two may not share one; a request takes one stream of one core.
    """
    openvino = optional_package("openvino", "openvino", what)
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
            f"OpenVINO {openvino.__version__} cannot run {what} ({error}); export it again with this version"
        ) from error
    own = threading.local()

    def run(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        outputs: NDArray[np.float32] = own.request.infer({PICTURES: pictures})[OUTPUTS].copy()
        return outputs

    # The compiled model reads its constants where they are, and does not keep them itself.
    return GraphBackbone(run, f"OpenVINO {number_format}", kept=constants)


def optional_package(name: str, extra: str, what: str) -> Any:
    """Import a package that only graphs need. Raises CheckpointError with the way to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CheckpointError(
            f"{what} needs {name}, which is not installed; `pip install 'fundusgrade[{extra}]'`"
        ) from error
