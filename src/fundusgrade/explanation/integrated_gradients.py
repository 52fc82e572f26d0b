"""Integrated gradients from the picture without its details: each pixel's share of what the details do to the score.

The path leads from a blank picture, the local mean of the real one, in equal steps to the real one. Each pixel gets
its difference from the blank one times the mean gradient along the path (Sundararajan et al., ICML 2017). A black start
would give all evidence to what is bright; a blurred one asks what lesions and vessels say (Xu et al., CVPR 2020). Each
step sees the picture in another of its four mirrored views, as training does. With endless steps all pixels together
would add up to the difference of the two scores, as the mean over those views; eight steps come near it for the small
CNN, but a deep network's score bends too much on the way (docs/explanations.md): maps tell where, scores how much.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fundusgrade.explanation.targets import Target, target_scores
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.inference import to_memory_format
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.tensors import to_tensor
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.preprocess import local_mean

NUM_STEPS = 8
# Standard deviation of the blur that removes details, of the picture's side: a third of the optic disc's diameter.
BLANK_SIGMA_FRACTION = 1 / 28
# Neighboring pixels' shares swing with the grid of the network: what counts is what stays in windows of these standard
# deviations, of the picture's side, from a microaneurysm to a haemorrhage.
SCALE_FRACTIONS = (0.7 / 224, 1.4 / 224, 2.8 / 224, 5.6 / 224)
# As training sees them: what a grid of patches or strides adds by itself cancels between them.
_MIRRORED: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3))
_PIXELS_AT_ONCE = 8 * 224 * 224


def integrate(
    network: GradingNetwork, image: Image, outline: NDArray[np.bool_], target: Target, choice: DeviceChoice
) -> NDArray[np.float32]:
    """What each pixel (S, S) of a picture (S, S, 3) adds to the score of a resolved target, in its unit, with its sign.


    `outline` says which pixels can show retina. Gradients must be switched on and the network in evaluation mode.
    """
    real = to_tensor(image)
    details = real - to_tensor(blurred_baseline(image, outline))
    gradient = torch.zeros_like(real)
    at_once = max(1, _PIXELS_AT_ONCE // image[..., 0].size)
    for first in range(0, NUM_STEPS, at_once):
        steps = range(first, min(first + at_once, NUM_STEPS))
        views = [(real - (1 - (step + 0.5) / NUM_STEPS) * details)[None] for step in steps]
        mirrored = [view.flip(_MIRRORED[step % len(_MIRRORED)]) for step, view in zip(steps, views, strict=True)]
        for step, found in zip(steps, _gradients(network, torch.cat(mirrored), target, choice), strict=True):
            gradient += found[None].flip(_MIRRORED[step % len(_MIRRORED)])[0]
    return np.asarray((details * gradient / NUM_STEPS).sum(dim=0).numpy(), np.float32)


def gather(shares: NDArray[np.float32]) -> NDArray[np.float32]:
    """Evidence (S, S) >= 0 around each pixel, from signed shares (S, S): the mean over windows of several sizes.

    In each window what speaks for and against the score cancels first; only then are negative values cut off.
    """
    blurred = [cv2.GaussianBlur(shares, (0, 0), fraction * len(shares)) for fraction in SCALE_FRACTIONS]
    return np.asarray(np.mean([np.maximum(each, 0) for each in blurred], axis=0), np.float32)


def blurred_baseline(image: Image, outline: NDArray[np.bool_]) -> Image:
    """The picture (S, S, 3) without its details: each pixel is the mean of what surrounds it in the outline (S, S)."""
    mean = local_mean(image.astype(np.float32), outline, BLANK_SIGMA_FRACTION * len(image))
    return np.asarray(np.where(outline[..., None], np.rint(mean), image), np.uint8)


def _gradients(network: GradingNetwork, images: Tensor, target: Target, choice: DeviceChoice) -> Tensor:
    """Gradients (B, 3, S, S) of the score by the pixels of each picture, on the CPU."""
    leaf = to_memory_format(network, images.to(choice.device)).requires_grad_()
    with choice.autocast():
        scores = target_scores(target, network(leaf))
    (found,) = torch.autograd.grad(scores.sum(), leaf)
    return found.float().cpu()
