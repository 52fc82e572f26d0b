"""Pictures of a prepared data set as batches: decoded once, augmented whole batches at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fundusgrade.dataset import ManifestRow, PreparedDataset
from fundusgrade.degrading import degraded_pictures
from fundusgrade.errors import DatasetError, UnreadableImageError
from fundusgrade.images import read_image
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


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedPictures:
    """A split in memory: `pixels` (N, 3, S, S) uint8, `grades` (N,) int64, and the gray value around the retina.

    `max_turn` is how far a picture may be turned without losing what it shows, in radians. `weights` (N,) say how much
    each counts in the loss; all count alike where there are none. `degraded` are the same pictures as a worse camera
    would show them; where there are any, half of the pictures of an epoch come from them.
    """

    pixels: Tensor
    grades: Tensor
    fill: int
    max_turn: float = ANY_TURN
    weights: Tensor | None = None
    degraded: Tensor | None = None

    def __len__(self) -> int:
        return len(self.grades)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Augmented pictures (B, 3, S, S) float32 in [0, 1] with their grades and weights (B,).

    Where two pictures were mixed into one, the first has `share` of it and the other, as `mirrored` has them, the rest.
    """

    pictures: Tensor
    grades: Tensor
    weights: Tensor
    share: float = 1.0

    def mirrored(self) -> tuple[Tensor, Tensor]:
        """Grades and weights of the other picture of each mixture: the batch from its end."""
        return self.grades.flip(0), self.weights.flip(0)


def load_pictures(dataset: PreparedDataset, rows: Sequence[ManifestRow]) -> GradedPictures:
    """Decode the pictures of these rows. Raises DatasetError where there are none or one is of another size."""
    if not rows:
        raise DatasetError(f"the data set {dataset.name!r} has no graded photographs in this split; see its manifest")
    size_px = dataset.recipe.size_px
    pixels = torch.empty((len(rows), 3, size_px, size_px), dtype=torch.uint8)

    def load(index: int) -> None:
        try:
            picture = read_image(dataset.directory / rows[index].image)
        except UnreadableImageError as error:
            raise DatasetError(
                f"{rows[index].image} of the data set {dataset.name!r}: {error}; run `fundusgrade preprocess` again"
            ) from error
        if picture.shape != (size_px, size_px, 3):
            raise DatasetError(
                f"{rows[index].image} is {picture.shape[1]} x {picture.shape[0]} px, expected {size_px} x {size_px}; "
                "run `fundusgrade preprocess` again"
            )
        pixels[index] = to_pixels(picture)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(load, range(len(rows))))
    grades = torch.tensor([-1 if row.grade is None else int(row.grade) for row in rows])
    max_turn = BAND_TURN if dataset.recipe.outline is Outline.BAND else ANY_TURN
    return GradedPictures(pixels=pixels, grades=grades, fill=dataset.recipe.fill, max_turn=max_turn)


def with_degraded(
    pictures: GradedPictures, dataset: PreparedDataset, rows: Sequence[ManifestRow], *, seed: int
) -> GradedPictures:
    """The same with degraded pictures beside them; where degrading leaves no retina, the picture as it is."""
    degraded = pictures.pixels.clone()
    for index, picture in enumerate(degraded_pictures(dataset, rows, seed=seed)):
        if picture is not None:
            degraded[index] = to_pixels(picture)
    return replace(pictures, degraded=degraded)


