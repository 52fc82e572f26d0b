"""Heat maps: their values, unit and color scale, and the options of an explanation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.errors import ExplanationError
from fundusgrade.explanation.heat_scale import HeatScale
from fundusgrade.explanation.targets import AUTO, Target
from fundusgrade.options import Attribution, Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainOptions:
    """The score to explain and the method; `layer` is used by the CAM family only."""

    target: Target = AUTO
    method: Attribution = Attribution.AUTO
    layer: Layer = Layer.LAST

    def describe(self) -> str:
        """The method as users name it, such as "layercam@fine"."""
        return self.method.value + ("" if self.layer is Layer.LAST else f"@{self.layer.value}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeatMap:
    """An explanation: `values` (S, S) float32 >= 0 on the preprocessed image, in the unit of its scale.

    `cells` (h, w) are the signed values at the resolution of the method. `target` is resolved, neither `AUTO` nor
    `PREDICTED`, and `method` never `AUTO`. `score` is the network's score of the target, in the target's unit;
    `baseline_score` that of the blurred baseline of integrated gradients, None for other methods. Heat shows only what
    raises the score; the two scores show by how much all pixels together change it. `gap` is the sum of the
    attributions less that change, in the target's unit: 0 for exact integrated gradients, None for other methods.
    """

    values: NDArray[np.float32]
    cells: NDArray[np.float32]
    target: Target
    score: float
    method: Attribution
    scale: HeatScale
    baseline_score: float | None = None
    gap: float | None = None


def parse_method(text: str) -> tuple[Attribution, Layer]:
    """Read the name of a method, or its beginning where no other begins so, as "integrated"; one of the CAM family may
    end in "@last", "@middle", "@fine" or "@all".

    Raises ExplanationError for anything else.
    """
    name, _, layer = text.strip().casefold().partition("@")
    names, layers = [each.value for each in Attribution], [each.value for each in Layer]
    begun = [each for each in names if name and each.startswith(name)]
    name = begun[0] if len(begun) == 1 else name
    if name not in names or (layer or "last") not in layers:
        raise ExplanationError(
            f"unknown attribution method {text!r}; use {', '.join(names)}; methods of the CAM family may end in "
            f"{', '.join(f'@{each}' for each in layers)}, such as grad-cam@middle"
        )
    if layer not in ("", "last") and not name.endswith(("cam", "cam++")):
        raise ExplanationError(f"unknown attribution method {text!r}: only the CAM family has layers; use {name}")
    return Attribution(name), Layer(layer or "last")


def resize_map(cells: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    """A map (h, w) interpolated bilinearly to this shape (height, width)."""
    height, width = shape
    return np.asarray(cv2.resize(cells, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
