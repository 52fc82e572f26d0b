"""An exported graph compared with its original network on the same images: grades, probabilities and speed."""

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
from fundusgrade.metrics.classification import decide_grades, quadratic_weighted_kappa
from fundusgrade.networks.checkpoint import Checkpoint
from fundusgrade.networks.device import choose_device
from fundusgrade.networks.model import Model
from fundusgrade.networks.processor import CPU_BATCH
from fundusgrade.networks.runtime import predict
from fundusgrade.networks.tensors import LabeledImages, load_images
from fundusgrade.networks.torch_runtime import on_pytorch
from fundusgrade.options import DeviceName, Precision

MAX_KAPPA_LOSS = 0.005
"""An export whose kappa is lower than the original's by more than this gets a warning."""

_MS_PER_SECOND = 1000.0
_BYTES_PER_MB = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeResult:
    """A model computed in one way.

    `arithmetic` names runtime and number format, as "PyTorch bfloat16"; `kappa` is the quadratic weighted kappa against
    the labels, None where it is undefined; `ms_per_image` was measured on one core; `size_mb` is that of the files.
    """

    arithmetic: str
    kappa: float | None
    ms_per_image: float
    size_mb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportCheck:
    """An export beside its original, which is computed in float32 (`reference`) and as by default here (`usual`).

    Differences are those between export and reference: `agreement` is the quadratic weighted kappa between their
    grades, `num_changed` counts grades that differ.
    """

    data: str
    split: str
    num_photographs: int
    reference: RuntimeResult
    usual: RuntimeResult
    export: RuntimeResult
    agreement: float | None
    num_changed: int
    max_probability_change: float

    @property
    def kappa_loss(self) -> float | None:
        """How much lower the kappa is than the reference's; None where one of them is undefined."""
        if self.reference.kappa is None or self.export.kappa is None:
            return None
        return self.reference.kappa - self.export.kappa

    @property
    def loses_much(self) -> bool:
        """Whether more than MAX_KAPPA_LOSS of kappa is lost."""
        return self.kappa_loss is not None and self.kappa_loss > MAX_KAPPA_LOSS

    def to_json(self) -> dict[str, object]:
        """The figures as they are written beside the graph."""
        return {**asdict(self), "kappa_loss": self.kappa_loss}


def check_export(
    original: Checkpoint,
    exported: Model,
    dataset: PreparedDataset,
    split: str,
    rows: Sequence[ManifestRow],
    *,
    original_bytes: int,
    export_bytes: int,
) -> ExportCheck:
    """Grade the same images three times, on one core; the sizes are those of the files.

    Raises DatasetError where the data set was prepared otherwise than the model's training data, or `rows` is empty.
    """
    dataset.check_recipe(original.description.recipe, original.description.name)
    images = load_images(dataset, rows)
    with _one_core():
        in_float32 = on_pytorch(original, choose_device(DeviceName.CPU, Precision.FLOAT32))
        reference = _measure(in_float32, images, original_bytes)
        usual = _measure(on_pytorch(original, choose_device(DeviceName.CPU)), images, original_bytes)
        export = _measure(exported, images, export_bytes)
    return ExportCheck(
        data=dataset.name,
        split=split,
        num_photographs=len(rows),
        reference=reference.result,
        usual=usual.result,
        export=export.result,
        agreement=quadratic_weighted_kappa(reference.grades, export.grades),
        num_changed=int((reference.grades != export.grades).sum()),
        max_probability_change=float(np.abs(reference.probabilities - export.probabilities).max()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """Probabilities (N, 5), the grades (N,) decided by them, and the figures of both."""

    probabilities: NDArray[np.float64]
    grades: NDArray[np.int64]
    result: RuntimeResult


def _measure(model: Model, images: LabeledImages, num_bytes: int) -> _Measured:
    pixels, description = images.pixels.permute(0, 2, 3, 1).numpy(), model.description
    arithmetic, spec = model.runtime.arithmetic, description.network
    predict(model.runtime, spec, pixels[:1], batch_size=1)  # what is computed only once is not timed
    started = time.perf_counter()
    probabilities = predict(model.runtime, spec, pixels, batch_size=CPU_BATCH).probabilities
    seconds = time.perf_counter() - started
    grades = decide_grades(description.deciding(probabilities), description.thresholds)
    result = RuntimeResult(
        arithmetic=f"{arithmetic.runtime} {arithmetic.number_format}",
        kappa=quadratic_weighted_kappa(images.grades.numpy(), grades),
        ms_per_image=_MS_PER_SECOND * seconds / len(pixels),
        size_mb=num_bytes / _BYTES_PER_MB,
    )
    return _Measured(probabilities=probabilities, grades=grades, result=result)


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """Let PyTorch compute on one core, as a graph does, so that times are comparable."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
