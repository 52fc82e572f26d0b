"""Gradability: measurements of a photograph's quality, their limits, and the reasons why it is not gradable.

Everything is measured on the canonical disc at 224 px in natural colors, so that neither the camera's resolution nor
dark surroundings matter. The limits are calibrated on real photographs: docs/guides/gradability.md shows which fraction
of each data set they flag.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.errors import NoRetinaError
from fundusgrade.photographs.edges import count_levels, quantile_level, strongest_channel
from fundusgrade.photographs.field_of_view import FieldOfView
from fundusgrade.photographs.local_mean import local_mean
from fundusgrade.photographs.pixels import FloatImage, Image
from fundusgrade.photographs.preprocess import PreprocessedImage, preprocess
from fundusgrade.photographs.recipe import Method, Outline, PreprocessRecipe

MEASURING_RECIPE = PreprocessRecipe(method=Method.NATURAL, outline=Outline.DISC, size_px=224)
# A pixel is dark where its strongest channel is below this (of 255), and overexposed from this luminance on.
DARK_BELOW = 40
OVEREXPOSED_FROM = 235
_EDGE_PX = 4

MAX_DARK_FRACTION = 0.25
MIN_BRIGHTNESS = 30.0
MAX_OVEREXPOSED_FRACTION = 0.10
MIN_VESSEL_CONTRAST = 0.045
MIN_DETAIL = 1.6
MIN_VISIBLE_FRACTION = 0.60
# Beyond these it is no retina: bluer than red by this fraction, nearly gray, or with as much detail as print and noise.
MIN_REDNESS = -0.05
MIN_COLOR = 4.0
MAX_DETAIL = 10.0
OUT_OF_FOCUS = "out of focus or veiled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Measurements on the visible retina; brightness, detail and color in levels of 255, the rest are fractions.

    `brightness` is the median luminance, `dark_fraction` and `overexposed_fraction` are fractions of the retina's area,
    `vessel_contrast` is how much darker than their surroundings the darkest 2 % of fine structures are, as a fraction
    of the local green value, `detail` the standard deviation of green between 1 and 4 px of blur, `redness` is
    (red - blue) / (red + blue) of the medians, `color` the 95th percentile of the difference between a pixel's
    strongest and weakest channel, and `visible_fraction` the fraction of the disc that the photograph shows.
    """

    visible_fraction: float
    brightness: float
    dark_fraction: float
    overexposed_fraction: float
    vessel_contrast: float
    detail: float
    redness: float
    color: float

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the photograph is not gradable; empty if it is."""
        checks = {
            "too dark": self.dark_fraction > MAX_DARK_FRACTION or self.brightness < MIN_BRIGHTNESS,
            "overexposed": self.overexposed_fraction > MAX_OVEREXPOSED_FRACTION,
            OUT_OF_FOCUS: self.vessel_contrast < MIN_VESSEL_CONTRAST or self.detail < MIN_DETAIL,
            "too little of the disc visible": self.visible_fraction < MIN_VISIBLE_FRACTION,
        }
        return tuple(reason for reason, holds in checks.items() if holds)

    @property
    def gradable(self) -> bool:
        """Whether the photograph is good enough to be graded."""
        return not self.reasons


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Disc:
    """A photograph as MEASURING_RECIPE shows it, and what several measurements of it share; all arrays are (S, S).

    `inner` is the visible retina without its outermost pixels, which mix with the dark surroundings, and `detail` green
    between 1 and 4 px of blur, the scale of vessels and lesions, in levels.
    """

    preprocessed: PreprocessedImage
    red: NDArray[np.uint8]
    green: NDArray[np.uint8]
    blue: NDArray[np.uint8]
    inner: NDArray[np.bool_]
    detail: NDArray[np.float32]

    @classmethod
    def of(cls, preprocessed: PreprocessedImage) -> Disc:
        """The disc of a photograph that was preprocessed by MEASURING_RECIPE."""
        mask = preprocessed.mask
        kernel = np.ones((2 * _EDGE_PX + 1, 2 * _EDGE_PX + 1), np.uint8)
        inner = cv2.erode(mask.astype(np.uint8), kernel, borderValue=0) > 0
        red, green, blue = (np.asarray(channel, np.uint8) for channel in cv2.split(preprocessed.image))
        values = green.astype(np.float32)
        return cls(
            preprocessed=preprocessed,
            red=red,
            green=green,
            blue=blue,
            inner=inner if inner.any() else mask,
            detail=cv2.GaussianBlur(values, (0, 0), 1) - local_mean(values, mask, 4, min_reduced_sigma_px=2),
        )


def measure_quality(photograph: Image | FloatImage, field_of_view: FieldOfView) -> Quality:
    """Measure a photograph (H, W, 3), uint8 or float32 from 0 to 255, with a known field of view.

    Raises NoRetinaError as `measure_disc`.
    """
    return measure_disc(Disc.of(preprocess(photograph, field_of_view, MEASURING_RECIPE)))


def measure_disc(disc: Disc) -> Quality:
    """Measure a photograph on its disc.

    Raises NoRetinaError where a retina cannot have its color or texture: not every bright disc is a fundus photograph.
    """
    preprocessed, inner = disc.preprocessed, disc.inner
    shown = inner.astype(np.uint8)
    strongest = strongest_channel(preprocessed.image)
    weakest = cv2.min(cv2.min(disc.red, disc.green), disc.blue)
    luminance = count_levels(np.asarray(cv2.cvtColor(preprocessed.image, cv2.COLOR_RGB2GRAY), np.uint8), shown)
    red, blue = (quantile_level(count_levels(channel, shown), 0.5) for channel in (disc.red, disc.blue))
    detail, relative = disc.detail[inner], _relative_detail(disc)
    num_pixels = luminance.sum()
    measured = {
        "visible_fraction": preprocessed.field_of_view.visible_fraction,
        "brightness": quantile_level(luminance, 0.5),
        "dark_fraction": count_levels(strongest, shown)[:DARK_BELOW].sum() / num_pixels,
        "overexposed_fraction": luminance[OVEREXPOSED_FROM + 1 :].sum() / num_pixels,
        "vessel_contrast": -np.partition(relative, len(relative) // 50)[len(relative) // 50],
        "detail": detail.std(),
        "redness": (red - blue) / max(red + blue, 1.0),
        "color": quantile_level(count_levels(strongest - weakest, shown), 0.95),
    }
    # Rounded, so that measurements read from a file give the same reasons.
    quality = Quality(**{name: round(float(value), 4) for name, value in measured.items()})
    _check_is_retina(quality)
    return quality


def _relative_detail(disc: Disc) -> NDArray[np.float32]:
    """Fine structure of the inner pixels (N,), relative to the local mean of green."""
    mean = local_mean(disc.green.astype(np.float32), disc.preprocessed.mask, 6, min_reduced_sigma_px=2)
    return np.asarray(disc.detail[disc.inner] / np.maximum(mean[disc.inner], 8), np.float32)


def _check_is_retina(quality: Quality) -> None:
    reason = None
    if quality.redness < MIN_REDNESS:
        reason = f"its bright disc is bluer than red ({quality.redness:.2f}), as where red and blue are swapped (BGR)"
    elif quality.color < MIN_COLOR:
        reason = "its bright disc is gray"
    elif quality.detail > MAX_DETAIL:
        reason = f"its bright disc has more fine detail than any retina ({quality.detail:.1f})"
    if reason:
        raise NoRetinaError(f"not a fundus photograph: {reason}; expected a color photograph of the retina")
