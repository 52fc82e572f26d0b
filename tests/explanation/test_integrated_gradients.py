"""Integrated gradients add up to the difference of two scores where they can."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fundusgrade.explanation.integrated_gradients import (
    RULE,
    PathRule,
    blurred_baseline,
    integrated_gradients,
    square_spaced,
)
from fundusgrade.explanation.target_scores import target_scores
from fundusgrade.explanation.torch_gradients import TorchGradients
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.spec import CNN
from fundusgrade.networks.tensors import to_tensor
from fundusgrade.options import Attribution
from tests.explanation.small_networks import CPU, SEVERE, RedUpperLeft, build, explained, head_of, wrap


def attributions_of(
    network: GradingNetwork, image: NDArray[np.uint8], outline: NDArray[np.bool_], rule: PathRule = RULE
) -> NDArray[np.float32]:
    """Attributions to the score of grade 3, by PyTorch."""
    with TorchGradients.of(network, CPU) as source:
        return integrated_gradients(source, image, outline, SEVERE, rule)


def test_attributions_of_a_linear_network_are_the_mean_over_mirror_images(image: NDArray[np.uint8]) -> None:
    """For a network that is linear in the pixels the gradients are the same all along the path."""
    network, outline = wrap(RedUpperLeft()), np.ones((160, 160), np.bool_)
    attributions = attributions_of(network, image, outline)
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
    attributions = attributions_of(network, symmetric, outline)
    heat = explained(network, symmetric, SEVERE, Attribution.INTEGRATED_GRADIENTS)
    assert [heat.score, heat.baseline_score] == pytest.approx(difference, abs=1e-5)
    assert abs(difference[0] - difference[1]) > 0.05
    assert attributions.sum() == pytest.approx(difference[0] - difference[1], rel=0.02)
    assert heat.gap == pytest.approx(attributions.sum() - (difference[0] - difference[1]), abs=1e-4)


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


@pytest.mark.parametrize("exponent", range(5))
def test_the_quadrature_approaches_the_integral_of_powers_as_the_midpoint_rule_does(exponent: int) -> None:
    def error(num_steps: int) -> float:
        rule = square_spaced(num_steps)
        return float(np.array(rule.weights) @ np.array(rule.points) ** exponent) - 1 / (exponent + 1)

    assert abs(error(8)) < 1.001 * (2 * exponent + 1) / (12 * 8**2), "the bound of the midpoint rule: h^2 / 24 times f'"
    if exponent == 0:
        assert error(8) == pytest.approx(0, abs=1e-12), "weights sum to 1"
    else:
        assert error(8) / error(16) == pytest.approx(4, rel=0.05), "half the step, a quarter of the error"


@pytest.mark.parametrize("num_steps", [8, 16, 128])
def test_points_are_denser_near_the_baseline_and_mirror_images_weigh_the_same(num_steps: int) -> None:
    rule = square_spaced(num_steps)
    steps = np.diff(np.array([0, *rule.points, 1]))
    assert (np.diff(steps[:-1]) > 0).all() and rule.points[0] < 1 / num_steps**2
    weights: dict[tuple[int, ...], float] = {}
    for step, weight in enumerate(rule.weights):
        axes = rule.flipped_axes[step % len(rule.flipped_axes)]
        weights[axes] = weights.get(axes, 0.0) + weight
    assert sorted(weights) == [(), (2,), (2, 3), (3,)]
    assert list(weights.values()) == pytest.approx([0.25] * 4)


class ScoreOf(nn.Module):
    """Votes for grade 3 by a score (B,) of images (B, 3, S, S)."""

    def __init__(self, score: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.score = score

    def forward(self, images: Tensor) -> Tensor:
        score = self.score(images)
        zero = torch.zeros_like(score)
        return torch.stack([zero, zero, zero, score, zero], dim=1)


def gap_of(score: Callable[[Tensor], Tensor], image: NDArray[np.uint8], rule: PathRule) -> tuple[float, float]:
    """The sum of the attributions less the change of the score, and that change."""
    network, outline = wrap(ScoreOf(score)), np.ones((160, 160), np.bool_)
    with torch.no_grad():
        last, first = (
            float(target_scores(SEVERE, network(to_tensor(each)[None]))[0])
            for each in (image, blurred_baseline(image, outline))
        )
    attributions = attributions_of(network, image, outline, rule)
    return float(attributions.sum(dtype=np.float64)) - (last - first), last - first


def equal_steps(num_steps: int) -> PathRule:
    points = (np.arange(num_steps) + 0.5) / num_steps
    return PathRule(points=tuple(points), weights=(1 / num_steps,) * num_steps)


def test_attributions_to_a_polynomial_of_the_pixels_add_up_with_enough_steps(image: NDArray[np.uint8]) -> None:
    def polynomial(pixels: Tensor) -> Tensor:
        return (pixels**4 - pixels**2).mean(dim=(1, 2, 3))

    gap, change = gap_of(polynomial, image, RULE)
    assert abs(change) > 0.05
    assert abs(gap) < 0.1 * abs(change)
    exact, _ = gap_of(polynomial, image, square_spaced(64))
    assert abs(exact) < 0.025 * abs(gap), "eight times as many steps are 64 times as exact"


@pytest.mark.parametrize("flipped_axes", [((),), ((3,),), ((2,), (3,))])
def test_the_mirror_images_of_a_rule_are_those_that_it_names(
    image: NDArray[np.uint8], flipped_axes: tuple[tuple[int, ...], ...]
) -> None:
    """The gradient of a weighted sum of pixels is its weights; that of a mirror image are the mirrored weights."""
    weights = torch.rand((3, 160, 160), generator=torch.Generator().manual_seed(1)) / 160**2
    rule = replace(RULE, flipped_axes=flipped_axes)
    outline = np.ones((160, 160), np.bool_)
    network = wrap(ScoreOf(lambda pixels: (pixels * weights).sum(dim=(1, 2, 3))))
    found = attributions_of(network, image, outline, rule)
    difference = to_tensor(image) - to_tensor(blurred_baseline(image, outline))
    steps = zip(rule.weights, flipped_axes * (8 // len(flipped_axes)), strict=True)
    gradient = torch.stack([weight * weights[None].flip(axes)[0] for weight, axes in steps]).sum(dim=0) / 0.25
    assert found == pytest.approx((difference * gradient).sum(dim=0).numpy(), rel=1e-4, abs=1e-8)


def test_a_score_that_changes_most_near_the_baseline_adds_up_better_than_with_equal_steps() -> None:
    """Nearly half of this score's change is within a tenth of the path; the gap is what the quadrature misses."""
    quarter = np.random.default_rng(7).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    half = np.concatenate([quarter, quarter[:, ::-1]], axis=1)
    image = np.concatenate([half, half[::-1]])
    start, end = (
        (to_tensor(each) - 0.5) / 0.25 for each in (blurred_baseline(image, np.ones((160, 160), np.bool_)), image)
    )
    direction = (end - start) / ((end - start) ** 2).sum()

    def logarithmic(pixels: Tensor) -> Tensor:
        fraction = ((pixels - start) * direction).sum(dim=(1, 2, 3))  # of the path
        return torch.log1p(60 * fraction)

    def missed(rule: PathRule) -> float:
        points, weights = np.array(rule.points), np.array(rule.weights)
        return float(weights @ (60 / (1 + 60 * points)) - np.log(61))

    gap, change = gap_of(logarithmic, image, RULE)
    gap_of_equal_steps, _ = gap_of(logarithmic, image, equal_steps(8))
    assert change == pytest.approx(np.log(61), rel=1e-3)
    assert gap == pytest.approx(missed(RULE), abs=0.01)
    assert gap_of_equal_steps == pytest.approx(missed(equal_steps(8)), abs=0.01)
    assert abs(gap) < 0.15 < 0.5 < abs(gap_of_equal_steps)