def num_batches(num_pictures: int, batch_size: int) -> int:
    """Batches of an epoch: a rest that is smaller than a batch is left to another epoch, unless it is all there is."""
    return max(1, num_pictures // batch_size)


def training_batches(
    pictures: GradedPictures, batch_size: int, *, seed: int, epoch: int, device: torch.device, mixup: float = 0.0
) -> Iterator[Batch]:
    """One epoch in an order and with changes that follow from seed and epoch alone, so that a run can be resumed.

    With `mixup` > 0 pairs of pictures are mixed by shares from Beta(mixup, mixup) (Zhang et al., ICLR 2018).
    """
    generator = torch.Generator().manual_seed(_mixed_seed(seed, epoch))
    order = torch.randperm(len(pictures), generator=generator)
    for step in range(num_batches(len(pictures), batch_size)):
        chosen = order[step * batch_size : (step + 1) * batch_size]
        pixels = scale_pixels(_drawn(pictures, chosen, generator).to(device))
        changed = augment(pixels, pictures.fill / 255, generator, pictures.max_turn)
        grades = pictures.grades[chosen].to(device)
        share = _mixing_share(mixup, _mixed_seed(seed, epoch) + step)
        if share < 1:
            changed = share * changed + (1 - share) * changed.flip(0)
        weights = torch.ones(len(chosen)) if pictures.weights is None else pictures.weights[chosen]
        yield Batch(pictures=changed, grades=grades, weights=weights.to(device), share=share)


def _drawn(pictures: GradedPictures, chosen: Tensor, generator: torch.Generator) -> Tensor:
    if pictures.degraded is None:
        return pictures.pixels[chosen]
    is_degraded = torch.rand(len(chosen), generator=generator) < DEGRADED_SHARE
    return torch.where(is_degraded.view(-1, 1, 1, 1), pictures.degraded[chosen], pictures.pixels[chosen])


def augment(pictures: Tensor, fill: float, generator: torch.Generator, max_turn: float = ANY_TURN) -> Tensor:
    """Turn, mirror, zoom, shift and re-light each picture of a batch (B, 3, S, S) in [0, 1] differently."""
    turned = _turn(pictures - fill, generator, max_turn).add_(fill)
    return _relight(turned, fill, generator).clamp_(0, 1)


def _turn(pictures: Tensor, generator: torch.Generator, max_turn: float) -> Tensor:
    """Rotated, mirrored or not both ways, with a little zoom and shift; what comes in from outside is 0."""
    count = len(pictures)
    angle = _uniform(count, max_turn, generator)
    angle = angle + math.pi * (torch.rand(count, generator=generator) < 0.5)
    zoom = 1 + _uniform(count, MAX_ZOOM, generator)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    shift = 2 * MAX_SHIFT_FRACTION
    row_x = torch.stack([cos * mirror, -sin, _uniform(count, shift, generator)], dim=1)
    row_y = torch.stack([sin * mirror, cos, _uniform(count, shift, generator)], dim=1)
    matrix = torch.stack([row_x, row_y], dim=1).to(pictures.device)
    grid = functional.affine_grid(matrix, list(pictures.shape), align_corners=False)
    return functional.grid_sample(pictures, grid, align_corners=False)


def _relight(pictures: Tensor, fill: float, generator: torch.Generator) -> Tensor:
    """Change contrast and saturation, and brightness where there is retina: the surroundings keep their value."""
    count = len(pictures)
    contrast = (1 + _uniform(count, MAX_CONTRAST, generator)).view(-1, 1, 1, 1).to(pictures.device)
    saturation = (1 + _uniform(count, MAX_SATURATION, generator)).view(-1, 1, 1, 1).to(pictures.device)
    brightness = _uniform(count, MAX_BRIGHTNESS, generator).view(-1, 1, 1, 1).to(pictures.device)
    gray = pictures.mean(dim=1, keepdim=True)
    is_retina = (pictures - fill).abs_().amax(dim=1, keepdim=True) > 1e-3
    # fill + (gray + (pictures - gray) * saturation - fill) * contrast + brightness, with one copy of the batch.
    added = gray * (contrast * (1 - saturation)) + (fill * (1 - contrast) + brightness * is_retina)
    return (pictures * (contrast * saturation)).add_(added)


def _uniform(count: int, limit: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(count, generator=generator) * 2 - 1) * limit


def _mixing_share(alpha: float, seed: int) -> float:
    """Share of the first of two mixed pictures, at least one half; 1 where nothing is mixed."""
    share = float(np.random.default_rng(seed).beta(alpha, alpha)) if alpha > 0 else 1.0
    return max(share, 1 - share)


def _mixed_seed(seed: int, epoch: int) -> int:
    """Streams of neighboring seeds and epochs must not meet."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
