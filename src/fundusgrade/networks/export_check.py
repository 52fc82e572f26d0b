"""Does an exported graph grade like the network that it came from, and how much faster? Both on the same pictures."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.metrics.classification import decide_grades, evaluate_predictions, quadratic_weighted_kappa
from fundusgrade.networks.checkpoint import Checkpoint
from fundusgrade.networks.device import CPU_BATCH, DeviceChoice, choose_device, choose_for_graph
from fundusgrade.networks.graphs import GraphBackbone
from fundusgrade.networks.inference import predict_probabilities, to_device
from fundusgrade.networks.tensors import LabeledImages, load_images
from fundusgrade.options import DeviceName, Precision

MAX_KAPPA_LOSS = 0.005
"""An export that loses more kappa than this is marked."""

_MILLISECONDS = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """What one way to compute a model said: its kappa against the labels, and its time on one core."""

    how: str
    kappa: float | None
    ms_per_image: float
    size_mb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportCheck:
    """An export beside its original: in float32, `reference`, and as this processor computes it by default, `usual`.

    Differences are those between export and reference: `agreement` is the kappa between their grades.
    """

    data: str
    split: str
    num_photographs: int
    reference: Graded
    usual: Graded
    export: Graded
    agreement: float | None
    num_changed: int
    max_probability_change: float

    @property
    def kappa_loss(self) -> float | None:
        """How much lower the kappa is than the reference's; None where one of them is not defined."""
        if self.reference.kappa is None or self.export.kappa is None:
            return None
        return self.reference.kappa - self.export.kappa

    @property
    def loses_much(self) -> bool:
        """Whether the loss must be marked."""
        return self.kappa_loss is not None and self.kappa_loss > MAX_KAPPA_LOSS

    def to_json(self) -> dict[str, object]:
        """The figures as they travel with the graph."""
        return {**asdict(self), "kappa_loss": self.kappa_loss}


def check_export(
    original: Checkpoint,
    exported: Checkpoint,
    dataset: PreparedDataset,
    split: str,
    rows: Sequence[ManifestRow],
    sizes_mb: tuple[float, float],
) -> ExportCheck:
    """Grade the same pictures three times, on one core; `sizes_mb` are those of the original's and the export's files.

    Raises DatasetError where the data set was prepared otherwise than the model's training data.
    """
    backbone = exported.network.backbone
    assert isinstance(backbone, GraphBackbone), "an export is a graph"
    ways = (
        (original, choose_device(DeviceName.CPU, Precision.FLOAT32), sizes_mb[0]),
        (original, choose_device(DeviceName.CPU), sizes_mb[0]),
        (exported, choose_for_graph(backbone.arithmetic), sizes_mb[1]),
    )
    images = load_images(dataset, rows)
    with _one_core():
        tried = [_graded(*way, dataset, tuple(rows), images) for way in ways]
    (reference, before), (usual, _), (export, after) = tried
    first, second = (decide_grades(each, original.description.thresholds) for each in (before, after))
    return ExportCheck(
        data=dataset.name,
        split=split,
        num_photographs=len(rows),
        reference=reference,
        usual=usual,
        export=export,
        agreement=quadratic_weighted_kappa(first, second),
        num_changed=int((first != second).sum()),
        max_probability_change=float(np.abs(before - after).max()),
    )


def _graded(
    checkpoint: Checkpoint,
    choice: DeviceChoice,
    size_mb: float,
    dataset: PreparedDataset,
    rows: tuple[ManifestRow, ...],
    images: LabeledImages,
) -> tuple[Graded, NDArray[np.float64]]:
    dataset.check_recipe(checkpoint.description.recipe, checkpoint.description.name)
    network = to_device(checkpoint.network, choice).eval()
    predict_probabilities(network, images.pixels[:1], choice)  # what is done once is not a picture's time
    started = time.perf_counter()
    probabilities = predict_probabilities(network, images.pixels, choice, CPU_BATCH)
    seconds = time.perf_counter() - started
    evaluation = evaluate_predictions(images.grades.numpy(), probabilities, checkpoint.description.thresholds)
    return Graded(
        how=choice.runtime or f"PyTorch {choice.precision.value}",
        kappa=evaluation.kappa,
        ms_per_image=_MILLISECONDS * seconds / len(rows),
        size_mb=size_mb,
    ), probabilities


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """A graph computes a batch on one core; times are only comparable where PyTorch does the same."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
