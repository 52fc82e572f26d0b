"""Integrated gradients from a blurred baseline: how much each pixel adds to the difference of the two scores.

The path leads in equal steps from a blurred copy of the image, the baseline, to the image. A pixel's attribution is its
difference from the baseline times the mean gradient along the path (Sundararajan et al., ICML 2017). A black baseline
would attribute most to bright pixels; a blurred one attributes to lesions and vessels (Xu et al., CVPR 2020). Each step
uses another of the four mirror images of the photograph, as training does. With infinitely many steps the attributions
add up to the difference between the scores of image and baseline, averaged over the mirror images. Eight steps come
close for the small CNN but not for deep networks, whose score is far from linear along the path (docs/explanations.md).
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
BASELINE_SIGMA_FRACTION = 1 / 28
"""Standard deviation of the baseline's blur, of the image's side: a third of the optic disc's diameter."""

SMOOTHING_SIGMA_FRACTIONS = (0.7 / 224, 1.4 / 224, 2.8 / 224, 5.6 / 224)
"""Standard deviations of the smoothing, of the image's side: from the size of a microaneurysm to a hemorrhage's."""

# Training mirrors images: artifacts of the grid of patches or strides cancel between the four.
_FLIPPED_AXES: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3))
_PIXELS_AT_ONCE = 8 * 224 * 224


def integrated_gradients(
    network: GradingNetwork, image: Image, outline: NDArray[np.bool_], target: Target, choice: DeviceChoice
) -> NDArray[np.float32]:
    """Signed attributions (S, S) of an image (S, S, 3) to the score of a resolved target, in the target's unit.

    `outline` (S, S) is where the image can show retina. Gradients must be enabled and the network in evaluation mode.
    """
    pixels = to_tensor(image)
    difference = pixels - to_tensor(blurred_baseline(image, outline))
    gradient = torch.zeros_like(pixels)
    at_once = max(1, _PIXELS_AT_ONCE // image[..., 0].size)
    for first in range(0, NUM_STEPS, at_once):
        steps = range(first, min(first + at_once, NUM_STEPS))
        flips = [_FLIPPED_AXES[step % len(_FLIPPED_AXES)] for step in steps]
        points = [(pixels - (1 - (step + 0.5) / NUM_STEPS) * difference)[None] for step in steps]
        batch = torch.cat([point.flip(axes) for point, axes in zip(points, flips, strict=True)])
        for axes, flipped in zip(flips, _gradients(network, batch, target, choice), strict=True):
            gradient += flipped[None].flip(axes)[0]
    return np.asarray((difference * gradient / NUM_STEPS).sum(dim=0).numpy(), np.float32)


def smooth_attributions(attributions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Heat (S, S) >= 0 from signed attributions (S, S): the mean over Gaussian windows of several sizes.

    Attributions for and against the score cancel within a window before negative values are set to zero: those of
    neighboring pixels alternate with the grid of the network's strides.
    """
    blurred = [
        cv2.GaussianBlur(attributions, (0, 0), fraction * len(attributions)) for fraction in SMOOTHING_SIGMA_FRACTIONS
    ]
    return np.asarray(np.mean([np.maximum(smoothed, 0) for smoothed in blurred], axis=0), np.float32)


def blurred_baseline(image: Image, outline: NDArray[np.bool_]) -> Image:
    """The image (S, S, 3) with each pixel of the outline (S, S) replaced by the local mean within the outline."""
    mean = local_mean(image.astype(np.float32), outline, BASELINE_SIGMA_FRACTION * len(image))
    return np.asarray(np.where(outline[..., None], np.rint(mean), image), np.uint8)


def _gradients(network: GradingNetwork, images: Tensor, target: Target, choice: DeviceChoice) -> Tensor:
    """Gradients (B, 3, S, S) of the score with respect to the pixels of each image, on the CPU."""
    leaf = to_memory_format(network, images.to(choice.device)).requires_grad_()
    with choice.autocast():
        scores = target_scores(target, network(leaf))
    (gradients,) = torch.autograd.grad(scores.sum(), leaf)
    return gradients.float().cpu()
