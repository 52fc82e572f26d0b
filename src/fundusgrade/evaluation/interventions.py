"""Changes of a photograph for an audit: those of another acquisition, and controls that must, or must not, matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import cv2
import numpy as np

from fundusgrade.evaluation.visibility import visible_reach
from fundusgrade.photographs.decoding import decode_image
from fundusgrade.photographs.field_of_view import FieldOfView
from fundusgrade.photographs.images import encode_jpeg
from fundusgrade.photographs.local_mean import local_mean
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.recipe import PreprocessRecipe

CUT_FRACTIONS = (0.75, 0.65, 0.60, 0.50)
"""Cuts above and below, in radii from the center: as most photographs of APTOS are cut, and narrower ones."""

BARS_FRACTION = 0.60
SQUASHED_ASPECT = 0.75

BLUR_SIGMA_RADII = 0.1
"""Standard deviation of the blur of the positive control, in radii: wider than any hemorrhage."""

Change = Callable[[Image, FieldOfView], Image | None]
"""Changes a photograph (H, W, 3); returns None where the change does not apply to it."""


class Role(StrEnum):
    """What a change of a photograph should do to a grade."""

    ACQUISITION = "acquisition change"
    """Nothing: the retina is as it was, although less of it, or less of its detail, may be left."""
    NEGATIVE_CONTROL = "negative control"
    """Nothing: all that the network sees is as it was, up to resampling."""
    POSITIVE_CONTROL = "positive control"
    """Much: a measurement that does not find this effect would not find another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervention:
    """A change of a photograph; `cut_fraction` is how far from the center retina is left, where it cuts."""

    name: str
    change: Change
    role: Role = Role.ACQUISITION
    cut_fraction: float | None = None

    def role_for(self, recipe: PreprocessRecipe) -> Role:
        """The role for networks of this recipe: a cut beyond what they see is a negative control."""
        is_unseen = self.cut_fraction is not None and self.cut_fraction > visible_reach(recipe)
        return Role.NEGATIVE_CONTROL if is_unseen else self.role


def _cut_rows(photograph: Image, field_of_view: FieldOfView, fraction: float) -> tuple[int, int] | None:
    """First row and last row + 1 of a cut at a fraction of the radius; None where the photograph shows no more."""
    reach = fraction * field_of_view.radius_y
    first, last = round(field_of_view.center_y - reach), round(field_of_view.center_y + reach)
    shows_more = field_of_view.top < first - 0.02 * reach and field_of_view.bottom > last + 0.02 * reach
    return (max(first, 0), last + 1) if shows_more else None


def _cut(photograph: Image, field_of_view: FieldOfView, fraction: float) -> Image | None:
    rows = _cut_rows(photograph, field_of_view, fraction)
    return None if rows is None else np.ascontiguousarray(photograph[rows[0] : rows[1]])


def _bars(photograph: Image, field_of_view: FieldOfView) -> Image | None:
    rows = _cut_rows(photograph, field_of_view, BARS_FRACTION)
    if rows is None:
        return None
    masked = np.zeros_like(photograph)
    masked[rows[0] : rows[1]] = photograph[rows[0] : rows[1]]
    return masked


def _squashed(photograph: Image, field_of_view: FieldOfView) -> Image:
    """The field of view made round, or 3/4 as wide as high where it is round already, by shortening a side."""
    factor = _other_aspect(field_of_view)
    return resized(photograph, min(1.0, factor), min(1.0, 1 / factor))


def _stretched(photograph: Image, field_of_view: FieldOfView) -> Image:
    """The shape of `_squashed`, by lengthening the other side, which loses no detail."""
    factor = _other_aspect(field_of_view)
    return resized(photograph, max(1.0, factor), max(1.0, 1 / factor))


def _other_aspect(field_of_view: FieldOfView) -> float:
    is_round = abs(field_of_view.aspect - 1) < 0.12
    return (SQUASHED_ASPECT if is_round else 1.0) / field_of_view.aspect


def resized(photograph: Image, factor_x: float, factor_y: float) -> Image:
    """The photograph (H, W, 3) with both sides multiplied by their factors."""
    height, width = photograph.shape[:2]
    interpolation = cv2.INTER_AREA if min(factor_x, factor_y) < 1 else cv2.INTER_CUBIC
    size = (round(width * factor_x), round(height * factor_y))
    return np.asarray(cv2.resize(photograph, size, interpolation=interpolation), np.uint8)


def _with_margin(photograph: Image, field_of_view: FieldOfView) -> Image:
    height, width = photograph.shape[:2]
    return np.asarray(cv2.copyMakeBorder(photograph, 0, height // 5, width // 5, 0, cv2.BORDER_CONSTANT), np.uint8)


def _recompressed(photograph: Image, field_of_view: FieldOfView, quality: int) -> Image:
    return decode_image(encode_jpeg(photograph, quality=quality))


def _scaled(photograph: Image, field_of_view: FieldOfView, gains: tuple[float, float, float]) -> Image:
    return np.asarray(np.clip(np.rint(photograph * np.array(gains)), 0, 255), np.uint8)


def _without_details(photograph: Image, field_of_view: FieldOfView) -> Image:
    """The retina blurred within its outline, so that the outline stays sharp and no lesion is left."""
    height, width = photograph.shape[:2]
    mask = field_of_view.mask(height=height, width=width)
    sigma_px = BLUR_SIGMA_RADII * min(field_of_view.radius_x, field_of_view.radius_y)
    blurred = np.rint(local_mean(photograph.astype(np.float32), mask, sigma_px))
    return np.asarray(np.where(mask[..., None], blurred, photograph), np.uint8)


INTERVENTIONS: tuple[Intervention, ...] = (
    *(
        Intervention(
            name=f"cut at {fraction:.2f} of the radius", change=partial(_cut, fraction=fraction), cut_fraction=fraction
        )
        for fraction in CUT_FRACTIONS
    ),
    Intervention(name=f"bars from {BARS_FRACTION:.2f} of the radius", change=_bars, cut_fraction=BARS_FRACTION),
    Intervention(name="squashed to another aspect", change=_squashed),
    Intervention(name="stretched to another aspect", change=_stretched),
    Intervention(name="compressed again (JPEG 75)", change=partial(_recompressed, quality=75)),
    Intervention(name="compressed again (JPEG 50)", change=partial(_recompressed, quality=50)),
    Intervention(name="tinted (red x 0.9, blue x 1.2)", change=partial(_scaled, gains=(0.9, 1.0, 1.2))),
    Intervention(name="darkened (x 0.7)", change=partial(_scaled, gains=(0.7, 0.7, 0.7))),
    Intervention(name="margin on two sides", change=_with_margin, role=Role.NEGATIVE_CONTROL),
    Intervention(name="blurred until no lesion is left", change=_without_details, role=Role.POSITIVE_CONTROL),
)
