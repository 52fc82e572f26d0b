"""A photograph loaded to be graded, or the reason why it cannot be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fundusgrade.errors import NoRetinaError, UngradableError
from fundusgrade.grading.doubts import NOT_A_FUNDUS
from fundusgrade.photographs.inputs import PhotographInMemory
from fundusgrade.photographs.loading import LoadedPhotograph, load_photograph, load_pixels
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.recipe import PreprocessRecipe
from fundusgrade.photographs.sources import PhotographSource


@dataclass(frozen=True, slots=True, kw_only=True)
class GradingFailure:
    """The reason why a photograph cannot be graded, with its quality reasons, eye and camera if they are known."""

    reason: str
    quality_reasons: tuple[str, ...] = ()
    laterality: str = ""
    camera: str = ""
    warnings: tuple[str, ...] = ()


def load_or_fail(
    photograph: PhotographSource | PhotographInMemory | Image,
    recipe: PreprocessRecipe,
    on_loaded: Callable[[LoadedPhotograph], None] | None = None,
) -> LoadedPhotograph | GradingFailure:
    """Load a photograph, and give it to `on_loaded`; what `load_photograph` raises is returned as a failure."""
    try:
        if isinstance(photograph, np.ndarray):
            loaded = load_pixels(photograph, recipe)
        else:
            loaded = load_photograph(photograph, recipe)
    except UngradableError as error:
        return GradingFailure(reason=str(error), warnings=(NOT_A_FUNDUS,) if isinstance(error, NoRetinaError) else ())
    if on_loaded is not None:
        on_loaded(loaded)
    return loaded
