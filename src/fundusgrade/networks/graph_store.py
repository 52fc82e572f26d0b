"""Graphs that were converted from checkpoints, kept in the store, so that grading needs no PyTorch the next time.

    <home>/graphs/<key>/   graph.xml, graph.bin (OpenVINO) or graph.onnx, and seal.json;
                           compiled.blob, the same compiled for this processor, and compiled.json (OpenVINO)

The key follows from the weights, the network's description, the runtime with its version and the number format. The
seal, written last, holds the hashes of the graph's files and the figures of its comparison with PyTorch, or why the
network cannot be used so. A graph without a valid seal is converted again. OpenVINO's compiled graph is for one kind of
processor and number of cores, and sealed in the same way; it is loaded in a third of the time of compiling.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fundusgrade import __version__, store
from fundusgrade.errors import CheckpointError, ExportError, StoreError
from fundusgrade.files import file_lock, hash_text, make_folder, write_atomically
from fundusgrade.networks.checkpoint_file import CheckpointFile
from fundusgrade.networks.graph_files import SUFFIXES, load_graph
from fundusgrade.networks.graphs import (
    GraphRuntime,
    LoadedGraph,
    import_openvino_graph,
    openvino_target,
    optional_package,
)
from fundusgrade.networks.runtime import Arithmetic
from fundusgrade.networks.spec import NetworkSpec
from fundusgrade.options import DeviceName, ExportFormat
from fundusgrade.terminal import message

FORMAT_VERSION = 1
_PACKAGES = {ExportFormat.OPENVINO: ("openvino", "openvino"), ExportFormat.ONNX: ("onnxruntime", "onnx")}
"""The package of each format's runtime, and the extra that installs it."""
_SEAL, _COMPILED_SEAL, _COMPILED = "seal.json", "compiled.json", "compiled.blob"


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphRequest:
    """A graph of a checkpoint's network, for one runtime, which computes in one number format; `reason` says why.

    Where the store cannot be written to, it is converted in memory if `keeps_in_memory`, else StoreError is raised.
    """

    checkpoint: Path
    format: ExportFormat
    number_format: str
    reason: str
    keeps_in_memory: bool = False


def converted_runtime(request: GraphRequest, file: CheckpointFile) -> GraphRuntime:
    """The graph of a checkpoint, from the store, or converted, compared with PyTorch, and kept there.

    One process converts, others wait for it. Raises ExportError where the network cannot be converted or computes
    something else than PyTorch, CheckpointError where a package is missing or cannot run the graph, StoreError where
    the store cannot be written to.
    """
    spec = file.description.network
    expected = _identity(request, file)
    folder = store.home() / "graphs" / hash_text(json.dumps(expected))[:32]
    stored = _stored_runtime(request, spec, folder, expected)
    if stored is not None:
        return stored
    try:
        make_folder(folder)
    except StoreError:
        if not request.keeps_in_memory:
            raise
        return _convert(request, file).runtime
    with file_lock(folder):
        stored = _stored_runtime(request, spec, folder, expected)
        if stored is not None:
            return stored
        return _convert_and_keep(request, file, folder, expected).runtime


def _stored_runtime(
    request: GraphRequest, spec: NetworkSpec, folder: Path, expected: Mapping[str, Any]
) -> GraphRuntime | None:
    """The graph from the store, compiled already where it can be; None where it is not there.

    Raises ExportError where the network was found not to be usable so.
    """
    if request.format is ExportFormat.OPENVINO:
        identity = {**expected, "target": openvino_target()}
        blob = _sealed_contents(folder / _COMPILED_SEAL, [folder / _COMPILED], identity)
        if blob is not None:
            with contextlib.suppress(CheckpointError):
                return _runtime(request, import_openvino_graph(blob[0], request.number_format), spec)
    contents = _sealed_contents(folder / _SEAL, _files(folder, request.format), expected)
    if contents is None:
        return None
    loaded = load_graph(request.format, contents, request.number_format, f"the graph of {request.checkpoint}")
    if loaded.compiled is not None:
        with contextlib.suppress(StoreError):  # then it is compiled every time
            _write_sealed(folder / _COMPILED_SEAL, {folder / _COMPILED: loaded.compiled()}, {"identity": identity})
    return _runtime(request, loaded, spec)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Converted:
    """A graph that was converted: its files' contents, ready to run, and the figures of its comparison."""

    contents: tuple[bytes, ...]
    runtime: GraphRuntime
    agreement: Mapping[str, float]


