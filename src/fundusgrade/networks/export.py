"""A model exported for another runtime, checked against the original on photographs, and written to files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fundusgrade import store
from fundusgrade.data.dataset import PreparedDataset, load_dataset
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.errors import ExportError, StoreError
from fundusgrade.networks.checkpoint import Checkpoint, load_checkpoint
from fundusgrade.networks.export_check import ExportCheck, check_export
from fundusgrade.networks.graph_files import SUFFIXES, ExportedGraph, graph_format, graph_paths, open_graph, write_graph
from fundusgrade.networks.onnx_export import quantize, to_onnx, to_openvino
from fundusgrade.networks.tensors import load_images, scale_pixels
from fundusgrade.networks.timm_folder import hub_files, write_hub_folder
from fundusgrade.options import ExportFormat, Split
from fundusgrade.outputs import check_outputs

NUM_CALIBRATION = 200
"""Photographs of the training split on which the ranges of 8-bit arithmetic are measured."""

_BATCH_SIZE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What to export, and how.

    `model` is a name or path, the shipped model if None. `data` names the data set to check and to quantize on, the
    model's training data if None; of its split `limit` photographs are checked, drawn at random with a fixed seed, all
    if 0. `out` is a file, or a folder for the hub; named after the model if None. With
    `overwrite` files of an earlier export are replaced.
    """

    format: ExportFormat
    model: str | None = None
    int8: bool = False
    data: str | None = None
    split: Split = Split.TEST
    limit: int = 0
    check: bool = True
    out: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """The files written, first the one by which the model is loaded, and the check, None if there was none."""

    paths: tuple[Path, ...]
    check: ExportCheck | None = None


def export_model(request: ExportRequest) -> Exported:
    """Convert, check and write a model.

    Raises ExportError where the format cannot hold it or there is no data set to check on, DatasetError where the data
    set was prepared otherwise, StoreError for an unknown name or files that cannot be written, and CheckpointError as
    `load_checkpoint` or where a package is missing.
    """
    path = store.resolve_model(request.model)
    if graph_format(path) is not None:
        raise ExportError(f"{path} is an exported graph already; export the safetensors model that it came from")
    checkpoint = load_checkpoint(path)
    out = _output_path(request, checkpoint.description.name)
    is_hub = request.format is ExportFormat.HUB
    check_outputs(
        hub_files(out) if is_hub else graph_paths(out, request.format),
        inputs=[path, path.with_name(store.MODEL_JSON)],
        overwrite=request.overwrite,
    )
    if is_hub:
        return Exported(paths=write_hub_folder(checkpoint, out))
    dataset = _dataset(request, checkpoint) if request.check or request.int8 else None
    graph = _convert(request, checkpoint, dataset)
    check = None
    if request.check and dataset is not None:
        rows = _sample(dataset.graded_rows(request.split.value), request.limit)
        exported = open_graph(graph, graph.description.name)
        check = check_export(
            checkpoint,
            exported,
            dataset,
            request.split.value,
            rows,
            original_bytes=path.stat().st_size,
            export_bytes=graph.size_bytes,
        )
        graph = replace(graph, check=check.to_json())
    return Exported(paths=write_graph(graph, out), check=check)


def _output_path(request: ExportRequest, name: str) -> Path:
    """Where to write. Raises ExportError for a suffix that is not the format's, before anything is computed."""
    if request.format is ExportFormat.HUB:
        if request.int8:
            raise ExportError("--int8: timm's hub holds networks in full precision; use --format onnx or openvino")
        return request.out or Path(f"{name}-hub")
    suffix = SUFFIXES[request.format][0]
    out = request.out or Path(f"{name}{'-int8' if request.int8 else ''}{suffix}")
    if out.suffix.lower() != suffix:
        raise ExportError(
            f"--out {out}: {request.format.value} files end in {suffix}, by which they are recognized when loaded"
        )
    return out


def _dataset(request: ExportRequest, checkpoint: Checkpoint) -> PreparedDataset:
    """The data set to check and quantize on, with the splits of the model's training if it is the training data.

    Raises ExportError where it is not in the store, and DatasetError where it was prepared otherwise.
    """
    description = checkpoint.description
    name = request.data or description.provenance.data_name
    try:
        dataset = load_dataset(store.resolve_dataset(name))
    except StoreError as error:
        if request.data is not None:
            raise
        needs = "quantize" if request.int8 else "check"
        skip = "" if request.int8 else ", or skip the check with --no-check"
        raise ExportError(
            f"the data set {name!r}, which {description.name} was trained on, is not in the store, so there are no "
            f"images to {needs} with; name another with --data, prepared as {description.recipe.describe()}{skip}"
        ) from error
    dataset.check_recipe(description.recipe, description.name)
    is_training_data = dataset.hash == description.provenance.data_hash
    return description.provenance.with_training_splits(dataset) if is_training_data else dataset


def _convert(request: ExportRequest, checkpoint: Checkpoint, dataset: PreparedDataset | None) -> ExportedGraph:
    model = to_onnx(checkpoint.network)
    if request.int8:
        assert dataset is not None, "quantizing needs photographs"
        rows = _sample(dataset.graded_rows(Split.TRAIN.value), NUM_CALIBRATION)
        model = quantize(model, _normalized_batches(checkpoint, dataset, rows))
    data: bytes = model.SerializeToString()
    kind = f"{request.format.value}-int8" if request.int8 else request.format.value
    return ExportedGraph(
        format=request.format,
        contents=(data,) if request.format is ExportFormat.ONNX else to_openvino(data),
        # A graph gives no features, so that it cannot hold the checks that need them.
        description=replace(checkpoint.description, name=f"{checkpoint.description.name}-{kind}", checks=None),
        fingerprints=checkpoint.fingerprints,
        number_format="int8" if request.int8 else "float32",
    )


def _normalized_batches(
    checkpoint: Checkpoint, dataset: PreparedDataset, rows: Sequence[ManifestRow]
) -> Iterator[NDArray[np.float32]]:
    """Inputs of the backbone (B, 3, rows, width)."""
    pixels = load_images(dataset, rows).pixels
    for start in range(0, len(pixels), _BATCH_SIZE):
        yield checkpoint.network.normalized(scale_pixels(pixels[start : start + _BATCH_SIZE])).numpy()


def _sample(rows: Sequence[ManifestRow], limit: int) -> list[ManifestRow]:
    """`limit` rows at random with a fixed seed, in their order; all if 0."""
    chosen = np.random.default_rng(0).permutation(len(rows))[: limit or None]
    return [rows[i] for i in sorted(chosen.tolist())]
