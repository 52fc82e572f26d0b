"""Exported graphs on disk: files of another runtime, and a JSON file beside them with all that a checkpoint carries.

    NAME.onnx             NAME.onnx.json
    NAME.xml, NAME.bin    NAME.json         of OpenVINO

The JSON file, the sidecar, holds the description, the training fingerprints, the figures of the export check, and
SHA-256 hashes of itself and of the other files. It is written last.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fundusgrade import __version__, store
from fundusgrade.data.leakage import TrainingFingerprints
from fundusgrade.errors import CheckpointError, DeviceError
from fundusgrade.files import write_atomically
from fundusgrade.networks.checkpoint_file import FINGERPRINT_TABLES, read_description
from fundusgrade.networks.description import CheckpointDescription, parse_description
from fundusgrade.networks.graphs import (
    GraphRuntime,
    LoadedGraph,
    load_onnx_graph,
    load_openvino_graph,
    openvino_has_bfloat16,
)
from fundusgrade.networks.model import Model
from fundusgrade.networks.runtime import Arithmetic
from fundusgrade.options import DeviceName, ExportFormat, Precision, RuntimeName
from fundusgrade.text import error_text

SUFFIXES = {ExportFormat.ONNX: (".onnx",), ExportFormat.OPENVINO: (".xml", ".bin")}
"""Suffixes of the files of a graph, the first that of the file by which it is loaded."""
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedGraph:
    """A graph with everything that its files hold.

    `contents` are those of its files, in the order of SUFFIXES. `number_format` is that of its arithmetic,
    "float32" or "int8". `check` are the figures of its comparison with the original network, None if there was none.
    """

    format: ExportFormat
    contents: tuple[bytes, ...]
    description: CheckpointDescription
    fingerprints: TrainingFingerprints
    number_format: str
    check: Mapping[str, object] | None = None

    @property
    def size_bytes(self) -> int:
        """Size of the files but the sidecar."""
        return sum(map(len, self.contents))


def graph_format(path: Path) -> ExportFormat | None:
    """The format of the exported graph that a file holds, by its suffix; None for other files."""
    return next((format for format, suffixes in SUFFIXES.items() if path.suffix.lower() == suffixes[0]), None)


def files_of_model(path: Path) -> list[Path]:
    """All files of a model or exported graph that is loaded by this path; they stand in one folder."""
    format = graph_format(path)
    if format is None:
        return [path]
    others = [path.with_suffix(suffix) for suffix in SUFFIXES[format][1:]]
    return [path, *others, _sidecar_path(path, format)]


def model_name(named: str | None) -> str:
    """The name of the model or exported graph of this name or path, without loading it. Raises as loading it."""
    path = store.resolve_model(named)
    format = graph_format(path)
    return (read_description(path) if format is None else read_graph(path, format).description).name


def read_graph(path: Path, format: ExportFormat) -> ExportedGraph:
    """Read and verify the files of a graph, without preparing it to run.

    Raises CheckpointError where one is missing or damaged, or of another version.
    """
    suffixes = SUFFIXES[format]
    contents = (_read(path, path), *(_read(path.with_suffix(suffix), path) for suffix in suffixes[1:]))
    sidecar = _read(_sidecar_path(path, format), path).decode(errors="replace")
    try:
        content = json.loads(sidecar)
        del content["sha256"]
        is_whole = sidecar == _sidecar(format, contents, content)
    except (ValueError, KeyError, TypeError, RecursionError):
        is_whole = False
    if not is_whole:
        names = ", ".join(file.name for file in graph_paths(path, format))
        raise CheckpointError(
            f"{path}: {names} are not as `fundusgrade export` wrote them together (hash differs); copy all of them "
            "again, or export again"
        )
    return _parse(content, format, contents, path)


def open_graph(
    graph: ExportedGraph,
    name: str,
    *,
    device: DeviceName = DeviceName.AUTO,
    precision: Precision = Precision.AUTO,
    runtime: RuntimeName = RuntimeName.AUTO,
) -> Model:
    """The graph as a model, ready to grade on the CPU; `name` names it in errors.

    OpenVINO computes a graph of float32 in bfloat16 where `precision` is bfloat16, or where it is `auto` and the
    processor is fast at it. Raises CheckpointError where its runtime is not installed or cannot run it, DeviceError
    where another device, precision or runtime is requested than it has, or where this processor lacks the instructions
    for its number format.
    """
    _check_runtime(graph.format, device, runtime)
    if graph.number_format == "int8" and _overflows_int8():
        raise DeviceError(
            f"{name} computes in 8 bits, and sums of 8-bit products overflow on this processor (no VNNI instructions); "
            "use a graph that was exported without --int8"
        )
    number_format = graph.number_format
    if graph.format is ExportFormat.OPENVINO:
        number_format = _openvino_number_format(graph, precision, name)
    loaded = load_graph(graph.format, graph.contents, number_format, name)
    _check_precision(number_format, precision, loaded.name)
    arithmetic = Arithmetic(
        runtime=loaded.name,
        number_format=number_format,
        device=DeviceName.CPU.value,
        reason="an exported graph runs as it was exported",
    )
    return Model(
        description=graph.description,
        fingerprints=graph.fingerprints,
        checks=None,
        runtime=GraphRuntime(loaded, graph.description.network, arithmetic, normalizes=True),
    )


def load_graph(format: ExportFormat, contents: tuple[bytes, ...], number_format: str, name: str) -> LoadedGraph:
    """The contents of a graph's files in its runtime; `name` names it in errors. Raises as `open_graph`."""
    if format is ExportFormat.ONNX:
        return load_onnx_graph(contents[0], name)
    return load_openvino_graph(contents[0], contents[1], number_format, name)


