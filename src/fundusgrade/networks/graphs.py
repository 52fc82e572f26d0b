"""Exported graphs on disk, with all that a checkpoint carries: description, marks of what was seen, and a seal.

    NAME.onnx     the graph, then our metadata, then the seal: SHA-256 of every byte before it
    NAME.xml, NAME.bin, NAME.json    OpenVINO's two files, and our metadata with SHA-256 of all three

What is written here reads like any other model: `load_model` gives a `Checkpoint` whose backbone is a graph.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fundusgrade.data.leakage import TrainingFingerprints
from fundusgrade.errors import CheckpointError
from fundusgrade.networks.checkpoint import FINGERPRINT_BYTES, METADATA_KEY, Checkpoint, load_checkpoint
from fundusgrade.networks.description import CheckpointDescription, parse_description
from fundusgrade.networks.device import allowed_cores, cpu_has_bfloat16
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.options import Precision

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

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        outputs: NDArray[np.float32] = session.run([OUTPUTS], {PICTURES: images})[0]
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

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        outputs: NDArray[np.float32] = own.request.infer({PICTURES: images})[OUTPUTS].copy()
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


ONNX_SUFFIX, OPENVINO_SUFFIX = ".onnx", ".xml"
FORMAT_VERSION = 1
_SEAL_KEY = "fundusgrade_sha256"
# In ONNX's ModelProto, `metadata_props` is field 14 and holds pairs of key (1) and value (2), all of them delimited.
_METADATA_FIELD, _KEY_FIELD, _VALUE_FIELD = 14, 1, 2
_DELIMITED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphMetadata:
    """What travels with a graph; `check` are the figures of its comparison with the original, None if not made."""

    description: CheckpointDescription
    fingerprints: TrainingFingerprints
    number_format: str
    check: dict[str, object] | None = None


def load_model(path: Path, precision: Precision = Precision.AUTO) -> Checkpoint:
    """Read and verify a model: a checkpoint, or an exported graph, by its suffix.

    OpenVINO computes a graph of float32 in bfloat16 where that is asked for, or where the processor is fast at it.
    Raises CheckpointError where it is none, is damaged, or needs another version or a package that is missing.
    """
    suffix = path.suffix.lower()
    if suffix == ONNX_SUFFIX:
        return _load_onnx(path)
    if suffix == OPENVINO_SUFFIX:
        return _load_openvino(path, precision)
    return load_checkpoint(path)


def onnx_file(graph: bytes, metadata: GraphMetadata) -> bytes:
    """The bytes of NAME.onnx. Messages of protobuf are joined by joining their bytes, so the seal can come last."""
    body = graph + _entry(METADATA_KEY, json.dumps(_content(metadata)))
    return body + _seal(body)


def read_onnx(data: bytes, what: str) -> Checkpoint:
    """The model in the bytes of an .onnx file. Raises CheckpointError, which names `what`, as `load_model`."""
    num_body = len(data) - len(_seal(b""))
    if num_body < 0 or data[num_body:] != _seal(data[:num_body]):
        raise CheckpointError(
            f"{what} is not a whole ONNX file by `fundusgrade export`, or was changed since (hash differs); "
            "copy it again, or export it again"
        )
    session = onnx_session(data, what)
    metadata = _parse(json.loads(session.get_modelmeta().custom_metadata_map[METADATA_KEY]), what)
    return _checkpoint(metadata, onnx_backbone(session, metadata.number_format))


def openvino_sidecar(xml: bytes, weights: bytes, metadata: GraphMetadata) -> str:
    """The text of NAME.json beside NAME.xml and NAME.bin."""
    return _sealed_text(_content(metadata), xml, weights)


def read_openvino(
    xml: bytes, weights: bytes, sidecar: str, what: str, precision: Precision = Precision.AUTO
) -> Checkpoint:
    """The model in the contents of OpenVINO's files and ours. Raises CheckpointError as `load_model`."""
    try:
        content = json.loads(sidecar)
        del content["sha256"]
        is_whole = sidecar == _sealed_text(content, xml, weights)
    except (ValueError, KeyError, TypeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise CheckpointError(
            f"{what}, its .bin and its .json are not those that `fundusgrade export` wrote together (hash differs); "
            "copy the three files again, or export them again"
        )
    metadata = _parse(content, what)
    number_format = metadata.number_format
    if number_format == Precision.FLOAT32.value and precision is not Precision.FLOAT32:
        is_faster = precision is Precision.BFLOAT16 or cpu_has_bfloat16()
        number_format = Precision.BFLOAT16.value if is_faster else number_format
    return _checkpoint(metadata, openvino_backbone(xml, weights, number_format, what))


def _load_onnx(path: Path) -> Checkpoint:
    return read_onnx(_read(path), str(path))


def _load_openvino(path: Path, precision: Precision) -> Checkpoint:
    weights, sidecar = (_read(path.with_suffix(suffix)) for suffix in (".bin", ".json"))
    return read_openvino(_read(path), weights, sidecar.decode(errors="replace"), str(path), precision)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path}: {error.strerror or error}; an OpenVINO model is NAME.xml, NAME.bin and NAME.json "
            "in one folder, an ONNX model one file"
        ) from error


def _checkpoint(metadata: GraphMetadata, backbone: GraphBackbone) -> Checkpoint:
    network = GradingNetwork(metadata.description.network, backbone).eval()
    return Checkpoint(description=metadata.description, network=network, fingerprints=metadata.fingerprints)


def _content(metadata: GraphMetadata) -> dict[str, Any]:
    seen = {
        name: base64.b64encode(getattr(metadata.fingerprints, name).tobytes()).decode() for name in FINGERPRINT_BYTES
    }
    return {
        "format": FORMAT_VERSION,
        "number_format": metadata.number_format,
        "check": metadata.check,
        "description": json.loads(metadata.description.to_json()),
        "seen": seen,
    }


def _parse(content: dict[str, Any], what: str) -> GraphMetadata:
    try:
        if content["format"] != FORMAT_VERSION:
            raise ValueError(f"export format {content['format']}, expected {FORMAT_VERSION}")
        marks = {
            name: np.frombuffer(base64.b64decode(content["seen"][name]), np.uint8).reshape(-1, num_bytes)
            for name, num_bytes in FINGERPRINT_BYTES.items()
        }
        return GraphMetadata(
            description=parse_description(json.dumps(content["description"]), Path(what)),
            fingerprints=TrainingFingerprints(**marks),
            number_format=str(content["number_format"]),
            check=content["check"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"the description in {what} cannot be used ({error!r}); export it again with this version"
        ) from error


def _seal(body: bytes) -> bytes:
    return _entry(_SEAL_KEY, hashlib.sha256(body).hexdigest())


def _entry(key: str, value: str) -> bytes:
    """One more pair of metadata, in the bytes that protobuf writes for it."""
    pair = _delimited(_KEY_FIELD, key.encode()) + _delimited(_VALUE_FIELD, value.encode())
    return _delimited(_METADATA_FIELD, pair)


def _delimited(field: int, content: bytes) -> bytes:
    return bytes([field << 3 | _DELIMITED]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    digits = []
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])


def _sealed_text(content: dict[str, Any], xml: bytes, weights: bytes) -> str:
    parts = {"xml": xml, "bin": weights, "json": json.dumps(content).encode()}
    hashes = {name: hashlib.sha256(part).hexdigest() for name, part in parts.items()}
    return json.dumps({**content, "sha256": hashes}, indent=2) + "\n"
