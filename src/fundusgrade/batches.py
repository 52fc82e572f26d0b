"""Pictures of a prepared data set as batches: decoded once, augmented whole batches at a time, on the device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fundusgrade.dataset import ManifestRow, PreparedDataset
from fundusgrade.degrading import degraded_pictures
from fundusgrade.distributed import ALONE, Team
from fundusgrade.errors import DatasetError
from fundusgrade.kept_pixels import load_pixels
from fundusgrade.model import scale_pixels, to_pixels
from fundusgrade.preprocess import Outline

# How far augmentation goes. Retinas have no up or down for a lesion, and cameras differ in light, color and distance.
ANY_TURN = math.pi
# A band that is turned far is no longer where the network looks.
BAND_TURN = math.radians(20)
MAX_ZOOM = 0.1
MAX_SHIFT_FRACTION = 0.03
MAX_BRIGHTNESS = 0.1
MAX_CONTRAST = 0.2
MAX_SATURATION = 0.2
DEGRADED_SHARE = 0.5
_AT_ONCE = 256
# A processor changes a few pictures in its cache much faster than a whole batch in memory that it asks for anew.
_IN_CACHE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedPictures:
    """A split: where its pictures are, its `grades` (N,) int64, and the gray value around the retina.

    `stored` (M, 3, S, S) uint8 may hold others too and lie in a file; `index` (N,) says which of them are the split's,
    all where there is none. `max_turn` is how far a picture may be turned without losing what it shows, in radians.
    `rows` are those that batches hold, all where there are none. `weights` (N,) say how much each picture counts in the
    loss; all count alike where there are none. `degraded` (N, 3, S, S) are the same pictures as a worse camera would
    show them; where there are any, half of the pictures of an epoch come from them.
    """

    stored: Tensor
    grades: Tensor
    fill: int
    index: Tensor | None = None
    max_turn: float = ANY_TURN
    rows: tuple[int, int] | None = None
    weights: Tensor | None = None
    degraded: Tensor | None = None

    def __len__(self) -> int:
        return len(self.grades)

    @property
    def pixels(self) -> Tensor:
        """All pictures of the split (N, 3, S, S) uint8, in memory."""
        return self.at(torch.arange(len(self)))

    def at(self, chosen: Tensor) -> Tensor:
        """The pictures at these positions of the split (n, 3, S, S) uint8, where they are stored."""
        index = chosen if self.index is None else self.index[chosen]
        return self.stored[send(index, self.stored.device)]

    def on(self, device: torch.device) -> GradedPictures:
        """The same, on a GPU if its pictures take at most half of the memory that is free there."""
        if device.type != "cuda":
            return self
        shape = (len(self), *self.stored.shape[1:])
        copies = 1 if self.degraded is None else 2
        if copies * math.prod(shape) > torch.cuda.mem_get_info(device)[0] / 2:
            return self
        stored = torch.empty(shape, dtype=torch.uint8, device=device)
        for part in torch.split(torch.arange(len(self)), _AT_ONCE):
            stored[part[0] : part[-1] + 1] = self.at(part)
        degraded = None if self.degraded is None else self.degraded.to(device)
        return replace(self, stored=stored, index=None, degraded=degraded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One process's part of a batch: augmented pictures (B, 3, h, S) float32 in [0, 1], their grades and weights (B,).

    Where two pictures were mixed into one, the first has `share` of it and the other, as `mirrored` has them, the rest.
    The mean over all processes of the parts' weighted mean losses, each times its `portion`, is the whole batch's loss.
    """

    pictures: Tensor
    grades: Tensor
    weights: Tensor
    share: float = 1.0
    portion: float = 1.0

    def mirrored(self) -> tuple[Tensor, Tensor]:
        """Grades and weights of the other picture of each mixture: the batch from its end."""
        return self.grades.flip(0), self.weights.flip(0)


def load_pictures(dataset: PreparedDataset, rows: Sequence[ManifestRow]) -> GradedPictures:
    """The pictures of these rows. Raises DatasetError where there are none or one is of another size."""
    if not rows:
        raise DatasetError(f"the data set {dataset.name!r} has no graded photographs in this split; see its manifest")
    kept = load_pixels(dataset, rows)
    grades = torch.tensor([-1 if row.grade is None else int(row.grade) for row in rows])
    return GradedPictures(
        stored=torch.from_numpy(kept.pixels),
        index=torch.from_numpy(kept.positions),
        grades=grades,
        fill=dataset.recipe.fill,
        max_turn=BAND_TURN if dataset.recipe.outline is Outline.BAND else ANY_TURN,
    )


def with_degraded(
    pictures: GradedPictures, dataset: PreparedDataset, rows: Sequence[ManifestRow], *, seed: int
) -> GradedPictures:
    """The same with degraded pictures beside them; where degrading leaves no retina, the picture as it is."""
    degraded = pictures.pixels
    for index, picture in enumerate(degraded_pictures(dataset, rows, seed=seed)):
        if picture is not None:
            degraded[index] = to_pixels(picture)
    return replace(pictures, degraded=degraded)


