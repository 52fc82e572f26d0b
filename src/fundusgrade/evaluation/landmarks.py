"""Location of the optic disc, the fovea and the vessels on preprocessed images.

Simple measurements, accurate enough to measure how far heat lies from the landmarks; no grade depends on them. The disc
is the spot, of the size of a disc in photographs of 45 to 50 degrees, that is brightest against its surroundings and
full of vessels. The fovea is the darkest spot near its anatomical position: two and a half disc diameters from the
disc, towards the center of the image. Accuracy: docs/explanations.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.photographs.local_mean import local_mean
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.preprocess import PreprocessedImage

DISC_RADIUS_FRACTION = 0.13
"""Radius of the optic disc as a fraction of that of the field of view, in photographs of 45 to 50 degrees."""

_FOVEA_DISTANCE = 5.0  # in radii of the disc (Hogan, Histology of the Human Eye, 1971: 4-5 mm at a disc of 1.8 mm)
_FOVEA_REACH = 1.6
_VESSEL_SIGMAS = (1.5, 2.5)
# The best spot must exceed the second best by this factor, or the disc is not known.
_MIN_RATIO = 1.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A point on the preprocessed image, in pixels."""

    x: float
    y: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Landmarks:
    """Centers of optic disc and fovea; None where they are not known."""

    optic_disc: Spot | None = None
    fovea: Spot | None = None

    def magnified(self, factor: float, middle: float) -> Landmarks:
        """The same landmarks on an image that is magnified around its center (`middle`, `middle`), in pixels."""

        def moved(spot: Spot | None) -> Spot | None:
            return spot and Spot(x=middle + factor * (spot.x - middle), y=middle + factor * (spot.y - middle))

        return Landmarks(optic_disc=moved(self.optic_disc), fovea=moved(self.fovea))


def find_landmarks(preprocessed: PreprocessedImage, radius_px: float) -> Landmarks:
    """Locate disc and fovea on a preprocessed image in natural colors, whose field of view has this radius."""
    disc = _find_disc(preprocessed, radius_px)
    return Landmarks(optic_disc=disc, fovea=None if disc is None else _find_fovea(preprocessed, disc, radius_px))


def vessel_map(image: Image, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Vesselness (S, S) >= 0: curvature across dark ridges of the green channel (Frangi et al., MICCAI 1998)."""
    green = np.where(mask, image[..., 1], np.median(image[..., 1][mask])).astype(np.float32)
    ridges = np.zeros_like(green)
    for sigma in _VESSEL_SIGMAS:
        smooth = cv2.GaussianBlur(green, (0, 0), sigma * len(image) / 224)
        xx, yy = cv2.Sobel(smooth, cv2.CV_32F, 2, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 2)
        xy = cv2.Sobel(smooth, cv2.CV_32F, 1, 1)
        # The larger eigenvalue is high across a dark line, the other one near zero along it.
        middle, reach = (xx + yy) / 2, np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
        ridges = np.maximum(ridges, np.maximum(middle + reach, 0) - np.abs(middle - reach))
    inner = cv2.erode(mask.astype(np.uint8), np.ones((7, 7), np.uint8), borderValue=0) > 0
    return np.asarray(np.where(inner, np.maximum(ridges, 0), 0), np.float32)


def disc_map(shape: tuple[int, ...], spot: Spot, radius_px: float) -> NDArray[np.float32]:
    """A Gaussian (S, S) around a spot whose sigma is the radius of the optic disc."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    spread = DISC_RADIUS_FRACTION * radius_px
    return np.asarray(np.exp(-((x - spot.x) ** 2 + (y - spot.y) ** 2) / (2 * spread**2)), np.float32)


def _find_disc(preprocessed: PreprocessedImage, radius_px: float) -> Spot | None:
    size_px = DISC_RADIUS_FRACTION * radius_px
    light = preprocessed.image[..., :2].astype(np.float32).mean(axis=2)
    mask = preprocessed.mask
    inside, around = local_mean(light, mask, 0.7 * size_px), local_mean(light, mask, 2.5 * size_px)
    vessels = local_mean(np.sqrt(vessel_map(preprocessed.image, mask)), mask, size_px)
    brightness = np.maximum(inside / np.maximum(around, 1) - 1, 0)
    evidence = np.where(_inner(mask, size_px), brightness * vessels, 0)
    y, x = np.unravel_index(int(evidence.argmax()), evidence.shape)
    best = float(evidence[y, x])
    cv2.circle(evidence, (int(x), int(y)), round(2 * size_px), 0.0, -1)
    return Spot(x=float(x), y=float(y)) if best > _MIN_RATIO * float(evidence.max()) else None


def _find_fovea(preprocessed: PreprocessedImage, disc: Spot, radius_px: float) -> Spot | None:
    size_px = DISC_RADIUS_FRACTION * radius_px
    middle = (preprocessed.image.shape[1] - 1) / 2
    side = 1.0 if disc.x < middle else -1.0
    expected = Spot(x=disc.x + side * _FOVEA_DISTANCE * size_px, y=disc.y + 0.5 * size_px)
    green = preprocessed.image[..., 1].astype(np.float32)
    dark = local_mean(green, preprocessed.mask, 3 * size_px) - local_mean(green, preprocessed.mask, 0.6 * size_px)
    y, x = np.mgrid[: green.shape[0], : green.shape[1]]
    near = np.hypot(x - expected.x, y - expected.y) < _FOVEA_REACH * size_px
    near &= _inner(preprocessed.mask, size_px)
    if not near.any() or float(dark[near].max()) <= 0:
        return None
    row, column = np.unravel_index(int(np.where(near, dark, -np.inf).argmax()), dark.shape)
    return Spot(x=float(column), y=float(row))


def _inner(mask: NDArray[np.bool_], margin_px: float) -> NDArray[np.bool_]:
    distance = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    inner: NDArray[np.bool_] = distance > margin_px / 2
    return inner
