"""Deletion, insertion and ROAD on a network that depends on known pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fundusgrade.evaluation.perturbation import (
    FRACTIONS,
    PerturbationInput,
    measure_curves,
    measure_road,
    target_probabilities,
)
from fundusgrade.explanation.integrated_gradients import blurred_baseline
from fundusgrade.explanation.targets import EXPECTED, REFERABLE, Target, parse_target
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.spec import CNN, NetworkSpec
from fundusgrade.networks.tensors import to_tensor
from fundusgrade.options import Precision

CPU = DeviceChoice(device=torch.device("cpu"), precision=Precision.FLOAT32, reason="exact")
OUTLINE = np.ones((64, 64), np.bool_)
LESION = (slice(20, 28), slice(30, 38))
SEVERE = parse_target("severe")


class DarkSpots(nn.Module):
    """The logit of severe disease is proportional to the number of pixels with a dark green channel."""

    def forward(self, images: Tensor) -> Tensor:
        dark = (images[:, 1] < -1.2).float().sum(dim=(1, 2))
        logits = torch.zeros(len(images), 5)
        logits[:, 3] = dark / 4 - 8
        return logits


@pytest.fixture
def network() -> GradingNetwork:
    spec = NetworkSpec(arch=CNN, timm_name=None, size_px=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    return GradingNetwork(spec, DarkSpots()).eval()


@pytest.fixture
def image() -> NDArray[np.uint8]:
    image = np.full((64, 64, 3), 140, np.uint8)
    image[LESION] = 20
    return image


def map_test(network: GradingNetwork, image: NDArray[np.uint8], heat: NDArray[np.float32]) -> PerturbationInput:
    return PerturbationInput(network=network, image=image, outline=OUTLINE, heat=heat, target=SEVERE, choice=CPU)


def heat_on_lesion() -> NDArray[np.float32]:
    heat = np.zeros((64, 64), np.float32)
    heat[LESION] = 1
    return heat


def test_the_pixels_that_matter_are_deleted_first_and_inserted_first(
    network: GradingNetwork, image: NDArray[np.uint8]
) -> None:
    lesion_fraction = 64 / 64**2
    found = measure_curves(map_test(network, image, heat_on_lesion()))
    wrong = measure_curves(map_test(network, image, 1 - heat_on_lesion()))
    baseline = to_tensor(blurred_baseline(image, OUTLINE))[None]
    assert found.deletion[0] == found.insertion[-1] > 0.99
    assert found.deletion[-1] == found.insertion[0] == target_probabilities(network, baseline, SEVERE, CPU)[0]
    assert all(
        (value < 0.01) == (fraction >= lesion_fraction)
        for fraction, value in zip(FRACTIONS, found.deletion, strict=True)
    )
    assert all(
        (value > 0.99) == (fraction >= lesion_fraction)
        for fraction, value in zip(FRACTIONS, found.insertion, strict=True)
    )
    assert found.deletion_area < 0.02 < 0.98 < found.insertion_area
    # In the wrong order everything but the lesion goes first: the probability stays high nearly to the end.
    assert wrong.deletion_area > 0.85 and wrong.insertion_area < 0.15


def test_a_map_without_heat_equals_a_random_map(network: GradingNetwork, image: NDArray[np.uint8]) -> None:
    none = measure_curves(map_test(network, image, np.zeros((64, 64), np.float32)))
    chance = np.random.default_rng(3).random((64, 64)).astype(np.float32)
    random = measure_curves(map_test(network, image, chance))
    assert none.deletion_area == pytest.approx(random.deletion_area, abs=0.12)


def test_road_distinguishes_the_true_map_from_its_opposite(network: GradingNetwork, image: NDArray[np.uint8]) -> None:
    true = measure_road(map_test(network, image, heat_on_lesion()))
    opposite = measure_road(map_test(network, image, 1 - heat_on_lesion()))
    assert true > 0.3
    assert opposite == pytest.approx(-true, abs=0.15)


@pytest.mark.parametrize(("target", "expected"), [(SEVERE, 0.5), (REFERABLE, 0.75), (EXPECTED, 0.625)])
def test_probabilities_of_targets(target: Target, expected: float) -> None:
    class Fixed(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([[0.125, 0.125, 0.125, 0.5, 0.125]]).log().expand(len(images), 5)

    spec = NetworkSpec(arch=CNN, timm_name=None, size_px=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    fixed = GradingNetwork(spec, Fixed())
    mean_grade = (0.125 * (1 + 2 + 4) + 0.5 * 3) / 4
    found = target_probabilities(fixed, torch.zeros(2, 3, 64, 64), target, CPU)
    assert found == pytest.approx([mean_grade if target == EXPECTED else expected] * 2)
