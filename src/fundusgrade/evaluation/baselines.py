"""Baseline maps that do not depend on the network: an explanation should do better than each of them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.evaluation.landmarks import Landmarks, Spot, disc_map, vessel_map
from fundusgrade.photographs.local_mean import local_mean
from fundusgrade.photographs.preprocess import PreprocessedImage

RANDOM = "random"
CENTER = "center"
CONTRAST = "contrast"
VESSELS = "vessels"
OPTIC_DISC = "optic disc"
BASELINES = (RANDOM, CENTER, CONTRAST, VESSELS, OPTIC_DISC)
"""Smoothed noise, a Gaussian at the center, local contrast, vessels, and the optic disc."""

RANDOMIZED = ", randomized"
"""Ends the name of a method's map of the network with all layers randomized, which is a baseline too."""

# Noise is smoothed by this sigma, of the image's side; the Gaussian's sigma is half the radius.
_NOISE_SIGMA_FRACTION = 1 / 56
_CENTER_SIGMA_RADII = 0.5
_CONTRAST_SIGMA_FRACTION = 1 / 28
_CONTRAST_SMOOTHING_FRACTION = 1 / 224


def is_baseline(method: str) -> bool:
    """Whether a map of this name does not depend on the trained network."""
    return method in BASELINES or method.endswith(RANDOMIZED)


def baseline_map(
    name: str,
    preprocessed: PreprocessedImage,
    natural: PreprocessedImage,
    landmarks: Landmarks,
    radius_px: float,
    seed: int,
) -> NDArray[np.float32] | None:
    """The baseline map (S, S) >= 0 of this name for a preprocessed image; None where the optic disc is not known.

    `natural` is the same image in natural colors, on which vessels are dark lines.
    """
    shape = preprocessed.image.shape[:2]
    if name == RANDOM:
        noise = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
        smooth = cv2.GaussianBlur(noise, (0, 0), _NOISE_SIGMA_FRACTION * shape[0])
        return np.asarray(np.maximum(smooth, 0), np.float32)
    if name == CENTER:
        middle = Spot(x=(shape[1] - 1) / 2, y=(shape[0] - 1) / 2)
        y, x = np.mgrid[: shape[0], : shape[1]]
        squared = (x - middle.x) ** 2 + (y - middle.y) ** 2
        return np.asarray(np.exp(-squared / (2 * (_CENTER_SIGMA_RADII * radius_px) ** 2)), np.float32)
    if name == CONTRAST:
        return _contrast(preprocessed)
    if name == VESSELS:
        return vessel_map(natural.image, natural.mask)
    return None if landmarks.optic_disc is None else disc_map(shape, landmarks.optic_disc, radius_px)


def _contrast(preprocessed: PreprocessedImage) -> NDArray[np.float32]:
    """Local contrast (S, S): what integrated gradients would show if all gradients were equal."""
    values = preprocessed.image.astype(np.float32)
    details = values - local_mean(values, preprocessed.mask, _CONTRAST_SIGMA_FRACTION * len(values))
    energy = np.where(preprocessed.mask, (details**2).sum(axis=2), 0).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(energy, (0, 0), _CONTRAST_SMOOTHING_FRACTION * len(values)), np.float32)