def _convert_and_keep(
    request: GraphRequest, file: CheckpointFile, folder: Path, expected: Mapping[str, Any]
) -> _Converted:
    """Convert, and write the graph or why it cannot be used; that a file cannot be written is said, and no error."""
    try:
        converted = _convert(request, file)
    except ExportError as error:
        with contextlib.suppress(StoreError):
            _write_sealed(folder / _SEAL, {}, {"identity": expected, "refused": str(error)})
        raise
    contents = dict(zip(_files(folder, request.format), converted.contents, strict=True))
    try:
        _write_sealed(folder / _SEAL, contents, {"identity": expected, "agreement": converted.agreement})
    except StoreError as error:
        message(f"the converted graph is not kept: {error}")
    return converted


def _identity(request: GraphRequest, file: CheckpointFile) -> dict[str, Any]:
    """Everything that decides a converted graph."""
    package = optional_package(*_PACKAGES[request.format], "--runtime")
    return {
        "format": FORMAT_VERSION,
        "runtime": f"{_PACKAGES[request.format][0]} {package.__version__}",
        "number_format": request.number_format,
        "weights_sha256": file.description.weights_sha256,
        "network": json.loads(json.dumps(asdict(file.description.network))),
    }


def _convert(request: GraphRequest, file: CheckpointFile) -> _Converted:
    from fundusgrade.networks.checkpoint import load_checkpoint
    from fundusgrade.networks.conversion import check_agreement, convert

    message(f"converting {file.description.name} for {_PACKAGES[request.format][0]}, once")
    network = load_checkpoint(request.checkpoint).network
    contents = convert(network, request.format)
    loaded = load_graph(request.format, contents, request.number_format, f"the graph of {request.checkpoint}")
    runtime = _runtime(request, loaded, file.description.network)
    return _Converted(contents=contents, runtime=runtime, agreement=asdict(check_agreement(network, runtime)))


def _runtime(request: GraphRequest, loaded: LoadedGraph, spec: NetworkSpec) -> GraphRuntime:
    arithmetic = Arithmetic(
        runtime=loaded.name, number_format=request.number_format, device=DeviceName.CPU.value, reason=request.reason
    )
    return GraphRuntime(loaded, spec, arithmetic, normalizes=False)


def _sealed_contents(seal_path: Path, paths: Sequence[Path], expected: Mapping[str, Any]) -> tuple[bytes, ...] | None:
    """The contents of the files of a seal; None where one is missing, damaged, or of another graph.

    Raises ExportError where the network was found not to be usable so.
    """
    try:
        seal = json.loads(seal_path.read_bytes())
        if seal["identity"] != expected:
            return None
        if "refused" in seal:
            raise ExportError(str(seal["refused"]))
        contents = tuple(path.read_bytes() for path in paths)
        return contents if seal["sha256"] == _hashes(contents) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_sealed(seal_path: Path, contents: Mapping[Path, bytes], seal: dict[str, Any]) -> None:
    """Write files, then the seal with their hashes. Raises StoreError."""
    for path, content in contents.items():
        write_atomically(path, content)
    sealed = {"fundusgrade": __version__, **seal, "sha256": _hashes(tuple(contents.values()))}
    write_atomically(seal_path, json.dumps(sealed, indent=2) + "\n")


def _files(folder: Path, format: ExportFormat) -> list[Path]:
    return [folder / f"graph{suffix}" for suffix in SUFFIXES[format]]


def _hashes(contents: tuple[bytes, ...]) -> list[str]:
    return [hashlib.sha256(content).hexdigest() for content in contents]