def num_batches(num_pictures: int, batch_size: int) -> int:
    """Batches of an epoch: a rest that is smaller than a batch is left to another epoch, unless it is all there is."""
    return max(1, num_pictures // batch_size)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Put a tensor on a device without waiting for what the device is doing."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def training_batches(
    pictures: GradedPictures,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    device: torch.device,
    mixup: float = 0.0,
    us: Team = ALONE,
) -> Iterator[Batch]:
    """One epoch in an order and with changes that follow from seed and epoch alone, so that a run can be resumed.

    With `mixup` > 0 pairs of pictures are mixed by shares from Beta(mixup, mixup) (Zhang et al., ICLR 2018). Each
    process draws the same for the whole batch, and makes only its own pictures.
    """
    generator = torch.Generator().manual_seed(_mixed_seed(seed, epoch))
    order = torch.randperm(len(pictures), generator=generator)
    weights = torch.ones(len(pictures)) if pictures.weights is None else pictures.weights
    for step in range(num_batches(len(pictures), batch_size)):
        chosen = order[step * batch_size : (step + 1) * batch_size]
        own = us.positions(len(chosen))
        is_degraded = None if pictures.degraded is None else _draw_degraded(len(chosen), generator)[own]
        changes = draw_changes(len(chosen), generator, pictures.max_turn)[own]
        pixels = send(_picked(pictures, chosen[own], is_degraded), device)
        at_once = _IN_CACHE if device.type == "cpu" else len(own)
        parts = zip(torch.split(pixels, at_once), torch.split(send(changes, device), at_once), strict=True)
        changed = torch.cat([augment(part, pictures.fill / 255, how, pictures.rows) for part, how in parts])
        share = _mixing_share(mixup, _mixed_seed(seed, epoch) + step)
        if share < 1:
            changed = share * changed + (1 - share) * changed.flip(0)
        yield Batch(
            pictures=changed,
            grades=send(pictures.grades[chosen[own]], device),
            weights=send(weights[chosen[own]], device),
            share=share,
            portion=us.size * float(weights[chosen[own]].sum() / weights[chosen].sum().clamp(min=1e-12)),
        )


def _draw_degraded(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) < DEGRADED_SHARE


def _picked(pictures: GradedPictures, chosen: Tensor, is_degraded: Tensor | None) -> Tensor:
    if pictures.degraded is None or is_degraded is None:
        return pictures.at(chosen)
    device = pictures.degraded.device
    degraded = pictures.degraded[send(chosen, device)]
    return torch.where(send(is_degraded, device).view(-1, 1, 1, 1), degraded, pictures.at(chosen))


def draw_changes(count: int, generator: torch.Generator, max_turn: float = ANY_TURN) -> Tensor:
    """How each picture of a batch is changed (count, 9): the affine map by rows, contrast, saturation, light."""
    angle = _uniform(count, max_turn, generator)
    angle = angle + math.pi * (torch.rand(count, generator=generator) < 0.5)
    zoom = 1 + _uniform(count, MAX_ZOOM, generator)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    shift = 2 * MAX_SHIFT_FRACTION
    row_x = [cos * mirror, -sin, _uniform(count, shift, generator)]
    row_y = [sin * mirror, cos, _uniform(count, shift, generator)]
    contrast, saturation = (1 + _uniform(count, limit, generator) for limit in (MAX_CONTRAST, MAX_SATURATION))
    return torch.stack([*row_x, *row_y, contrast, saturation, _uniform(count, MAX_BRIGHTNESS, generator)], dim=1)


def augment(pixels: Tensor, fill: float, changes: Tensor, rows: tuple[int, int] | None = None) -> Tensor:
    """Turn, mirror, zoom, shift and re-light each picture of a batch (B, 3, S, S) uint8 as drawn; float32 in [0, 1].

    Of the result only `rows` are made, the first and the one after the last; all where there are none.
    """
    turned = _turn(scale_pixels(pixels).sub_(fill), changes[:, :6].reshape(-1, 2, 3), rows).add_(fill)
    return _relight(turned, fill, *changes[:, 6:].T.reshape(3, -1, 1, 1, 1)).clamp_(0, 1)


def _turn(pictures: Tensor, matrix: Tensor, rows: tuple[int, int] | None) -> Tensor:
    """Rotated, mirrored or not both ways, with a little zoom and shift; what comes in from outside is 0."""
    grid = functional.affine_grid(matrix, list(pictures.shape), align_corners=False)
    top, bottom = rows or (0, pictures.shape[2])
    return functional.grid_sample(pictures, grid[:, top:bottom], align_corners=False)


def _relight(pictures: Tensor, fill: float, contrast: Tensor, saturation: Tensor, brightness: Tensor) -> Tensor:
    """Change contrast and saturation, and brightness where there is retina: the surroundings keep their value."""
    gray = pictures.mean(dim=1, keepdim=True)
    above, below = pictures.amax(dim=1, keepdim=True) - fill, fill - pictures.amin(dim=1, keepdim=True)
    is_retina = torch.maximum(above, below) > 1e-3
    # fill + (gray + (pictures - gray) * saturation - fill) * contrast + brightness, without a copy of the batch.
    added = gray * (contrast * (1 - saturation)) + (fill * (1 - contrast) + brightness * is_retina)
    return pictures.mul_(contrast * saturation).add_(added)


def _uniform(count: int, limit: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(count, generator=generator) * 2 - 1) * limit


def _mixing_share(alpha: float, seed: int) -> float:
    """Share of the first of two mixed pictures, at least one half; 1 where nothing is mixed."""
    share = float(np.random.default_rng(seed).beta(alpha, alpha)) if alpha > 0 else 1.0
    return max(share, 1 - share)


def _mixed_seed(seed: int, epoch: int) -> int:
    """Streams of neighboring seeds and epochs must not meet."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
