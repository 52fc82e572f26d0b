"""Graphs that were converted from checkpoints, kept in the store, so that the next run needs no PyTorch.

    <home>/graphs/<key>/   graph.xml, graph.bin (OpenVINO) or graph.onnx, and seal.json;
                           compiled.blob, the same compiled for this processor, and compiled.json (OpenVINO)

The key follows from what the graph computes, the weights, the network's description, the runtime with its version and
the number format. The seal, written last, holds the hashes of the graph's files and the figures of its comparison with
PyTorch, or why the network cannot be used so. A graph without a valid seal is converted again. OpenVINO's compiled
graph is for one kind of processor and number of cores, and sealed in the same way; it is loaded in a third of the time
of compiling.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fundusgrade import __version__, store
from fundusgrade.errors import CheckpointError, ExportError, StoreError
from fundusgrade.files import file_lock, hash_text, make_folder, write_atomically
from fundusgrade.networks.description import CheckpointDescription
from fundusgrade.networks.graph_files import SUFFIXES, load_graph
from fundusgrade.networks.graphs import (
    GraphRuntime,
    LoadedGraph,
    import_openvino_graph,
    openvino_target,
    optional_package,
)
from fundusgrade.networks.runtime import Arithmetic
from fundusgrade.options import DeviceName, ExportFormat
from fundusgrade.terminal import message

if TYPE_CHECKING:
    from fundusgrade.networks.network import GradingNetwork

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConvertedGraph:
    """A graph that was converted: the contents of its files, the same ready to run, and how it computes."""

    contents: tuple[bytes, ...]
    graph: LoadedGraph
    arithmetic: Arithmetic


class GraphKind(Protocol):
    """What a graph computes, how it is made, and how it is compared with PyTorch; both import PyTorch when called."""

    @property
    def identity(self) -> Mapping[str, object]:
        """What decides the graph besides the network and the request."""

    @property
    def purpose(self) -> str:
        """What it is for, as it is said while it is converted."""

    def convert(self, network: GradingNetwork, format: ExportFormat) -> tuple[bytes, ...]:
        """The contents of a graph's files. Raises ExportError where the network cannot be converted."""

    def check(self, network: GradingNetwork, converted: ConvertedGraph) -> Mapping[str, float]:
        """How far the graph is from PyTorch. Raises ExportError where that is too far."""


class GradingGraph:
    """The kind of graph that grades."""

    identity: Mapping[str, object] = {}
    purpose = "grading"

    def convert(self, network: GradingNetwork, format: ExportFormat) -> tuple[bytes, ...]:
        """As `conversion.convert`."""
        from fundusgrade.networks.conversion import convert

        return convert(network, format)

    def check(self, network: GradingNetwork, converted: ConvertedGraph) -> Mapping[str, float]:
        """As `conversion.check_agreement`."""
        from fundusgrade.networks.conversion import check_agreement

        runtime = GraphRuntime(converted.graph, network.spec, converted.arithmetic, normalizes=False)
        return asdict(check_agreement(network, runtime))


def converted_runtime(request: GraphRequest, description: CheckpointDescription) -> GraphRuntime:
    """The graph that grades, of a checkpoint. Raises as `converted_graph`."""
    graph = converted_graph(request, description, GradingGraph())
    return GraphRuntime(graph, description.network, _arithmetic(request, graph), normalizes=False)


def converted_graph(request: GraphRequest, description: CheckpointDescription, kind: GraphKind) -> LoadedGraph:
    """A graph of a checkpoint, from the store, or converted, compared with PyTorch, and kept there.

    One process converts, others wait for it. Raises ExportError where the network cannot be converted or computes
    something else than PyTorch, CheckpointError where a package is missing or cannot run the graph, StoreError where
    the store cannot be written to.
    """
    expected = _identity(request, description, kind)
    folder = store.home() / "graphs" / hash_text(json.dumps(expected))[:32]
    stored = _stored_graph(request, folder, expected)
    if stored is not None:
        return stored
    try:
        make_folder(folder)
    except StoreError:
        if not request.keeps_in_memory:
            raise
        return _convert(request, description, kind)[0].graph
    with file_lock(folder):
        stored = _stored_graph(request, folder, expected)
        if stored is not None:
            return stored
        return _convert_and_keep(request, description, kind, folder, expected)


def _stored_graph(request: GraphRequest, folder: Path, expected: Mapping[str, Any]) -> LoadedGraph | None:
    """The graph from the store, compiled already where it can be; None where it is not there.

    Raises ExportError where the network was found not to be usable so.
    """
    if request.format is ExportFormat.OPENVINO:
        identity = {**expected, "target": openvino_target()}
        blob = _sealed_contents(folder / _COMPILED_SEAL, [folder / _COMPILED], identity)
        if blob is not None:
            with contextlib.suppress(CheckpointError):
                return import_openvino_graph(blob[0], request.number_format)
    contents = _sealed_contents(folder / _SEAL, _files(folder, request.format), expected)
    if contents is None:
        return None
    loaded = load_graph(request.format, contents, request.number_format, f"the graph of {request.checkpoint}")
    if loaded.compiled is not None:
        with contextlib.suppress(StoreError):  # then it is compiled every time
            _write_sealed(folder / _COMPILED_SEAL, {folder / _COMPILED: loaded.compiled()}, {"identity": identity})
    return loaded


def _convert_and_keep(
    request: GraphRequest,
    description: CheckpointDescription,
    kind: GraphKind,
    folder: Path,
    expected: Mapping[str, Any],
) -> LoadedGraph:
    """Convert, and write the graph or why it cannot be used; that a file cannot be written is said, and no error."""
    try:
        converted, agreement = _convert(request, description, kind)
    except ExportError as error:
        with contextlib.suppress(StoreError):
            _write_sealed(folder / _SEAL, {}, {"identity": expected, "refused": str(error)})
        raise
    contents = dict(zip(_files(folder, request.format), converted.contents, strict=True))
    try:
        _write_sealed(folder / _SEAL, contents, {"identity": expected, "agreement": agreement})
    except StoreError as error:
        message(f"the converted graph is not kept: {error}")
    return converted.graph


def _identity(request: GraphRequest, description: CheckpointDescription, kind: GraphKind) -> dict[str, Any]:
    """Everything that decides a converted graph."""
    package = optional_package(*_PACKAGES[request.format], "--runtime")
    return {
        "format": FORMAT_VERSION,
        "runtime": f"{_PACKAGES[request.format][0]} {package.__version__}",
        "number_format": request.number_format,
        "weights_sha256": description.weights_sha256,
        "network": json.loads(json.dumps(asdict(description.network))),
        **kind.identity,
    }


def _convert(
    request: GraphRequest, description: CheckpointDescription, kind: GraphKind
) -> tuple[ConvertedGraph, Mapping[str, float]]:
    """The graph, and how far it is from PyTorch."""
    from fundusgrade.networks.checkpoint import load_checkpoint

    message(f"converting {description.name} for {_PACKAGES[request.format][0]}, once, for {kind.purpose}")
    network = load_checkpoint(request.checkpoint).network
    contents = kind.convert(network, request.format)
    graph = load_graph(request.format, contents, request.number_format, f"the graph of {request.checkpoint}")
    converted = ConvertedGraph(contents=contents, graph=graph, arithmetic=_arithmetic(request, graph))
    return converted, kind.check(network, converted)


def _arithmetic(request: GraphRequest, graph: LoadedGraph) -> Arithmetic:
    return Arithmetic(
        runtime=graph.name, number_format=request.number_format, device=DeviceName.CPU.value, reason=request.reason
    )


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
