"""File -> preprocessed image and quality: the one way in, for training, prediction and explanation."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from fundusgrade.errors import UngradableError, UnreadableImageError
from fundusgrade.photographs.artifacts import HAZY_PART, NO_BLUE, Artifacts, lacks_blue, measure_artifacts
from fundusgrade.photographs.field_of_view import WORKING_SIZE_PX, find_field_of_view
from fundusgrade.photographs.images import read_photograph, reduced
from fundusgrade.photographs.inputs import Photograph, PhotographInMemory, as_source
from fundusgrade.photographs.pixels import NO_MEMORY, FloatImage, Image, rounded
from fundusgrade.photographs.preprocess import PreprocessedImage, preprocess_by_recipes
from fundusgrade.photographs.quality import MEASURING_RECIPE, OUT_OF_FOCUS, Disc, Quality, measure_disc
from fundusgrade.photographs.recipe import PreprocessRecipe
from fundusgrade.text import error_text

# The preprocessed image shows nine tenths of the disc's diameter, and the disc is rarely smaller than the photograph's
# shorter side: with this margin, decoding at a reduced size loses no detail. The field of view and the quality need as
# many pixels for small preprocessed images too.
DECODING_MARGIN = 1.25
MIN_DECODED_PX = WORKING_SIZE_PX
# A disc whose radius is smaller than this fraction of that in the preprocessed image is decoded again, less reduced.
_SMALL_DISC = 0.8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedPhotograph:
    """A photograph (H, W, 3), reduced as far as its preprocessed image allows, with that image, quality and artifacts.

    It is uint8 as decoded, or float32 from 0 to 255 where it was reduced; `height_px` and `width_px` are those before.
    The eye ("R", "L", "B" for both) and the camera are those that a DICOM file states, else "".
    """

    photograph: Image | FloatImage
    preprocessed: PreprocessedImage
    quality: Quality
    artifacts: Artifacts
    height_px: int
    width_px: int
    laterality: str = ""
    camera: str = ""
    lacks_blue: bool = False

    @property
    def quality_reasons(self) -> tuple[str, ...]:
        """Why the photograph is of doubtful quality, as measured; empty if it is not."""
        of_all = self.quality.reasons
        of_parts = [reason for reason in self.artifacts.reasons if not (OUT_OF_FOCUS in of_all and reason == HAZY_PART)]
        return (*of_all, *of_parts, *([NO_BLUE] if self.lacks_blue else []))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenedPhotograph:
    """A photograph (H, W, 3) to draw on, its name, and the same photograph as it is graded."""

    name: str
    photograph: Image
    loaded: LoadedPhotograph


def open_photograph(
    photograph: Photograph, recipe: PreprocessRecipe, *, at_least_px: int | None = None
) -> OpenedPhotograph:
    """Read a photograph to grade it and to draw on it, at its full size or at one that keeps this many pixels a side.

    Raises UnreadableImageError or NoRetinaError, naming the file, where it cannot be graded; what is no photograph at
    all raises as `as_source`.
    """
    source = as_source(photograph)
    try:
        # To grade it, it is decoded once more, at a reduced size where that is faster, exactly as in grading alone.
        image, loaded = read_photograph(source, at_least_px=at_least_px).image, load_photograph(source, recipe)
    except UngradableError as error:
        raise type(error)(f"{source.name}: {error}") from error
    return OpenedPhotograph(name=source.name, photograph=image, loaded=loaded)


def load_photograph(photograph: Photograph | PhotographInMemory, recipe: PreprocessRecipe) -> LoadedPhotograph:
    """Read a photograph, at a reduced size where that is faster, and preprocess it.

    Raises UnreadableImageError where it cannot be decoded, NoRetinaError where it shows no retina, SeveralFieldsError
    where it shows several fields.
    """
    _keep_freed_memory()
    try:
        num_pixels = num_pixels_needed(recipe)
        decoded = read_photograph(photograph, at_least_px=num_pixels)
        loaded = _load_reduced(decoded.image, recipe, num_pixels)
        finer = _num_pixels_for_small_disc(loaded, recipe, num_pixels)
        if finer > num_pixels and min(loaded.photograph.shape[:2]) < min(decoded.height_px, decoded.width_px):
            decoded = read_photograph(photograph, at_least_px=finer)
            loaded = _load_reduced(decoded.image, recipe, finer)
        return replace(
            loaded,
            height_px=decoded.height_px,
            width_px=decoded.width_px,
            laterality=decoded.laterality,
            camera=decoded.camera,
        )
    except MemoryError as error:
        raise UnreadableImageError(NO_MEMORY) from error
    except (cv2.error, np.linalg.LinAlgError) as error:  # none is known to occur, but it must not end a run
        has_no_memory = isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem
        reason = NO_MEMORY if has_no_memory else f"it cannot be processed: {error_text(error)}; save it again as a JPEG"
        raise UnreadableImageError(reason) from error


def load_pixels(photograph: Image, recipe: PreprocessRecipe) -> LoadedPhotograph:
    """Preprocess a photograph (H, W, 3) in memory, reduced first where it is much larger than needed.

    Raises NoRetinaError where it shows no retina, SeveralFieldsError where it shows several fields.
    """
    num_pixels = num_pixels_needed(recipe)
    loaded = _load_reduced(photograph, recipe, num_pixels)
    finer = _num_pixels_for_small_disc(loaded, recipe, num_pixels)
    is_reduced = loaded.photograph.shape != photograph.shape
    return _load_reduced(photograph, recipe, finer) if finer > num_pixels and is_reduced else loaded


@functools.cache
def _keep_freed_memory() -> None:
    """Let the C library keep the memory of a photograph for the next one; once for a process.

    By default glibc returns large blocks to the system, which maps thousands of pages anew for each photograph: up to a
    quarter of the time. Freeing a block raises its limits, for all threads, to the block's size, at most 32 MiB
    (M_MMAP_THRESHOLD in mallopt(3)). No page of the block is touched. Other C libraries take no notice.
    """
    np.empty(31 << 20, np.uint8)


def _load_reduced(photograph: Image, recipe: PreprocessRecipe, num_pixels: int) -> LoadedPhotograph:
    """As `load_pixels`; its shorter side keeps at least `num_pixels`."""
    height, width = photograph.shape[:2]
    factor = min(height, width) // num_pixels
    values: Image | FloatImage = photograph
    if factor >= 2:
        values = reduced(photograph, 1 << (factor.bit_length() - 1))
        photograph = rounded(values)
    field_of_view = find_field_of_view(photograph)
    measured, preprocessed = preprocess_by_recipes(values, field_of_view, [MEASURING_RECIPE, recipe])
    disc = Disc.of(measured)
    return LoadedPhotograph(
        photograph=values,
        preprocessed=preprocessed,
        quality=measure_disc(disc),
        artifacts=measure_artifacts(photograph, disc),
        lacks_blue=lacks_blue(disc),
        height_px=height,
        width_px=width,
    )


def _num_pixels_for_small_disc(loaded: LoadedPhotograph, recipe: PreprocessRecipe, num_pixels: int) -> int:
    """How many pixels the shorter side needs where the disc is so small that reducing it lost detail; else 0."""
    field_of_view = loaded.preprocessed.field_of_view
    radius_px = min(field_of_view.radius_x, field_of_view.radius_y)
    return 0 if radius_px >= _SMALL_DISC * recipe.radius_px else math.ceil(num_pixels * recipe.radius_px / radius_px)


def num_pixels_needed(recipe: PreprocessRecipe) -> int:
    """How many pixels the shorter side of a photograph keeps when it is decoded for this recipe."""
    return max(MIN_DECODED_PX, math.ceil(DECODING_MARGIN * recipe.size_px))
