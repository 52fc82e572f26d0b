"""Batches of training images: their order, their augmentation, mixup, and each process's slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.networks.tensors import LabeledImages, send, to_pixels
from fundusgrade.training.augmentation import augment, draw_changes
from fundusgrade.training.degrade import degraded_images
from fundusgrade.training.distributed import SINGLE_PROCESS, ProcessGroup

DEGRADED_SHARE = 0.5

# A processor changes a few pictures in its cache much faster than a whole batch in memory that it asks for anew.
_IN_CACHE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One process's part of a batch: augmented pictures (B, 3, h, S) float32 in [0, 1], their grades and weights (B,).

    Where two pictures were mixed into one, the first has `share` of it and the other, as `mirrored` has them, the rest.
    The mean over all processes of the parts' weighted mean losses, each times its `portion`, is the whole batch's loss.
    """

    images: Tensor
    grades: Tensor
    weights: Tensor
    share: float = 1.0
    portion: float = 1.0

    def mirrored(self) -> tuple[Tensor, Tensor]:
        """Grades and weights of the other picture of each mixture: the batch from its end."""
        return self.grades.flip(0), self.weights.flip(0)


def with_degraded(
    images: LabeledImages, dataset: PreparedDataset, rows: Sequence[ManifestRow], *, seed: int
) -> LabeledImages:
    """The same with degraded pictures beside them; where degrading leaves no retina, the picture as it is."""
    degraded = images.pixels
    for index, image in enumerate(degraded_images(dataset, rows, seed=seed)):
        if image is not None:
            degraded[index] = to_pixels(image)
    return replace(images, degraded=degraded)


def num_batches(num_images: int, batch_size: int) -> int:
    """Batches of an epoch: a rest that is smaller than a batch is left to another epoch, unless it is all there is."""
    return max(1, num_images // batch_size)


def training_batches(
    images: LabeledImages,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    device: torch.device,
    mixup: float = 0.0,
    us: ProcessGroup = SINGLE_PROCESS,
) -> Iterator[Batch]:
    """One epoch in an order and with changes that follow from seed and epoch alone, so that a run can be resumed.

    With `mixup` > 0 pairs of pictures are mixed by shares from Beta(mixup, mixup) (Zhang et al., ICLR 2018). Each
    process draws the same for the whole batch, and makes only its own pictures.
    """
    generator = torch.Generator().manual_seed(_mixed_seed(seed, epoch))
    order = torch.randperm(len(images), generator=generator)
    weights = torch.ones(len(images)) if images.weights is None else images.weights
    for step in range(num_batches(len(images), batch_size)):
        chosen = order[step * batch_size : (step + 1) * batch_size]
        own = us.positions(len(chosen))
        is_degraded = None if images.degraded is None else _draw_degraded(len(chosen), generator)[own]
        changes = draw_changes(len(chosen), generator, images.max_turn)[own]
        pixels = send(_picked(images, chosen[own], is_degraded), device)
        at_once = _IN_CACHE if device.type == "cpu" else len(own)
        parts = zip(torch.split(pixels, at_once), torch.split(send(changes, device), at_once), strict=True)
        changed = torch.cat([augment(part, images.fill / 255, how, images.rows) for part, how in parts])
        share = _mixing_share(mixup, _mixed_seed(seed, epoch) + step)
        if share < 1:
            changed = share * changed + (1 - share) * changed.flip(0)
        yield Batch(
            images=changed,
            grades=send(images.grades[chosen[own]], device),
            weights=send(weights[chosen[own]], device),
            share=share,
            portion=us.size * float(weights[chosen[own]].sum() / weights[chosen].sum().clamp(min=1e-12)),
        )


def _draw_degraded(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) < DEGRADED_SHARE


def _picked(images: LabeledImages, chosen: Tensor, is_degraded: Tensor | None) -> Tensor:
    if images.degraded is None or is_degraded is None:
        return images.at(chosen)
    device = images.degraded.device
    degraded = images.degraded[send(chosen, device)]
    return torch.where(send(is_degraded, device).view(-1, 1, 1, 1), degraded, images.at(chosen))


def _mixing_share(alpha: float, seed: int) -> float:
    """Share of the first of two mixed pictures, at least one half; 1 where nothing is mixed."""
    share = float(np.random.default_rng(seed).beta(alpha, alpha)) if alpha > 0 else 1.0
    return max(share, 1 - share)


def _mixed_seed(seed: int, epoch: int) -> int:
    """Streams of neighboring seeds and epochs must not meet."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
