"""The preprocessing recipe: everything that decides the preprocessed image, described and hashed."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

RECIPE_VERSION = 3
MIN_SIZE_PX = 32
MAX_SIZE_PX = 2048
# At 224 px three of five photographs of APTOS 2019 (224 x 224, squashed) are shrunk vertically, at 272 px none.
DEFAULT_SIZE_PX = 288

GRAHAM_VISIBLE_FRACTION = 0.9

MIDDLE_GRAY = 128
# Half the height of the band, as a fraction of the radius. 3,556 of 3,661 photographs of APTOS 2019 show all of it.
BAND_FRACTION = 0.70


class Method(StrEnum):
    """How the colors of the canonical disc are treated."""

    BEN_GRAHAM = "ben-graham"
    NATURAL = "natural"
    CLAHE = "clahe"


class Outline(StrEnum):
    """Which part of the disc is shown: the band that nearly all cameras show, the disc as far as the photograph shows
    it, or the whole disc, in which what a cut removed is filled in by reflection."""

    BAND = "band"
    DISC = "disc"
    MIRRORED_DISC = "mirrored-disc"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessRecipe:
    """Everything that decides the pixels of a preprocessed image; it is stored in the checkpoint."""

    method: Method = Method.BEN_GRAHAM
    """How colors are treated."""
    outline: Outline = Outline.BAND
    """Which part of the disc is shown."""
    size_px: int = DEFAULT_SIZE_PX
    """Width and height of the preprocessed image."""
    version: int = RECIPE_VERSION
    """Changes whenever the same fields would give other pixels."""

    def __post_init__(self) -> None:
        if not isinstance(self.size_px, int) or not MIN_SIZE_PX <= self.size_px <= MAX_SIZE_PX:
            raise ValueError(f"size_px is {self.size_px}; expected {MIN_SIZE_PX} to {MAX_SIZE_PX}")

    @classmethod
    def from_json(cls, described: dict[str, Any]) -> PreprocessRecipe:
        """A recipe from the output of `dataclasses.asdict`. Raises KeyError, TypeError or ValueError for others."""
        method, outline = Method(described["method"]), Outline(described["outline"])
        return cls(**{**described, "method": method, "outline": outline})

    def describe(self) -> str:
        """The recipe as a short phrase."""
        return f"{self.method.value}, {self.outline.value} at {self.size_px} px (version {self.version})"

    @property
    def has_fixed_outline(self) -> bool:
        """Whether the outline is the same for all photographs, with cut parts filled in by reflection."""
        return self.outline is not Outline.DISC

    @property
    def key(self) -> str:
        """Short hash: two recipes with the same key give the same pixels."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def radius_px(self) -> float:
        """Radius of the whole field of view on the preprocessed image, beyond whose edges it may reach."""
        visible = GRAHAM_VISIBLE_FRACTION if self.method is Method.BEN_GRAHAM else 1.0
        return self.size_px / 2 / visible

    @property
    def band_rows(self) -> tuple[int, int]:
        """First row, and the one after the last, that can show retina; all rows for a whole disc."""
        if self.outline is not Outline.BAND:
            return 0, self.size_px
        half = min(self.size_px // 2, math.ceil(BAND_FRACTION * self.radius_px))
        return self.size_px // 2 - half, self.size_px // 2 + half

    @property
    def fill(self) -> int:
        """Gray value of everything that is not retina."""
        return MIDDLE_GRAY if self.method is Method.BEN_GRAHAM else 0
