"""Maps that know nothing of the network: what any explanation has to beat."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.evaluation.landmarks import Landmarks, Spot, disc_map, vessel_map
from fundusgrade.photographs.preprocess import PreprocessedImage, local_mean

RANDOM = "random"
CENTER = "center"
CONTRAST = "contrast"
VESSELS = "vessels"
OPTIC_DISC = "optic disc"
DECOYS = (RANDOM, CENTER, CONTRAST, VESSELS, OPTIC_DISC)
"""Smooth noise, a Gaussian in the middle, local contrast, dark lines, and the optic disc."""

RANDOMIZED = ", randomized"
"""Ends the name of a method's map of a network that forgot everything, which is a decoy too."""

# Noise has grains of about this size, of the picture's side; the Gaussian reaches half the radius.
_GRAIN_FRACTION = 1 / 56
_CENTER_SPREAD = 0.5
_CONTRAST_SIGMA_FRACTION = 1 / 28
_CONTRAST_GRAIN_FRACTION = 1 / 224


def is_decoy(method: str) -> bool:
    """Whether a map of this name knows nothing of the network as it learned."""
    return method in DECOYS or method.endswith(RANDOMIZED)


def decoy_map(
    name: str,
    prepared: PreprocessedImage,
    natural: PreprocessedImage,
    landmarks: Landmarks,
    radius_px: float,
    seed: int,
) -> NDArray[np.float32] | None:
    """The decoy (S, S) >= 0 of this name for a preprocessed image; None where the optic disc is not known.

    `natural` is the same picture in natural colors, on which vessels are dark lines.
    """
    shape = prepared.image.shape[:2]
    if name == RANDOM:
        noise = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
        grains = cv2.GaussianBlur(noise, (0, 0), _GRAIN_FRACTION * shape[0])
        return np.asarray(np.maximum(grains, 0), np.float32)
    if name == CENTER:
        middle = Spot(x=(shape[1] - 1) / 2, y=(shape[0] - 1) / 2)
        y, x = np.mgrid[: shape[0], : shape[1]]
        squared = (x - middle.x) ** 2 + (y - middle.y) ** 2
        return np.asarray(np.exp(-squared / (2 * (_CENTER_SPREAD * radius_px) ** 2)), np.float32)
    if name == CONTRAST:
        return _contrast(prepared)
    if name == VESSELS:
        return vessel_map(natural.image, natural.mask)
    return None if landmarks.optic_disc is None else disc_map(shape, landmarks.optic_disc, radius_px)


def _contrast(prepared: PreprocessedImage) -> NDArray[np.float32]:
    """The energy of all details, which is what integrated gradients would show if every gradient were alike."""
    values = prepared.image.astype(np.float32)
    details = values - local_mean(values, prepared.mask, _CONTRAST_SIGMA_FRACTION * len(values))
    energy = np.where(prepared.mask, (details**2).sum(axis=2), 0).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(energy, (0, 0), _CONTRAST_GRAIN_FRACTION * len(values)), np.float32)
