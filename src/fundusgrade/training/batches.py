"""Batches of training images: which images, in which order, their augmentation and mixup, each process's part."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.grading.concurrency import available_cores
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.tensors import LabeledImages, copy_to_device, load_images, pinned
from fundusgrade.training.ahead import map_ahead
from fundusgrade.training.augmentation import MAX_NOISE_LEVELS, augment, draw_changes
from fundusgrade.training.degraded_images import DegradedImages
from fundusgrade.training.distributed import SINGLE_PROCESS, ProcessGroup
from fundusgrade.training.losses import class_weights
from fundusgrade.training.options import TrainOptions
from fundusgrade.training.resizing import Frame, scaled_frame
from fundusgrade.training.teacher import soft_labels

DEGRADED_FRACTION = 0.5

# A processor augments a few images, which its cache holds, much faster than a whole batch in newly allocated memory.
_CPU_CHUNK = 8
# Each thread holds a batch; more do not read faster, and what they degrade is kept after the first epochs.
_MAX_THREADS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One process's part of a batch: augmented images (B, 3, h, S) float32 in [0, 1], their grades and weights (B,).

    `targets` (B, 5) are probabilities of the grades that the loss takes instead of them; None without a teacher.
    With mixup each image is `mixup_weight` times one image plus the rest times its partner (`mixup_partners`). The mean
    over all processes of their weighted mean losses, each times its `loss_scale`, is the loss of the whole batch.
    """

    images: Tensor
    grades: Tensor
    weights: Tensor
    mixup_weight: float = 1.0
    loss_scale: float = 1.0
    targets: Tensor | None = None

    def mixup_partners(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Grades, weights and targets of each image's mixup partner: the batch in reverse order."""
        targets = None if self.targets is None else self.targets.flip(0)
        return self.grades.flip(0), self.weights.flip(0), targets


def load_splits(
    dataset: PreparedDataset,
    options: TrainOptions,
    choice: DeviceChoice,
    rows: tuple[int, int] | None,
    folder: Path | None = None,
) -> tuple[LabeledImages, LabeledImages]:
    """The training and the validation split, on the device where its memory allows.

    `rows` are the image rows that the network uses, all where None; `folder` is where degraded images are kept once
    they are made, nowhere if None. Raises DatasetError where a split is empty.
    """
    graded = dataset.graded_rows("train")
    training = replace(_weighted(load_images(dataset, graded), dataset, options), rows=rows)
    if options.teacher:
        targets = soft_labels([Path(path) for path in options.teacher], dataset, options.teacher_weight)
        training = replace(training, targets=targets)
    if options.degrade:
        degraded = DegradedImages(training, dataset, graded, seed=options.seed, folder=folder)
        training = replace(training, degraded=degraded)
    validation = load_images(dataset, dataset.graded_rows("validation"))
    return training.to_device(choice.device), validation.to_device(choice.device)


def _weighted(training: LabeledImages, dataset: PreparedDataset, options: TrainOptions) -> LabeledImages:
    """Images with their weights in the loss: by grade, and so that combined data sets have equal total weight."""
    assert options.class_weights is not None, "options are filled before use"
    origins = [row.origin or dataset.name for row in dataset.graded_rows("train")]
    names, number, counts = np.unique(origins, return_inverse=True, return_counts=True)
    by_origin = torch.from_numpy(len(origins) / (len(names) * counts))[number].float()
    by_grade = class_weights(training.grades, options.class_weights)[training.grades]
    return replace(training, weights=by_grade * by_origin)


def num_batches(num_images: int, batch_size: int) -> int:
    """Batches per epoch: an incomplete last batch is dropped, unless it is the only one."""
    return max(1, num_images // batch_size)


def training_batches(
    images: LabeledImages,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    device: torch.device,
    mixup: float = 0.0,
    size_px: int | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Iterator[Batch]:
    """One epoch, whose order and augmentation depend only on seed and epoch, so that a run can be resumed.

    Threads read the images of the next batches, and degrade them, while the network takes the current one.

    With `mixup` > 0 pairs of images are mixed with weights from Beta(mixup, mixup) (Zhang et al., ICLR 2018). Images
    are scaled to a width of `size_px` where that is given. Every process draws the random numbers of the whole batch,
    and computes only its own images.
    """
    weights = torch.ones(len(images)) if images.weights is None else images.weights
    frame = scaled_frame(images, size_px, device)
    drawn = _draw_steps(images, batch_size, torch.Generator().manual_seed(_epoch_seed(seed, epoch)), group)
    load = functools.partial(_load_step, images, device)
    for loaded in map_ahead(load, drawn, num_threads=min(_MAX_THREADS, available_cores()[0])):
        chosen, own = loaded.drawn.chosen, loaded.drawn.chosen[loaded.drawn.own]
        pixels = copy_to_device(loaded.pixels, device)
        augmented = _augmented(pixels, loaded.drawn.changes, images.fill / 255, frame)
        mixup_weight = _draw_mixup_weight(mixup, _epoch_seed(seed, epoch) + loaded.drawn.step)
        if mixup_weight < 1:
            augmented = mixup_weight * augmented + (1 - mixup_weight) * augmented.flip(0)
        yield Batch(
            images=augmented,
            grades=copy_to_device(images.grades[own], device),
            weights=copy_to_device(weights[own], device),
            targets=None if images.targets is None else copy_to_device(images.targets[own], device),
            mixup_weight=mixup_weight,
            loss_scale=group.size * float(weights[own].sum() / weights[chosen].sum().clamp(min=1e-12)),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _DrawnStep:
    """The random choices of a step, counted from 0: images, and the changes of those that this process computes.

    `chosen` (B,) are positions in the split, `own` (n,) positions in the batch; `is_degraded` (n,) and `changes`
    (n, 11) are those of the process's own images.
    """

    step: int
    chosen: Tensor
    own: Tensor
    is_degraded: Tensor | None
    changes: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _LoadedStep:
    """A step with the process's own images (n, 3, S, S) uint8, not yet augmented."""

    drawn: _DrawnStep
    pixels: Tensor


def _draw_steps(
    images: LabeledImages, batch_size: int, generator: torch.Generator, group: ProcessGroup
) -> Iterator[_DrawnStep]:
    """The random choices of an epoch, in order; all processes draw those of the whole batch."""
    order = torch.randperm(len(images), generator=generator)
    max_noise = 0.0 if images.degraded is None else MAX_NOISE_LEVELS
    for step in range(num_batches(len(images), batch_size)):
        chosen = order[step * batch_size : (step + 1) * batch_size]
        own = group.batch_indices(len(chosen))
        is_degraded = None if images.degraded is None else _draw_degraded(len(chosen), generator)[own]
        changes = draw_changes(len(chosen), generator, images.max_rotation, max_noise)[own]
        yield _DrawnStep(step=step, chosen=chosen, own=own, is_degraded=is_degraded, changes=changes)


def _load_step(images: LabeledImages, device: torch.device, drawn: _DrawnStep) -> _LoadedStep:
    """The images of a step, in a thread ahead of the network: read from their file, perhaps degraded, and pinned."""
    pixels = _select_pixels(images, drawn.chosen[drawn.own], drawn.is_degraded)
    return _LoadedStep(drawn=drawn, pixels=pinned(pixels, device))


def _augmented(pixels: Tensor, changes: Tensor, fill: float, frame: Frame) -> Tensor:
    """Chosen pixels (n, 3, S, S) uint8 after their changes (n, 11): float32 in [0, 1], of the size of the frame."""
    chunk = _CPU_CHUNK if pixels.device.type == "cpu" else len(pixels)
    parts = zip(torch.split(pixels, chunk), torch.split(changes, chunk), strict=True)
    return torch.cat(
        [
            augment(part, fill, change, frame.rows, outline=frame.outline, size_px=frame.size_px)
            for part, change in parts
        ]
    )


def _draw_degraded(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) < DEGRADED_FRACTION


def _select_pixels(images: LabeledImages, chosen: Tensor, is_degraded: Tensor | None) -> Tensor:
    """The chosen images (n, 3, S, S) uint8, degraded where `is_degraded` (n,) says so."""
    pixels = images.select_stored(chosen)
    if images.degraded is not None and is_degraded is not None and is_degraded.any():
        replaced = torch.nonzero(is_degraded)[:, 0]
        degraded = copy_to_device(images.degraded[chosen[replaced]], pixels.device)
        pixels.index_copy_(0, copy_to_device(replaced, pixels.device), degraded)
    return pixels


def _draw_mixup_weight(alpha: float, seed: int) -> float:
    """The weight of the first of two mixed images, from 0.5 to 1; 1 without mixup."""
    weight = float(np.random.default_rng(seed).beta(alpha, alpha)) if alpha > 0 else 1.0
    return max(weight, 1 - weight)


def _epoch_seed(seed: int, epoch: int) -> int:
    """A seed for each pair of seed and epoch; streams of neighboring pairs are independent."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
