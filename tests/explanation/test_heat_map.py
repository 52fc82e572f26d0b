"""Names of methods."""

from __future__ import annotations

import pytest

from fundusgrade.errors import ExplanationError
from fundusgrade.explanation.heat_map import parse_method
from fundusgrade.options import Attribution, Layer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", (Attribution.AUTO, Layer.LAST)),
        (" Grad-CAM ", (Attribution.GRAD_CAM, Layer.LAST)),
        ("grad-cam++@fine", (Attribution.GRAD_CAM_PLUS_PLUS, Layer.FINE)),
        ("layercam@all", (Attribution.LAYER_CAM, Layer.ALL)),
        ("attention-rollout", (Attribution.ATTENTION_ROLLOUT, Layer.LAST)),
        ("integrated", (Attribution.INTEGRATED_GRADIENTS, Layer.LAST)),
        ("layer@fine", (Attribution.LAYER_CAM, Layer.FINE)),
    ],
)
def test_methods_are_named_with_their_layer(text: str, expected: tuple[Attribution, Layer]) -> None:
    assert parse_method(text) == expected


@pytest.mark.parametrize(
    "text", ["", "grad", "gradcam", "grad-cam@first", "integrated-gradients@fine", "attention-rollout@all", "eigen-cam"]
)
def test_an_unknown_method_lists_what_exists(text: str) -> None:
    with pytest.raises(ExplanationError, match=r"integrated-gradients, grad-cam|only the CAM family has layers"):
        parse_method(text)
