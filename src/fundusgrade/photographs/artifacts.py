"""Artifacts that spoil a part of a photograph, and retinas that are small or not alone in their picture.

The measurements of `quality` are of the whole disc: a shadow over the macula hardly moves them. Those here are
fractions of the retina's area, or of the photograph's, with limits that photographs which graders call good seldom
reach: docs/guides/gradability.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.photographs.edges import count_levels, quantile_level, strongest_channel
from fundusgrade.photographs.local_mean import local_mean
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.quality import Disc

# Brightness is a mean over this neighborhood, in px of a disc 224 px wide: wider than a vessel, narrower than a shadow.
_SHADOW_SIGMA_PX = 8.0
_GLARE_SIGMA_PX = 3.0
_DETAIL_SIGMA_PX = 10.0
# The outer part of the disc is darker in most photographs.
_CENTRAL_FRACTION = 0.85
_SHADOW_BELOW = 0.5
_GLARE_ABOVE = 2.0
_NO_DETAIL_BELOW = 0.8

MAX_SHADOW_FRACTION = 0.12
MAX_GLARE_FRACTION = 0.04
MAX_HAZY_FRACTION = 0.25
MIN_FRAME_FRACTION = 0.15
MAX_SECOND_REGION = 0.20
NO_BLUE = "colors without blue, as of an ultra-widefield or a red-free camera"
# A retina has some blue unless it is so red that green is weak too.
_GREEN_FROM, _BLUE_BELOW = 0.6, 0.08
HAZY_PART = "part of the retina out of focus or veiled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifacts:
    """Fractions from 0 to 1, measured on the disc in natural colors at 224 px.

    `shadow_fraction` is the fraction of the inner 85 % of the disc's radius whose brightness is below half of its 75th
    percentile, `glare_fraction` the fraction of the disc whose luminance is above twice the median, and
    `hazy_fraction` the fraction of the inner disc without fine structure: less than 0.8 levels of green between 1 and 4
    px of blur. `frame_fraction` is the fraction of the photograph that the disc fills, and `second_region` the area of
    the second largest bright region as a fraction of the largest.
    """

    shadow_fraction: float
    glare_fraction: float
    hazy_fraction: float
    frame_fraction: float
    second_region: float

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the photograph is of doubtful quality; empty if it is not."""
        checks = {
            "shadow over part of the retina": self.shadow_fraction > MAX_SHADOW_FRACTION,
            "glare over part of the retina": self.glare_fraction > MAX_GLARE_FRACTION,
            HAZY_PART: self.hazy_fraction > MAX_HAZY_FRACTION,
            "the disc fills little of the picture": self.frame_fraction < MIN_FRAME_FRACTION,
            "another bright region beside the disc": self.second_region > MAX_SECOND_REGION,
        }
        return tuple(reason for reason, holds in checks.items() if holds)


def measure_artifacts(photograph: Image, disc: Disc) -> Artifacts:
    """Measure a photograph (H, W, 3) uint8, of which the disc is given."""
    (height, width), field_of_view = photograph.shape[:2], disc.preprocessed.field_of_view
    area = np.pi * field_of_view.radius_x * field_of_view.radius_y * field_of_view.visible_fraction
    image, mask, central = disc.preprocessed.image, disc.preprocessed.mask, _central(disc.inner)
    gray = np.asarray(cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2GRAY), np.float32)
    brightness = _mean(strongest_channel(image).astype(np.float32), mask, _SHADOW_SIGMA_PX)[central]
    luminance = _mean(gray, mask, _GLARE_SIGMA_PX)[disc.inner]
    # The root mean square of fine structure around each pixel, in levels.
    detail = np.sqrt(np.maximum(_mean(disc.detail**2, mask, _DETAIL_SIGMA_PX)[central], 0))
    measured = {
        "shadow_fraction": _fraction(brightness < _SHADOW_BELOW * np.quantile(brightness, 0.75)),
        "glare_fraction": _fraction(luminance > _GLARE_ABOVE * np.median(luminance)),
        "hazy_fraction": _fraction(detail < _NO_DETAIL_BELOW),
        "frame_fraction": min(1.0, area / (height * width)),
        "second_region": field_of_view.second_region,
    }
    return Artifacts(**{name: round(float(value), 4) for name, value in measured.items()})


def lacks_blue(disc: Disc) -> bool:
    """Whether a retina has green but no blue: its 90th percentile is next to nothing beside the median of green.

    Two lasers, red and green, make the pictures of ultra-widefield scanners.
    """
    shown = disc.preprocessed.mask[::4, ::4].astype(np.uint8)
    red, green, blue = (
        quantile_level(count_levels(channel[::4, ::4], shown), fraction)
        for channel, fraction in ((disc.red, 0.5), (disc.green, 0.5), (disc.blue, 0.9))
    )
    return green > _GREEN_FROM * red and blue < _BLUE_BELOW * green


def _mean(values: NDArray[np.float32], mask: NDArray[np.bool_], sigma_px: float) -> NDArray[np.float32]:
    return local_mean(values, mask, sigma_px, min_reduced_sigma_px=2)


def _fraction(holds: NDArray[np.bool_]) -> float:
    return np.count_nonzero(holds) / holds.size


def _central(inner: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The part of the inner pixels (S, S) of a disc that is not near its edge; all where there is no such part."""
    side = len(inner)
    offset = np.arange(side) - (side - 1) / 2
    central = inner & (offset**2 + offset[:, None] ** 2 <= (_CENTRAL_FRACTION * side / 2) ** 2)
    return np.asarray(central if central.any() else inner)
