"""Graphs: networks that another runtime, OpenVINO or ONNX Runtime, computes on the CPU, without PyTorch."""

from __future__ import annotations

import importlib
import io
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusgrade.errors import CheckpointError
from fundusgrade.networks.processor import allowed_cores, onednn_allows_bfloat16, onednn_limit
from fundusgrade.networks.runtime import ONNX_RUNTIME, OPENVINO, Arithmetic, Outputs, Pixels
from fundusgrade.networks.spec import NetworkSpec
from fundusgrade.options import Precision

# Several threads call at once; with one stream of OpenVINO they would wait for each other.
_MAX_STREAMS = 8

Run = Callable[..., Sequence[NDArray[np.float32]]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedGraph:
    """A graph in its runtime: `run` maps its inputs to its outputs, `name` is that of the runtime with its version.

    `compiled` is the graph as the runtime prepared it for this processor, None where it cannot be stored. `constants`
    is memory that the graph reads its weights from: it must exist as long as the graph runs.
    """

    run: Run
    name: str
    num_outputs: int
    compiled: Callable[[], bytes] | None = None
    constants: object = None


class GraphRuntime:
    """A graph as the runtime of a network.

    The graph takes the pixels of the network's rows (B, rows, width, 3) uint8 or, where `normalizes` says that this
    class does so, normalized images (B, 3, rows, width) float32. Its first output are the outputs of the head, its
    second one, if any, the features.
    """

    def __init__(self, graph: LoadedGraph, spec: NetworkSpec, arithmetic: Arithmetic, *, normalizes: bool) -> None:
        self.arithmetic = arithmetic
        self._graph = graph
        self._rows = slice(*(spec.rows or (0, spec.size_px)))
        self._mean, self._std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
        self._normalizes = normalizes

    def run(self, pixels: Pixels, *, with_features: bool) -> Outputs:
        """Outputs, and features if asked for, of preprocessed images (B, S, S, 3) uint8."""
        rows: NDArray[Any] = pixels[:, self._rows]
        if self._normalizes:
            rows = ((rows.astype(np.float32) / 255 - self._mean) / self._std).transpose(0, 3, 1, 2)
        outputs, *features = self._graph.run(np.ascontiguousarray(rows))
        return Outputs(outputs=outputs, features=features[0] if with_features and features else None)


def load_onnx_graph(model: bytes, name: str) -> LoadedGraph:
    """An ONNX model in ONNX Runtime, which several threads may call at once; each call uses one core.

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
    input_names = [each.name for each in session.get_inputs()]

    def run(*inputs: NDArray[Any]) -> Sequence[NDArray[np.float32]]:
        outputs: Sequence[NDArray[np.float32]] = session.run(None, dict(zip(input_names, inputs, strict=True)))
        return outputs

    name = f"{ONNX_RUNTIME} {_short_version(runtime)}"
    return LoadedGraph(run=run, name=name, num_outputs=len(session.get_outputs()))


def load_openvino_graph(xml: bytes, weights: bytes, number_format: str, name: str) -> LoadedGraph:
    """A model of OpenVINO (its .xml and .bin), which several threads may call at once.

    It computes in bfloat16 where `number_format` says so; in float32 and in 8 bits as it was exported. Each calling
    thread gets an inference request of its own, as two threads may not share one; each call uses one core. Raises
    CheckpointError, which names `name`, where OpenVINO is not installed or cannot run the model.
    """
    openvino = optional_package("openvino", "openvino", name)
    try:
        core = openvino.Core()
        constants = openvino.Tensor(np.frombuffer(weights, np.uint8), shared_memory=False)
        compiled = core.compile_model(core.read_model(xml, constants), "CPU", _openvino_settings(number_format))
    except RuntimeError as error:
        raise CheckpointError(
            f"OpenVINO {openvino.__version__} cannot run {name} ({error}); export it again with this version"
        ) from error
    # The compiled model reads its weights from this memory, but does not keep it from being freed.
    return _openvino_graph(openvino, compiled, constants)


def import_openvino_graph(compiled: bytes, number_format: str) -> LoadedGraph:
    """A graph that OpenVINO has compiled on a processor like this (`openvino_target`), in a third of the time.

    Raises CheckpointError where OpenVINO is not installed or refuses it.
    """
    openvino = optional_package("openvino", "openvino", "the compiled graph")
    try:
        found = openvino.Core().import_model(io.BytesIO(compiled), "CPU", _openvino_settings(number_format))
    except RuntimeError as error:
        raise CheckpointError(f"OpenVINO {openvino.__version__} refuses the compiled graph ({error})") from error
    return _openvino_graph(openvino, found, None)


def openvino_target() -> str:
    """The processor, and the number of streams, that OpenVINO compiles for here."""
    core = importlib.import_module("openvino").Core()
    features = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    name = f"{core.get_property('CPU', 'FULL_DEVICE_NAME')} {' '.join(features)} {onednn_limit()}"
    return f"{name.rstrip()}, {_num_streams()} streams"


def _openvino_graph(openvino: Any, compiled: Any, constants: object) -> LoadedGraph:
    own = threading.local()

    def run(*inputs: NDArray[Any]) -> Sequence[NDArray[np.float32]]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        return [output.copy() for output in own.request.infer(list(inputs)).values()]

    def export() -> bytes:
        return bytes(compiled.export_model().getvalue())

    name = f"{OPENVINO} {_short_version(openvino)}"
    return LoadedGraph(run=run, name=name, num_outputs=len(compiled.outputs), compiled=export, constants=constants)


def _openvino_settings(number_format: str) -> dict[str, object]:
    return {
        "NUM_STREAMS": _num_streams(),
        "INFERENCE_NUM_THREADS": _num_streams(),  # one each
        "INFERENCE_PRECISION_HINT": "bf16" if number_format == Precision.BFLOAT16.value else "f32",
    }


def _num_streams() -> int:
    return min(_MAX_STREAMS, allowed_cores())


def openvino_has_bfloat16(name: str) -> bool:
    """Whether OpenVINO finds that this processor computes bfloat16 (AVX512-BF16 or AMX), and oneDNN may do so.

    Raises CheckpointError, which names `name`, where OpenVINO is not installed.
    """
    openvino = optional_package("openvino", "openvino", name)
    return onednn_allows_bfloat16() and "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


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


def _short_version(package: Any) -> str:
    """The version's first two numbers: those after them mend defects."""
    return ".".join(str(package.__version__).split(".")[:2])
