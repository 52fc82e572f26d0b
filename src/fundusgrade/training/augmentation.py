"""Augmentation: random geometric and photometric changes of whole batches, on the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from fundusgrade.networks.tensors import ANY_ROTATION, copy_to_device, scale_pixels

MAX_ZOOM = 0.1
MAX_SHIFT_FRACTION = 0.03
MAX_BRIGHTNESS = 0.1
MAX_CONTRAST = 0.2
MAX_SATURATION = 0.2
# Standard deviation of noise, in levels of 8 bits, where the quality of images varies. Decoding a photograph in full or
# at a reduced size differs by about 0.4 levels of the preprocessed image.
MAX_NOISE_LEVELS = 2.0
_MAX_SEED = 2**24


def draw_changes(
    count: int, generator: torch.Generator, max_rotation: float = ANY_ROTATION, max_noise: float = 0.0
) -> Tensor:
    """Random changes of each image of a batch (count, 11).

    Affine map by rows, contrast, saturation, brightness; standard deviation (up to `max_noise` levels) and
    seed of noise.
    """
    angle = _uniform(count, max_rotation, generator)
    angle = angle + math.pi * (torch.rand(count, generator=generator) < 0.5)
    zoom = 1 + _uniform(count, MAX_ZOOM, generator)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    shift = 2 * MAX_SHIFT_FRACTION
    row_x = [cos * mirror, -sin, _uniform(count, shift, generator)]
    row_y = [sin * mirror, cos, _uniform(count, shift, generator)]
    contrast, saturation = (1 + _uniform(count, limit, generator) for limit in (MAX_CONTRAST, MAX_SATURATION))
    light = [contrast, saturation, _uniform(count, MAX_BRIGHTNESS, generator)]
    return torch.stack([*row_x, *row_y, *light, *_draw_noise(count, generator, max_noise)], dim=1)


def _draw_noise(count: int, generator: torch.Generator, max_noise: float) -> tuple[Tensor, Tensor]:
    """Standard deviation in [0, 1] and seed of each image's noise; nothing is drawn where there is none."""
    if max_noise == 0:
        return torch.zeros(count), torch.zeros(count)
    deviation = torch.rand(count, generator=generator) * (max_noise / 255)
    return deviation, torch.randint(_MAX_SEED, (count,), generator=generator).float()


def augment(
    pixels: Tensor,
    fill: float,
    changes: Tensor,
    rows: tuple[int, int] | None = None,
    *,
    outline: Tensor | None = None,
    size_px: int | None = None,
) -> Tensor:
    """Rotate, mirror, zoom, shift and relight images (B, 3, S, S) uint8 by `changes` (B, 11) -> float32 in [0, 1].

    `fill` in [0, 1] is the gray around the retina. Only `rows` of the result are computed, the first and the one after
    the last; all where None. With an outline (S, S), outside of which the result is gray, images are whole discs, which
    are continued by reflection beyond their edge: no gray enters the outline. The result is `size_px` wide, S where
    None; `rows` and the outline are of that size. Changes are best on the CPU: it draws noise by them and does not wait
    for a GPU.
    """
    size_px = size_px or pixels.shape[3]
    top, bottom = rows or (0, size_px)
    on_device = copy_to_device(changes, pixels.device)
    matrix = on_device[:, :6].reshape(-1, 2, 3)
    grid = functional.affine_grid(matrix, [len(pixels), 3, size_px, size_px], align_corners=False)[:, top:bottom]
    if outline is not None:
        grid = _reflected_at_edge(grid, pixels.shape[2])
    turned = functional.grid_sample(scale_pixels(pixels).sub_(fill), grid, align_corners=False).add_(fill)
    relit = _relight(turned, fill, *on_device[:, 6:9].T.reshape(3, -1, 1, 1, 1))
    noisy = _with_noise(relit, changes[:, 9], changes[:, 10], top).clamp_(0, 1)
    return noisy if outline is None else noisy.masked_fill_(~outline[top:bottom], fill)


def _with_noise(images: Tensor, deviations: Tensor, seeds: Tensor, top: int) -> Tensor:
    """Add Gaussian noise in place to images (B, 3, h, S): the rows from `top` on of the noise of each one's seed."""
    bottom, size_px = top + images.shape[2], images.shape[3]
    for image, deviation, seed in zip(images, deviations.tolist(), seeds.tolist(), strict=True):
        if deviation > 0:
            generator = torch.Generator(images.device).manual_seed(int(seed))
            noise = torch.randn(3, size_px, size_px, generator=generator, device=images.device)
            image.add_(noise[:, top:bottom], alpha=deviation)
    return images


def _reflected_at_edge(grid: Tensor, size_px: int) -> Tensor:
    """Points (B, h, S, 2) in [-1, 1], those beyond the edge of the disc reflected at it along the radius.

    The edge is taken 1.5 px inside, so that no point is interpolated from gray pixels outside of the disc.
    """
    edge = 1 - 3 / size_px
    radius = grid.square().sum(dim=3, keepdim=True).sqrt_().clamp_(min=edge)
    return grid * ((2 * edge - radius) / radius).where(radius > edge, 1.0)


def _relight(images: Tensor, fill: float, contrast: Tensor, saturation: Tensor, brightness: Tensor) -> Tensor:
    """Change contrast and saturation, and brightness inside the retina: the surroundings keep their value."""
    gray = images.mean(dim=1, keepdim=True)
    above, below = images.amax(dim=1, keepdim=True) - fill, fill - images.amin(dim=1, keepdim=True)
    is_retina = torch.maximum(above, below) > 1e-3
    # fill + (gray + (images - gray) * saturation - fill) * contrast + brightness, without a copy of the batch.
    added = gray * (contrast * (1 - saturation)) + (fill * (1 - contrast) + brightness * is_retina)
    return images.mul_(contrast * saturation).add_(added)


def _uniform(count: int, limit: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(count, generator=generator) * 2 - 1) * limit
