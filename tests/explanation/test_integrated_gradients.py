"""Integrated gradients add up to the difference of two scores where they can."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from fundusgrade.explanation.integrated_gradients import blurred_baseline, integrated_gradients
from fundusgrade.explanation.targets import target_scores
from fundusgrade.networks.network import CNN
from fundusgrade.networks.tensors import to_tensor
from fundusgrade.options import Attribution
from tests.explanation.small_networks import CPU, SEVERE, RedUpperLeft, build, explained, head_of, wrap


def test_attributions_of_a_linear_network_are_the_mean_over_mirror_images(image: NDArray[np.uint8]) -> None:
    """For a network that is linear in the pixels the gradients are the same all along the path."""
    network, outline = wrap(RedUpperLeft()), np.ones((160, 160), np.bool_)
    attributions = integrated_gradients(network, image, outline, SEVERE, CPU)
    with torch.no_grad():
        scores = [
            float(target_scores(SEVERE, network(to_tensor(each)[None]))[0])
            for each in (image, blurred_baseline(image, outline))
        ]
    # The network sees one quadrant of each of the four mirror images: a quarter of the attribution is in each.
    everywhere = (image[..., 0].astype(float) - blurred_baseline(image, outline)[..., 0]).mean() / 255 / 0.25
    assert attributions.sum() == pytest.approx(everywhere, abs=1e-3)
    assert abs(scores[0] - scores[1]) < 1


def test_attributions_add_up_to_the_difference_of_the_scores() -> None:
    network, outline = build(CNN), np.ones((160, 160), np.bool_)
    generator = np.random.default_rng(3)
    quarter = generator.integers(60, 200, (80, 80, 3), dtype=np.uint8)
    half = np.concatenate([quarter, quarter[:, ::-1]], axis=1)
    symmetric = np.concatenate([half, half[::-1]])
    nn.init.normal_(head_of(network).weight)
    with torch.no_grad():
        difference = [
            float(target_scores(SEVERE, network(to_tensor(each)[None]))[0])
            for each in (symmetric, blurred_baseline(symmetric, outline))
        ]
    attributions = integrated_gradients(network, symmetric, outline, SEVERE, CPU)
    heat = explained(network, symmetric, SEVERE, Attribution.INTEGRATED_GRADIENTS)
    assert [heat.score, heat.baseline_score] == pytest.approx(difference, abs=1e-5)
    assert abs(difference[0] - difference[1]) > 0.05
    assert attributions.sum() == pytest.approx(difference[0] - difference[1], rel=0.1)


def test_pixels_equal_to_their_surroundings_have_no_attribution() -> None:
    image = np.full((160, 160, 3), 120, np.uint8)
    image[100:104, 40:44] = 220
    heat = explained(build("test_resnet"), image, method=Attribution.INTEGRATED_GRADIENTS)
    assert heat.cells[:60, 90:] == pytest.approx(0, abs=1e-6)
    assert np.abs(heat.cells[95:110, 35:50]).max() > 0


def test_the_baseline_is_blurred_within_the_outline_only() -> None:
    generator = np.random.default_rng(4)
    image = generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    outline = np.zeros((64, 64), np.bool_)
    outline[16:48] = True
    baseline = blurred_baseline(image, outline)
    assert np.array_equal(baseline[~outline], image[~outline])
    assert baseline[outline].std() < 0.3 * image[outline].std()
    changed = image.copy()
    changed[:16] = 0
    assert np.array_equal(blurred_baseline(changed, outline)[outline], baseline[outline])
