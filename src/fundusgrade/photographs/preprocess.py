"""Photograph -> preprocessed image: the canonical disc that a network gets as its input.

Every preprocessed image shows the field of view at the same place and radius, with squashing undone, and inside the
same outline: a band that nearly every camera shows, so that the way a photograph was cut does not reveal the camera.
All steps are computed in float32, and the result is rounded once: Ben Graham's method multiplies contrast by four, and
with it the error of levels that were rounded before. The affine map is kept as a `Placement`, so that a heat map can
be mapped back to the photograph's pixels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.photographs.field_of_view import FieldOfView
from fundusgrade.photographs.images import halved
from fundusgrade.photographs.local_mean import GaussianWindow
from fundusgrade.photographs.pixels import FloatImage, Image, rounded
from fundusgrade.photographs.recipe import BAND_FRACTION, MIDDLE_GRAY, Method, Outline, PreprocessRecipe

# Graham blurs with sigma 10 at a radius of 300 px and keeps the inner 90 % of the radius.
GRAHAM_SIGMA_FRACTION = 1 / 30

GRAHAM_GAIN = 4.0
MIN_ANTIALIASING_SIGMA_PX = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The map from photograph to canonical pixels: x' = scale_x x + offset_x, likewise y, in px."""

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    photograph_height: int
    photograph_width: int

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The map as OpenCV takes it, (2, 3)."""
        return np.array([[self.scale_x, 0, self.offset_x], [0, self.scale_y, self.offset_y]], np.float64)

    def resized_to(self, height: int, width: int) -> Placement:
        """The placement of the same photograph at another size in px, as when it was decoded at a reduced one."""
        factor_x, factor_y = self.photograph_width / width, self.photograph_height / height
        return Placement(
            scale_x=self.scale_x * factor_x,
            scale_y=self.scale_y * factor_y,
            offset_x=self.offset_x + self.scale_x * (factor_x - 1) / 2,
            offset_y=self.offset_y + self.scale_y * (factor_y - 1) / 2,
            photograph_height=height,
            photograph_width=width,
        )

    def to_photograph(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map values (S, S) on the preprocessed image to the photograph (H, W); 0 beyond the preprocessed image."""
        size = (self.photograph_width, self.photograph_height)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        placed = cv2.warpAffine(values.astype(np.float32), self.matrix, size, flags=flags)
        return np.asarray(placed, np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessedImage:
    """The canonical disc: `image` (S, S, 3) uint8 RGB, `mask` (S, S) True where retina is visible, and its placement.

    With a band or a mirrored disc, `mask` may be smaller than the outline: what the photograph lacks is filled in by
    reflection.
    """

    image: Image
    mask: NDArray[np.bool_]
    placement: Placement
    field_of_view: FieldOfView


def preprocess(
    photograph: Image | FloatImage, field_of_view: FieldOfView, recipe: PreprocessRecipe
) -> PreprocessedImage:
    """Preprocess a photograph (H, W, 3), uint8 or float32 from 0 to 255, whose field of view is known, by a recipe."""
    return preprocess_by_recipes(photograph, field_of_view, [recipe])[0]


def preprocess_by_recipes(
    photograph: Image | FloatImage, field_of_view: FieldOfView, recipes: Sequence[PreprocessRecipe]
) -> list[PreprocessedImage]:
    """As `preprocess`, by several recipes, which share the photograph in float32 and its reduced copies."""
    retina = _VisibleRetina(photograph, field_of_view)
    return [_preprocess(photograph, retina, field_of_view, recipe) for recipe in recipes]


def _preprocess(
    photograph: Image | FloatImage, retina: _VisibleRetina, field_of_view: FieldOfView, recipe: PreprocessRecipe
) -> PreprocessedImage:
    placement = _placement(photograph, field_of_view, recipe)
    visible = _VisibleRect.of(placement, field_of_view, recipe)
    disc = _warp(retina, placement, recipe.size_px)
    outline = _outline(recipe)
    mask = outline & visible.mask(recipe.size_px)
    if recipe.has_fixed_outline:
        disc = visible.filled_by_reflection(disc)
    else:
        outline = mask
    color_method = {Method.BEN_GRAHAM: _ben_graham, Method.NATURAL: _natural, Method.CLAHE: _clahe}[recipe.method]
    # Nothing beyond the outline may change pixels inside it, neither by a local mean nor by a histogram.
    treated = color_method(cv2.copyTo(disc, outline.astype(np.uint8)), outline, recipe)
    image = _filled_outside(treated, outline, recipe.fill)
    return PreprocessedImage(image=image, mask=mask, placement=placement, field_of_view=field_of_view)


def canonical_outline(recipe: PreprocessRecipe) -> NDArray[np.bool_]:
    """Pixels (S, S) in which a preprocessed image may show retina, the same for every photograph."""
    return _outline(recipe).copy()


@functools.lru_cache(maxsize=4)
def _outline(recipe: PreprocessRecipe) -> NDArray[np.bool_]:
    """As `canonical_outline`, kept for the next photograph: not to be changed."""
    axis = np.arange(recipe.size_px, dtype=np.float64) - (recipe.size_px - 1) / 2
    outline: NDArray[np.bool_] = axis[None] ** 2 + axis[:, None] ** 2 <= (recipe.size_px / 2) ** 2
    if recipe.outline is Outline.BAND:
        outline &= np.abs(axis)[:, None] <= BAND_FRACTION * recipe.radius_px
    return outline


def image_to_store(photograph: Image | FloatImage, preprocessed: PreprocessedImage, recipe: PreprocessRecipe) -> Image:
    """The image (S, S, 3) that a data set stores of a photograph: of a band the whole disc around it.

    Augmentation rotates it and cuts the band out afterwards, so that no corner without retina enters the band. Inside
    the band its pixels are those of the preprocessed image: `within_outline` gives that back.
    """
    if recipe.outline is not Outline.BAND:
        return preprocessed.image
    disc = preprocess(photograph, preprocessed.field_of_view, replace(recipe, outline=Outline.MIRRORED_DISC)).image
    return np.asarray(cv2.copyTo(preprocessed.image, canonical_outline(recipe).astype(np.uint8), disc), np.uint8)


def within_outline(stored: Image, recipe: PreprocessRecipe) -> Image:
    """The preprocessed image (S, S, 3) from the one that a data set stores."""
    if not recipe.has_fixed_outline:
        return stored
    return _filled_outside(stored, canonical_outline(recipe), recipe.fill)


def _filled_outside(image: Image, outline: NDArray[np.bool_], fill: int) -> Image:
    return np.asarray(cv2.copyTo(image, outline.astype(np.uint8), np.full_like(image, fill)), np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class _VisibleRect:
    """First and last row and column of the preprocessed image that the photograph shows; both included."""

    left: int
    top: int
    right: int
    bottom: int

    @classmethod
    def of(cls, placement: Placement, field_of_view: FieldOfView, recipe: PreprocessRecipe) -> _VisibleRect:
        """The bounds of a field of view on the preprocessed image."""
        last = recipe.size_px - 1

        def within(value: float) -> int:
            return min(max(int(value), 0), last)

        return cls(
            left=within(np.ceil(placement.scale_x * field_of_view.left + placement.offset_x)),
            top=within(np.ceil(placement.scale_y * field_of_view.top + placement.offset_y)),
            right=within(np.floor(placement.scale_x * field_of_view.right + placement.offset_x)),
            bottom=within(np.floor(placement.scale_y * field_of_view.bottom + placement.offset_y)),
        )

    def mask(self, size_px: int) -> NDArray[np.bool_]:
        """Which pixels (S, S) lie inside."""
        mask = np.zeros((size_px, size_px), np.bool_)
        mask[self.top : self.bottom + 1, self.left : self.right + 1] = True
        return mask

    def filled_by_reflection(self, disc: FloatImage) -> FloatImage:
        """Continue the retina beyond a cut by reflection: a gray margin would reveal how the photograph was cut."""
        if (self.left, self.top) == (0, 0) and (self.bottom + 1, self.right + 1) == disc.shape[:2]:
            return disc
        height, width = disc.shape[:2]
        visible = disc[self.top : self.bottom + 1, self.left : self.right + 1]
        margins = (self.top, height - 1 - self.bottom, self.left, width - 1 - self.right)
        return np.asarray(cv2.copyMakeBorder(visible, *margins, cv2.BORDER_REFLECT_101), np.float32)


def _placement(photograph: Image | FloatImage, field_of_view: FieldOfView, recipe: PreprocessRecipe) -> Placement:
    """Center the ellipse on the preprocessed image and stretch both radii to the canonical one."""
    middle = (recipe.size_px - 1) / 2
    scale_x = recipe.radius_px / field_of_view.radius_x
    scale_y = recipe.radius_px / field_of_view.radius_y
    return Placement(
        scale_x=scale_x,
        scale_y=scale_y,
        offset_x=middle - scale_x * field_of_view.center_x,
        offset_y=middle - scale_y * field_of_view.center_y,
        photograph_height=photograph.shape[0],
        photograph_width=photograph.shape[1],
    )


class _VisibleRetina:
    """The part of a photograph that shows retina, in float32, and reduced copies, each made when it is first needed.

    Only the visible retina is used: a dark bar beside it would be averaged into its last row.
    """

    def __init__(self, photograph: Image | FloatImage, field_of_view: FieldOfView) -> None:
        self.left, self.top = max(0, round(field_of_view.left)), max(0, round(field_of_view.top))
        right, bottom = round(field_of_view.right) + 1, round(field_of_view.bottom) + 1
        visible = photograph[self.top : bottom, self.left : right]
        self.height, self.width = visible.shape[:2]
        self._copies: list[FloatImage] = [visible.astype(np.float32, copy=False)]

    def reduced(self, *, least_width: float, least_height: float) -> FloatImage:
        """The smallest of the copies, each half as large as the one before, whose sides are not below these."""
        level = 0
        while self._copies[level].shape[1] > least_width and self._copies[level].shape[0] > least_height:
            if min(self._copies[level].shape[:2]) <= 1:
                break
            level += 1
            if level == len(self._copies):
                self._copies.append(halved(self._copies[-1]))
        return self._copies[level]


def _warp(retina: _VisibleRetina, placement: Placement, size_px: int) -> FloatImage:
    """Resample to the preprocessed image; halved and blurred as far as sampling would alias."""
    needed_width, needed_height = retina.width * placement.scale_x, retina.height * placement.scale_y
    visible = retina.reduced(least_width=2.1 * needed_width, least_height=2.1 * needed_height)
    sigma_x, sigma_y = (
        _antialiasing_sigma_px(visible.shape[1] / needed_width),
        _antialiasing_sigma_px(visible.shape[0] / needed_height),
    )
    if max(sigma_x, sigma_y) > MIN_ANTIALIASING_SIGMA_PX:
        visible = np.asarray(cv2.GaussianBlur(visible, (0, 0), max(sigma_x, 0.1), sigmaY=max(sigma_y, 0.1)), np.float32)
    factor_x, factor_y = retina.width / visible.shape[1], retina.height / visible.shape[0]
    # Reduced pixel u stands at photograph x = left + (u + 0.5) factor - 0.5.
    scale_x, scale_y = placement.scale_x * factor_x, placement.scale_y * factor_y
    offset_x = placement.offset_x + placement.scale_x * (retina.left + 0.5 * factor_x - 0.5)
    offset_y = placement.offset_y + placement.scale_y * (retina.top + 0.5 * factor_y - 0.5)
    matrix = np.array([[scale_x, 0, offset_x], [0, scale_y, offset_y]], np.float64)
    warped = cv2.warpAffine(
        visible, matrix, (size_px, size_px), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(warped, np.float32)


def _antialiasing_sigma_px(reduction: float) -> float:
    """The blur that an image needs before it is reduced by sampling, if a pixel is a Gaussian of half its width."""
    return 0.5 * math.sqrt(max(reduction, 1.0) ** 2 - 1)


def _ben_graham(disc: FloatImage, mask: NDArray[np.bool_], recipe: PreprocessRecipe) -> Image:
    """4 (image - local mean) + 128 (B. Graham, Kaggle Diabetic Retinopathy Detection report, 2015).

    The local mean is taken at the target scale and over visible retina only (normalized convolution, Knutsson and
    Westin 1993): blurring across the edge of the disc or of a cut would draw a bright rim.
    """
    window = _graham_window(recipe)
    weight = _weight_of_fixed_outline(recipe) if recipe.has_fixed_outline else window.total_weight(mask)
    mean = window.mean(disc, mask, weight)
    contrast = cv2.addWeighted(disc, GRAHAM_GAIN, mean, -GRAHAM_GAIN, MIDDLE_GRAY, dtype=cv2.CV_8U)
    return np.asarray(contrast, np.uint8)


def _graham_window(recipe: PreprocessRecipe) -> GaussianWindow:
    return GaussianWindow.of(recipe.radius_px * GRAHAM_SIGMA_FRACTION)


@functools.lru_cache(maxsize=4)
def _weight_of_fixed_outline(recipe: PreprocessRecipe) -> NDArray[np.float32]:
    """The total weight of Ben Graham's window at each pixel, kept for the next photograph: not to be changed."""
    return _graham_window(recipe).total_weight(_outline(recipe))


def _natural(disc: FloatImage, mask: NDArray[np.bool_], recipe: PreprocessRecipe) -> Image:
    """The colors of the photograph, unchanged."""
    return rounded(disc)


def _clahe(disc: FloatImage, mask: NDArray[np.bool_], recipe: PreprocessRecipe) -> Image:
    """Contrast-limited adaptive histogram equalization of lightness (Zuiderveld 1994), 8 x 8 tiles, clip limit 2.

    The histogram is of whole levels: here the disc is rounded before.
    """
    lab = cv2.cvtColor(rounded(disc), cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(np.ascontiguousarray(lab[..., 0]))
    return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), np.uint8)
