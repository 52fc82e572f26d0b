"""The heat map: its values, its unit and scale, and the options that it was made with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fundusgrade.errors import ExplanationError
from fundusgrade.explanation.targets import PREDICTED, Target
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.inference import to_memory_format
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.tensors import to_tensor
from fundusgrade.options import Attribution, Layer
from fundusgrade.photographs.pixels import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainOptions:
    """What is explained and how; `layer` matters to the CAM family only.

    With `tiles` n > 1 the picture is made n times as large and seen in parts of the usual size.
    """

    target: Target = PREDICTED
    method: Attribution = Attribution.AUTO
    layer: Layer = Layer.LAST
    tiles: int = 1

    def describe(self) -> str:
        """The method in words, as it stands in tables and above columns."""
        layer = "" if self.layer is Layer.LAST else f"@{self.layer.value}"
        return f"{self.method.value}{layer}" + (f", {self.tiles} x {self.tiles} tiles" if self.tiles > 1 else "")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeatMap:
    """An explanation: `values` (S, S) float32 >= 0 on the preprocessed image, in the unit of its scale.

    `cells` (h, w) is what the method found before negative values were cut off and it was enlarged. The target is never
    `PREDICTED`, the method never `AUTO`. `blank_score` is that of the picture without its details, from which
    `integrated` starts: heat alone shows what speaks for the target, the two scores show what came of it.
    """

    values: NDArray[np.float32]
    cells: NDArray[np.float32]
    target: Target
    score: float
    method: Attribution
    scale: HeatScale
    baseline_score: float | None = None


def parse_method(text: str) -> tuple[Attribution, Layer]:
    """Read a method's name, with "@last", "@middle", "@fine" or "@all" behind it for a method of the CAM family.

    Raises ExplanationError for anything else.
    """
    name, _, layer = text.strip().casefold().partition("@")
    names, layers = [each.value for each in Attribution], [each.value for each in Layer]
    if name not in names or (layer or "last") not in layers:
        raise ExplanationError(
            f"cannot explain by {text!r}: no such method; use {', '.join(names)}, those of the CAM family with "
            f"{', '.join(f'@{each}' for each in layers)} behind them, such as grad-cam@middle"
        )
    if layer not in ("", "last") and not name.endswith(("cam", "cam++")):
        raise ExplanationError(f"cannot explain by {text!r}: only methods of the CAM family read a layer; use {name}")
    return Attribution(name), Layer(layer or "last")


def merge_tiles(whole: HeatMap, values: NDArray[np.float32], num_tiles: int) -> HeatMap:
    """The heat map of a picture that was seen in parts, num_tiles in each direction: the whole one's score and scale.

    A thousandth of a part is a smaller share of the whole picture.
    """
    if whole.method is Attribution.INTEGRATED:
        values = values * num_tiles**2
    return replace(whole, values=values, cells=values)


def image_batch(network: GradingNetwork, image: Image, choice: DeviceChoice) -> Tensor:
    return to_memory_format(network, to_tensor(image)[None].to(choice.device))


def resize_map(cells: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    if cells.shape == tuple(shape):
        return cells
    enlarged = nn.functional.interpolate(
        torch.from_numpy(cells)[None, None], size=tuple(shape), mode="bilinear", align_corners=False
    )
    return np.asarray(enlarged[0, 0].numpy(), np.float32)


SCALE_FLOOR = 4.0
"""Smallest heat, in logits, that is drawn at full strength: weaker evidence never looks strong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatScale:
    """What heat is measured in, and where the scale ends.

    It ends at the strongest heat, not below `floor`; or always at `ceiling`, where all heat above looks alike.
    """

    unit: str
    floor: float = SCALE_FLOOR
    ceiling: float | None = None

    def end(self, heats: Iterable[NDArray[np.float32]]) -> float:
        """The upper end of the scale that these heat maps share."""
        if self.ceiling is not None:
            return self.ceiling
        return max([self.floor, *(float(heat.max()) for heat in heats)])
