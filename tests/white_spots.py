"""A retina with one white spot, and a model whose score for severe disease depends on such spots only."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch

from fundusgrade.grading.grader import Grader
from fundusgrade.networks.checkpoint import Checkpoint, load_checkpoint
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.torch_runtime import on_pytorch
from fundusgrade.options import Precision
from fundusgrade.photographs.recipe import Method, PreprocessRecipe
from tests.drawn_eyes import DrawnEye, LesionMasks, plain_retina
from tests.models_for_tests import install_model

CPU = DeviceChoice(device=torch.device("cpu"), precision=Precision.FLOAT32, reason="exact")
SIZE_PX = 420
"""Side of the photograph with one white spot."""


@functools.cache
def white_spot_grader() -> Grader:
    """The model, at 224 px."""
    checkpoint = load_checkpoint(install_model("spots"))
    _detect_white_spots(checkpoint.network)
    spec = replace(checkpoint.network.spec, size_px=224)
    recipe = PreprocessRecipe(method=Method.NATURAL, size_px=224)
    spots = Checkpoint(
        description=replace(checkpoint.description, network=spec, recipe=recipe),
        network=GradingNetwork(spec, checkpoint.network.backbone),
        fingerprints=checkpoint.fingerprints,
    )
    return Grader(on_pytorch(spots, CPU))


def _detect_white_spots(network: GradingNetwork) -> None:
    """Set the weights of the small CNN so that its score is high where blue is brighter than in any retina."""
    backbone: Any = network.backbone
    with torch.no_grad():
        for module in backbone.features:
            if isinstance(module, torch.nn.Conv2d):
                module.weight.zero_()
                # The first layer takes blue, which is dark in a retina; the others pass the first channel on.
                module.weight[0, 2 if module.in_channels == 3 else 0, 2, 2] = 1.0
            elif isinstance(module, torch.nn.BatchNorm2d):
                module.reset_running_stats()
        backbone.features[1].bias[0] = -0.8
        backbone.classifier.weight.zero_()
        backbone.classifier.bias.zero_()
        backbone.classifier.weight[3, 0] = 50.0


def eye_with_white_spot(x: float, y: float) -> DrawnEye:
    """A retina with one white spot, whose mask is that of exudates, at this place in radii from the disc's center."""
    eye = _retina()
    radius = eye.disc.radius_x
    spot = np.zeros((SIZE_PX, SIZE_PX), np.uint8)
    center = (round(eye.disc.center_x + x * radius), round(eye.disc.center_y + y * radius))
    cv2.circle(spot, center, round(0.05 * radius), 1, -1)
    photograph = eye.photograph.copy()
    photograph[spot > 0] = 250
    none = np.zeros((SIZE_PX, SIZE_PX), np.bool_)
    masks = LesionMasks(microaneurysms=none, haemorrhages=none, exudates=spot > 0)
    return replace(eye, photograph=photograph, masks=masks)


@functools.cache
def _retina() -> DrawnEye:
    return plain_retina(SIZE_PX, seed=1)
