"""Integrated gradients add up to the difference of two scores where they can."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fundusgrade.explanation.integrated_gradients import (
    RULE,
    PathRule,
    blurred_baseline,
    gauss_legendre,
    integrated_gradients,
)
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


@pytest.mark.parametrize("num_steps", [1, 3, 8, 16])
@pytest.mark.parametrize("power", [1, 2, 3])
def test_the_quadrature_is_exact_for_polynomials_up_to_its_degree_and_for_none_of_the_next(
    num_steps: int, power: int
) -> None:
    rule = gauss_legendre(num_steps, power=power)
    points, weights = np.array(rule.points), np.array(rule.weights)
    assert len(points) == num_steps and (np.diff(points) > 0).all() and points[0] > 0 and points[-1] < 1
    assert (weights > 0).all()
    degree = (2 * num_steps - power) // power
    for exponent in range(degree + 1):
        assert weights @ points**exponent == pytest.approx(1 / (exponent + 1), rel=1e-12)
    if degree + 1 <= 8:  # for higher ones the error is below rounding
        assert weights @ points ** (degree + 1) != pytest.approx(1 / (degree + 2), rel=1e-12)


class MeanOf(nn.Module):
    """Votes for grade 3 by the mean over pixels of a function of their brightness; the same for mirror images."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        vote = self.function(images).mean(dim=(1, 2, 3))
        zero = torch.zeros_like(vote)
        return torch.stack([zero, zero, zero, vote, zero], dim=1)


def gap_of(function: Callable[[Tensor], Tensor], image: NDArray[np.uint8], rule: PathRule) -> tuple[float, float]:
    """The sum of the attributions less the change of the score, and that change."""
    network, outline = wrap(MeanOf(function)), np.ones((160, 160), np.bool_)
    with torch.no_grad():
        score, baseline_score = (
            float(target_scores(SEVERE, network(to_tensor(each)[None]))[0])
            for each in (image, blurred_baseline(image, outline))
        )
    attributions = integrated_gradients(network, image, outline, SEVERE, CPU, rule)
    return float(attributions.sum(dtype=np.float64)) - (score - baseline_score), score - baseline_score


def equal_steps(num_steps: int) -> PathRule:
    points = (np.arange(num_steps) + 0.5) / num_steps
    return PathRule(points=tuple(points), weights=(1 / num_steps,) * num_steps)


def test_attributions_to_a_polynomial_of_the_pixels_add_up_exactly(image: NDArray[np.uint8]) -> None:
    def polynomial(pixels: Tensor) -> Tensor:
        return pixels**7 - 2 * pixels**4

    gap, change = gap_of(polynomial, image, RULE)
    assert abs(change) > 0.05
    assert gap == pytest.approx(0, abs=1e-5 * abs(change) + 1e-6)
    missed, _ = gap_of(polynomial, image, equal_steps(len(RULE.points)))
    assert abs(missed) > 1e-3 * abs(change), "equal steps are not exact"


def test_a_score_that_changes_most_near_the_baseline_adds_up_better_than_with_equal_steps() -> None:
    """As scores of deep networks do: here most of the change is within a fifth of the path."""
    image = np.full((160, 160, 3), 100, np.uint8)
    image[::2, ::2] = 250
    level = (float(to_tensor(blurred_baseline(image, np.ones((160, 160), np.bool_)))[0, 80, 80]) - 0.5) / 0.25

    def saturating(pixels: Tensor) -> Tensor:
        return torch.tanh(3 * (pixels - level).clamp(min=0))

    gap, change = gap_of(saturating, image, RULE)
    missed, _ = gap_of(saturating, image, equal_steps(len(RULE.points)))
    assert abs(change) > 0.1
    assert abs(gap) < 0.2 * abs(missed)