def _check_runtime(format: ExportFormat, device: DeviceName, runtime: RuntimeName) -> None:
    """Raise DeviceError where a graph is to run elsewhere than it can."""
    if device not in (DeviceName.AUTO, DeviceName.CPU):
        raise DeviceError(
            f"--device {device.value}: an exported graph runs on the CPU; leave the option out, or use the model's "
            "safetensors file"
        )
    own = RuntimeName.ONNXRUNTIME if format is ExportFormat.ONNX else RuntimeName.OPENVINO
    if runtime not in (RuntimeName.AUTO, own):
        raise DeviceError(
            f"--runtime {runtime.value}: an exported graph of the format {format.value} runs in {own.value}; leave the "
            "option out, or use the model's safetensors file"
        )


def _check_precision(number_format: str, precision: Precision, runtime: str) -> None:
    """Raise DeviceError where another number format is requested than that of the graph."""
    if precision is not Precision.AUTO and precision.value != number_format:
        raise DeviceError(
            f"--precision {precision.value}: this graph runs as {runtime} {number_format}; leave the option out, or "
            "use the model's safetensors file"
        )


def _overflows_int8() -> bool:
    from fundusgrade.networks.device import cpu_overflows_int8  # PyTorch knows the processor's instructions

    return cpu_overflows_int8()


def write_graph(graph: ExportedGraph, path: Path) -> tuple[Path, ...]:
    """Write the files of a graph, each atomically, the sidecar last; returns their paths.

    `path` ends in the format's first suffix. Raises StoreError where they cannot be written.
    """
    paths = graph_paths(path, graph.format)
    sidecar = _sidecar(graph.format, graph.contents, _sidecar_content(graph)).encode()
    for file, content in zip(paths, (*graph.contents, sidecar), strict=True):
        write_atomically(file, content)
    return paths


def graph_paths(path: Path, format: ExportFormat) -> tuple[Path, ...]:
    """The files of the graph that `path` names, the sidecar last."""
    others = tuple(path.with_suffix(suffix) for suffix in SUFFIXES[format][1:])
    return (path, *others, _sidecar_path(path, format))


def _sidecar_path(path: Path, format: ExportFormat) -> Path:
    """An ONNX graph and one of OpenVINO may have one name in one folder, but never one sidecar."""
    return path.with_suffix(".json") if format is ExportFormat.OPENVINO else path.with_name(f"{path.name}.json")


def _read(path: Path, graph: Path) -> bytes:
    """A file of a graph. Raises CheckpointError, which names all of its files."""
    try:
        return path.read_bytes()
    except OSError as error:
        format = graph_format(graph)
        names = [file.name for file in graph_paths(graph, format)] if format else [graph.name]
        raise CheckpointError(
            f"cannot read {path}: {error_text(error)}; an exported graph is {' and '.join(names)} in one folder: "
            "copy all of them, or export again"
        ) from error


def _openvino_number_format(graph: ExportedGraph, precision: Precision, name: str) -> str:
    if graph.number_format != Precision.FLOAT32.value or precision is Precision.FLOAT32:
        return graph.number_format
    if precision is Precision.BFLOAT16 and not openvino_has_bfloat16(name):
        raise DeviceError("--precision bfloat16: this processor has no bfloat16 instructions; use --precision auto")
    return Precision.BFLOAT16.value if openvino_has_bfloat16(name) else graph.number_format


def _sidecar_content(graph: ExportedGraph) -> dict[str, Any]:
    """The content of the sidecar without the hashes; `seen` are the training fingerprints, in base64."""
    tables = {name: getattr(graph.fingerprints, name).tobytes() for name in FINGERPRINT_TABLES}
    return {
        "fundusgrade": __version__,
        "format": FORMAT_VERSION,
        "number_format": graph.number_format,
        "check": graph.check,
        "description": json.loads(graph.description.to_json()),
        "seen": {name: base64.b64encode(table).decode() for name, table in tables.items()},
    }


def _sidecar(format: ExportFormat, contents: tuple[bytes, ...], content: dict[str, Any]) -> str:
    """The text of the sidecar: its content, and the hashes of every file and of the content."""
    names = (*(suffix.removeprefix(".") for suffix in SUFFIXES[format]), "json")
    hashed = (*contents, json.dumps(content).encode())
    hashes = {name: hashlib.sha256(part).hexdigest() for name, part in zip(names, hashed, strict=True)}
    return json.dumps({**content, "sha256": hashes}, indent=2) + "\n"


def _parse(content: dict[str, Any], format: ExportFormat, contents: tuple[bytes, ...], path: Path) -> ExportedGraph:
    try:
        if content["format"] != FORMAT_VERSION:
            raise ValueError(f"export format {content['format']}, expected {FORMAT_VERSION}")
        tables = {
            name: np.frombuffer(base64.b64decode(content["seen"][name]), np.uint8).reshape(-1, num_bytes)
            for name, num_bytes in FINGERPRINT_TABLES.items()
        }
        return ExportedGraph(
            format=format,
            contents=contents,
            description=parse_description(json.dumps(content["description"]), path),
            fingerprints=TrainingFingerprints(**tables),
            number_format=str(content["number_format"]),
            check=content["check"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"the description in {path} cannot be used ({error!r}); export it again with this version"
        ) from error
