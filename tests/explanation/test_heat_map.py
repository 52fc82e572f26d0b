"""Names of methods, and color scales that do not make weak heat look strong."""

from __future__ import annotations

import numpy as np
import pytest

from fundusgrade.errors import ExplanationError
from fundusgrade.explanation.heat_map import SCALE_FLOOR, HeatScale, parse_method
from fundusgrade.options import Attribution, Layer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", (Attribution.AUTO, Layer.LAST)),
        (" Grad-CAM ", (Attribution.GRAD_CAM, Layer.LAST)),
        ("grad-cam++@fine", (Attribution.GRAD_CAM_PLUS_PLUS, Layer.FINE)),
        ("layercam@all", (Attribution.LAYER_CAM, Layer.ALL)),
        ("attention-rollout", (Attribution.ATTENTION_ROLLOUT, Layer.LAST)),
    ],
)
def test_methods_are_named_with_their_layer(text: str, expected: tuple[Attribution, Layer]) -> None:
    assert parse_method(text) == expected


@pytest.mark.parametrize(
    "text", ["", "gradcam", "grad-cam@first", "integrated-gradients@fine", "attention-rollout@all", "eigen-cam"]
)
def test_an_unknown_method_lists_what_exists(text: str) -> None:
    with pytest.raises(ExplanationError, match=r"integrated-gradients, grad-cam|only the CAM family has layers"):
        parse_method(text)


@pytest.mark.parametrize(
    ("peaks", "expected"), [([], SCALE_FLOOR), ([0.0], SCALE_FLOOR), ([0.3, 1.2], SCALE_FLOOR), ([0.3, 9.5], 9.5)]
)
def test_the_scale_is_common_and_has_a_floor(peaks: list[float], expected: float) -> None:
    heats = [np.full((4, 5), peak, np.float32) for peak in peaks]
    assert HeatScale(unit="logits").end(heats) == pytest.approx(expected)


def test_a_scale_with_a_ceiling_is_the_same_for_every_photograph() -> None:
    scale = HeatScale(unit="logits", ceiling=0.5)
    assert scale.end([]) == 0.5
    assert scale.end([np.full((4, 5), 100.0, np.float32)]) == 0.5
