"""Integrated gradients from a blurred baseline: how much each pixel adds to the difference of the two scores.

The path leads from a blurred copy of the image, the baseline, to the image. A pixel's attribution is its difference
from the baseline times the mean gradient along the path (Sundararajan et al., ICML 2017). A black baseline would
attribute most to bright pixels; a blurred one attributes to lesions and vessels (Xu et al., CVPR 2020). Each step uses
another of the four mirror images of the photograph, as training does. With infinitely many steps the attributions add
up to the difference between the scores of image and baseline, averaged over the mirror images. Scores of deep networks
change most near the baseline, so the points of the quadrature are denser there; how far the sum of eight steps misses
the difference of the two scores is the gap of a heat map (docs/explanations.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.explanation.score_gradients import ScoreGradients, scaled
from fundusgrade.explanation.targets import Target
from fundusgrade.photographs.local_mean import local_mean
from fundusgrade.photographs.pixels import Image

BASELINE_SIGMA_FRACTION = 1 / 28
"""Standard deviation of the baseline's blur, of the image's side: a third of the optic disc's diameter."""

SMOOTHING_SIGMA_FRACTIONS = (0.7 / 224, 1.4 / 224, 2.8 / 224, 5.6 / 224)
"""Standard deviations of the smoothing, of the image's side: from the size of a microaneurysm to a hemorrhage's."""

# Training mirrors images: artifacts of the grid of patches or strides cancel between the four. Weights rise in equal
# steps, so that in this order the two steps of each mirror image weigh the same together.
FLIPPED_AXES: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3), (2, 3), (2,), (3,), ())
_PIXELS_AT_ONCE = 8 * 224 * 224


@dataclass(frozen=True, slots=True, kw_only=True)
class PathRule:
    """A quadrature rule on the path: its points, 0 at the baseline and 1 at the image, and their weights.

    `flipped_axes` are those along which the images (B, 3, S, S) of successive points are mirrored, again from the first
    where there are more points.
    """

    points: tuple[float, ...]
    weights: tuple[float, ...]
    flipped_axes: tuple[tuple[int, ...], ...] = FLIPPED_AXES


def square_spaced(num_steps: int) -> PathRule:
    """The midpoint rule in s, where the point of the path is s squared: points are denser near the baseline.

    With a multiple of eight steps all mirror images have the same weight.
    """
    s = (np.arange(num_steps) + 0.5) / num_steps
    return PathRule(points=tuple(s**2), weights=tuple(2 * s / num_steps))


RULE = square_spaced(8)
"""Of the rules with eight gradients that weigh all mirror images alike, the one whose maps were nearest to exact ones
(docs/explanations.md)."""


def integrated_gradients(
    source: ScoreGradients,
    image: Image,
    outline: NDArray[np.bool_],
    target: Target,
    rule: PathRule = RULE,
) -> NDArray[np.float32]:
    """Signed attributions (S, S) of an image (S, S, 3) to the score of a resolved target, in the target's unit.

    `outline` (S, S) is where the image can show retina.
    """
    num_steps = len(rule.points)
    pixels = scaled(image)
    difference = pixels - scaled(blurred_baseline(image, outline))
    gradient = np.zeros_like(pixels)
    at_once = max(1, _PIXELS_AT_ONCE // image[..., 0].size)
    for first in range(0, num_steps, at_once):
        steps = range(first, min(first + at_once, num_steps))
        flips = [rule.flipped_axes[step % len(rule.flipped_axes)] for step in steps]
        points = [(pixels - np.float32(1 - rule.points[step]) * difference)[None] for step in steps]
        batch = np.concatenate([np.flip(point, axes) for point, axes in zip(points, flips, strict=True)])
        gradients = source.gradients(batch, target)
        for step, axes, flipped in zip(steps, flips, gradients, strict=True):
            gradient += np.float32(rule.weights[step]) * np.flip(flipped[None], axes)[0]
    return np.asarray((difference * gradient).sum(axis=0), np.float32)


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
