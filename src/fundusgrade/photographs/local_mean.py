"""The mean around each pixel over those that show retina, in a Gaussian window.

A plain blur would mix in the dark surroundings of the retina. Here both the values in a mask and the mask are blurred,
and divided (normalized convolution, Knutsson and Westin 1993).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

# A Gaussian window is applied to a copy that is reduced as far as its sigma keeps this many pixels.
MIN_REDUCED_SIGMA_PX = 4.2


def local_mean(
    values: NDArray[np.float32],
    mask: NDArray[np.bool_],
    sigma_px: float,
    *,
    min_reduced_sigma_px: float = MIN_REDUCED_SIGMA_PX,
) -> NDArray[np.float32]:
    """Mean of `values` (H, W) or (H, W, 3) around each pixel over those in the mask, in a Gaussian window.

    A wide window is applied to a reduced copy, on which its sigma is still `min_reduced_sigma_px`, for speed.
    """
    window = GaussianWindow.of(sigma_px, min_reduced_sigma_px)
    return window.mean(values, mask, window.total_weight(mask))


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianWindow:
    """A Gaussian window that is applied to a copy `factor` times smaller, on which its standard deviation is given."""

    factor: int
    sigma_px: float

    @classmethod
    def of(cls, sigma_px: float, min_reduced_sigma_px: float = MIN_REDUCED_SIGMA_PX) -> GaussianWindow:
        """The window of a standard deviation on the image itself, of which the copy keeps this many pixels."""
        factor = max(1, int(sigma_px / min_reduced_sigma_px))
        return cls(factor=factor, sigma_px=sigma_px / factor)

    def blurred(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values (H, W) or (H, W, 3), reduced and blurred."""
        if self.factor > 1:
            size = (values.shape[1] // self.factor, values.shape[0] // self.factor)
            values = np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), np.float32)
        return np.asarray(cv2.GaussianBlur(values, (0, 0), self.sigma_px), np.float32)

    def total_weight(self, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """How much of the window lies in a mask (H, W), on the reduced copy; never 0."""
        return np.maximum(self.blurred(mask.astype(np.float32)), 1e-6)

    def mean(
        self, values: NDArray[np.float32], mask: NDArray[np.bool_], total_weight: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """The mean of values (H, W) or (H, W, 3) in the mask, of which the total weight is given."""
        mean = self.blurred(np.asarray(cv2.copyTo(values, mask.astype(np.uint8)), np.float32))
        mean /= cv2.merge([total_weight] * 3) if mean.ndim == 3 else total_weight
        if self.factor > 1:
            mean = np.asarray(cv2.resize(mean, mask.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
        return mean
