"""What a network is: the numbers and names from which it is built again. No PyTorch is needed to know them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fundusgrade.networks.heads import UNCALIBRATED, Calibration
from fundusgrade.options import Head

CNN = "cnn"
"""The architecture's name of the small network that is trained from scratch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """Everything needed to build a network again.

    `arch` is the architecture as the user names it, `timm_name` timm's name, None for the small CNN. Images are
    size_px x size_px; of them the network uses rows `rows[0]` to `rows[1]` (exclusive), all if None. `mean` and `std`
    normalize each color channel. `arguments` are passed to timm beside the name: numbers, strings and lists of them.
    """

    arch: str
    timm_name: str | None
    size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rows: tuple[int, int] | None = None
    head: Head = Head.SOFTMAX
    calibration: Calibration = UNCALIBRATED
    arguments: Mapping[str, object] = field(default_factory=dict)

    @property
    def input_px(self) -> tuple[int, int]:
        """Height and width of the network's input, in px."""
        top, bottom = self.rows or (0, self.size_px)
        return bottom - top, self.size_px
