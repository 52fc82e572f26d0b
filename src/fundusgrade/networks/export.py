"""A model from its name to files for another runtime, checked on photographs that it was made for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fundusgrade import store
from fundusgrade.data.dataset import PreparedDataset, load_dataset
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.errors import DatasetError, ExportError, StoreError
from fundusgrade.files import write_atomically
from fundusgrade.networks.checkpoint import Checkpoint
from fundusgrade.networks.export_check import ExportCheck, check_export
from fundusgrade.networks.graphs import (
    ONNX_SUFFIX,
    OPENVINO_SUFFIX,
    GraphBackbone,
    GraphMetadata,
    load_model,
    onnx_file,
    openvino_sidecar,
    read_onnx,
    read_openvino,
)
from fundusgrade.networks.onnx_export import quantize, to_onnx, to_openvino
from fundusgrade.networks.tensors import load_images, scale_pixels
from fundusgrade.networks.timm_folder import write_hub_folder
from fundusgrade.options import ExportFormat, Split

NUM_CALIBRATION = 200
"""Photographs of the training split that give the scales of 8-bit arithmetic."""

_BATCH_SIZE = 8
_BYTES_PER_MB = 1e6
_SUFFIXES = {ExportFormat.ONNX: ONNX_SUFFIX, ExportFormat.OPENVINO: OPENVINO_SUFFIX, ExportFormat.HUB: ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What a user asks to be exported: a model by name or path, the shipped one if None, and how.

    `data` are the photographs to check and to quantize on, the model's own if None; `limit` takes so many of the split,
    drawn at random with a fixed seed, 0 all.
    """

    format: ExportFormat
    model: str | None = None
    int8: bool = False
    data: str | None = None
    split: Split = Split.TEST
    limit: int = 0
    check: bool = True
    out: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """The files written, the model's to use first; and the check, where one was made."""

    paths: tuple[Path, ...]
    check: ExportCheck | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Graph:
    """The files of a format in memory: one of ONNX, two of OpenVINO."""

    format: ExportFormat
    parts: tuple[bytes, ...]

    @property
    def size_mb(self) -> float:
        return sum(map(len, self.parts)) / _BYTES_PER_MB


def export_model(request: ExportRequest) -> Exported:
    """Convert, check and write a model.

    Raises ExportError where the format cannot hold it or there is nothing to check on, and as `load_model`.
    """
    path = store.resolve_model(request.model)
    checkpoint = load_model(path)
    if isinstance(checkpoint.network.backbone, GraphBackbone):
        raise ExportError(f"{path} is an exported graph already; export the safetensors model that it came from")
    out = _place(request, checkpoint.description.name)
    if request.format is ExportFormat.HUB:
        return Exported(paths=write_hub_folder(checkpoint, out))
    dataset = _dataset(request, checkpoint) if request.check or request.int8 else None
    graph = _convert(request, checkpoint, dataset)
    kind = f"{request.format.value}-int8" if request.int8 else request.format.value
    metadata = GraphMetadata(
        description=replace(checkpoint.description, name=f"{checkpoint.description.name}-{kind}"),
        fingerprints=checkpoint.fingerprints,
        number_format="int8" if request.int8 else "float32",
    )
    check = None
    if request.check and dataset is not None:
        rows = _drawn(dataset.graded_rows(request.split.value), request.limit)
        sizes_mb = (path.stat().st_size / _BYTES_PER_MB, graph.size_mb)
        check = check_export(checkpoint, _read(graph, metadata), dataset, request.split.value, rows, sizes_mb)
        metadata = replace(metadata, check=check.to_json())
    return Exported(paths=_write(graph, metadata, out), check=check)


def _place(request: ExportRequest, name: str) -> Path:
    """Where to write. Raises ExportError for what this format does not go by, before anything is computed."""
    if request.format is ExportFormat.HUB and request.int8:
        raise ExportError("--int8: timm's hub holds networks in full precision; use --format onnx or openvino")
    suffix = _SUFFIXES[request.format]
    out = request.out or Path(f"{name}{'-int8' if request.int8 else ''}{suffix or '-hub'}")
    if suffix and out.suffix.lower() != suffix:
        raise ExportError(f"--out {out}: {request.format.value} files end in {suffix}, by which they are known later")
    return out


def _dataset(request: ExportRequest, checkpoint: Checkpoint) -> PreparedDataset:
    """The photographs to check and quantize on, dealt as they were for the model's training.

    Raises ExportError without them, and DatasetError where they were prepared otherwise.
    """
    description = checkpoint.description
    name = request.data or description.provenance.data_name
    try:
        dataset = load_dataset(store.resolve_dataset(name))
    except StoreError as error:
        if request.data is not None:
            raise
        needs = "quantize" if request.int8 else "check"
        skip = "" if request.int8 else ", or go without the check by --no-check"
        raise ExportError(
            f"the data set {name!r}, which {description.name} was trained on, is not in the store, so there is nothing "
            f"to {needs} on; name another with --data, prepared as {description.recipe.describe()}{skip}"
        ) from error
    if dataset.recipe != description.recipe:
        raise DatasetError(
            f"the data set {dataset.name!r} is {dataset.recipe.describe()}, {description.name} needs "
            f"{description.recipe.describe()}; name another with --data"
        )
    is_own = dataset.hash == description.provenance.data_hash
    return description.provenance.with_training_splits(dataset) if is_own else dataset


def _convert(request: ExportRequest, checkpoint: Checkpoint, dataset: PreparedDataset | None) -> _Graph:
    model = to_onnx(checkpoint.network)
    if request.int8:
        assert dataset is not None, "quantizing needs photographs"
        rows = _drawn(dataset.graded_rows(Split.TRAIN.value), NUM_CALIBRATION)
        model = quantize(model, _normalized(checkpoint, dataset, rows))
    data: bytes = model.SerializeToString()
    is_onnx = request.format is ExportFormat.ONNX
    return _Graph(format=request.format, parts=(data,) if is_onnx else to_openvino(data))


def _normalized(
    checkpoint: Checkpoint, dataset: PreparedDataset, rows: Sequence[ManifestRow]
) -> Iterator[NDArray[np.float32]]:
    """Pictures as the backbone takes them, a batch at a time."""
    pixels = load_images(dataset, rows).pixels
    for start in range(0, len(pixels), _BATCH_SIZE):
        yield checkpoint.network.normalized(scale_pixels(pixels[start : start + _BATCH_SIZE])).numpy()


def _drawn(rows: Sequence[ManifestRow], limit: int) -> list[ManifestRow]:
    chosen = np.random.default_rng(0).permutation(len(rows))[: limit or None]
    return [rows[i] for i in sorted(chosen.tolist())]


def _read(graph: _Graph, metadata: GraphMetadata) -> Checkpoint:
    """The model as whoever loads the files will get it."""
    name = metadata.description.name
    if graph.format is ExportFormat.ONNX:
        return read_onnx(onnx_file(graph.parts[0], metadata), name)
    xml, weights = graph.parts
    return read_openvino(xml, weights, openvino_sidecar(xml, weights, metadata), name)


def _write(graph: _Graph, metadata: GraphMetadata, out: Path) -> tuple[Path, ...]:
    files: dict[Path, bytes | str]
    if graph.format is ExportFormat.ONNX:
        files = {out: onnx_file(graph.parts[0], metadata)}
    else:
        xml, weights = graph.parts
        sidecar = openvino_sidecar(xml, weights, metadata)
        files = {out: xml, out.with_suffix(".bin"): weights, out.with_suffix(".json"): sidecar}
    for path, content in files.items():
        write_atomically(path, content)
    return tuple(files)
