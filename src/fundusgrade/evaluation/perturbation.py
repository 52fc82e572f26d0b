"""Perturbation tests of heat maps: pixels are removed or added in the order of their heat.

Deletion replaces the hottest pixels first by those of the blurred baseline; insertion starts from the blurred baseline
and adds the hottest pixels first (Petsiuk et al., BMVC 2018). Integrated gradients use the same baseline, which may
favor them. ROAD (Rong et al., ICML 2022, as pytorch-grad-cam implements it) imputes removed pixels from their
neighbors, most and least relevant first, and has no such bias.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fundusgrade.explanation.integrated_gradients import blurred_baseline
from fundusgrade.explanation.target_scores import target_probability
from fundusgrade.explanation.targets import Target
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.inference import to_memory_format
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.tensors import to_tensor
from fundusgrade.photographs.pixels import Image

FRACTIONS = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
"""Fractions of the retina that are removed or added."""

ROAD_FRACTIONS = (0.05, 0.2, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PerturbationInput:
    """Input of a perturbation test: heat (S, S) of an image (S, S, 3) within the outline (S, S), and its network.

    The target must be resolved: `PREDICTED` is not.
    """

    network: GradingNetwork
    image: Image
    outline: NDArray[np.bool_]
    heat: NDArray[np.float32]
    target: Target
    choice: DeviceChoice


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """The target's probability at `FRACTIONS`, and the areas under both curves, in [0, 1].

    A faithful map has a low deletion area and a high insertion area. The probability is that of `target_probability`.
    """

    deletion: tuple[float, ...]
    insertion: tuple[float, ...]
    deletion_area: float
    insertion_area: float


def measure_curves(test: PerturbationInput) -> Curves:
    """Deletion and insertion in the order of heat."""
    outline = test.outline
    original, baseline = to_tensor(test.image), to_tensor(blurred_baseline(test.image, outline))
    order = _hottest_first(test.heat, outline)
    selected = np.zeros((len(FRACTIONS), outline.size), np.bool_)
    for row, fraction in enumerate(FRACTIONS):
        selected[row, order[: round(fraction * len(order))]] = True
    hottest = torch.from_numpy(selected.reshape(-1, 1, *outline.shape))
    images = torch.cat([torch.where(hottest, baseline, original), torch.where(hottest, original, baseline)])
    values = target_probabilities(test.network, images, test.target, test.choice)
    deletion, insertion = values[: len(FRACTIONS)], values[len(FRACTIONS) :]
    return Curves(
        deletion=tuple(deletion),
        insertion=tuple(insertion),
        deletion_area=float(np.trapezoid(deletion, FRACTIONS)),
        insertion_area=float(np.trapezoid(insertion, FRACTIONS)),
    )


def measure_road(test: PerturbationInput) -> float:
    """ROAD: half the difference of the target's probability without the least and without the most relevant pixels.

    The mean over `ROAD_FRACTIONS` of the retina, in [-0.5, 0.5]; 0 for an uninformative map.
    """
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    top, bottom = test.network.spec.rows or (0, len(test.image))
    original, inside = to_tensor(test.image), test.outline[top:bottom]
    order = _hottest_first(test.heat[top:bottom], inside)
    imputer, images = NoisyLinearImputer(noise=0.01), []
    for fraction in ROAD_FRACTIONS:
        count = round(fraction * len(order))
        for removed in (order[:count], order[len(order) - count :]):
            keep = np.ones(inside.size, np.float32)
            keep[removed] = 0
            filled = original.clone()
            mask = torch.from_numpy(keep.reshape(inside.shape))
            with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
                warnings.simplefilter("ignore", DeprecationWarning)  # it hands tensors to NumPy
                torch.manual_seed(0)
                filled[:, top:bottom] = imputer(original[:, top:bottom], mask)
            images.append(filled)
    values = target_probabilities(test.network, torch.stack(images), test.target, test.choice)
    return float(np.mean([least - most for most, least in zip(values[::2], values[1::2], strict=True)]) / 2)


def _hottest_first(heat: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Flat indices of the pixels inside, hottest first.

    Ties are broken at random (seeded), not by position: a map without heat must not delete from the top.
    """
    indices = np.flatnonzero(inside)
    noise = np.random.default_rng(0).random(len(indices))
    return indices[np.lexsort((noise, -heat.ravel()[indices]))]


@torch.inference_mode()
def target_probabilities(
    network: GradingNetwork, images: Tensor, target: Target, choice: DeviceChoice
) -> Sequence[float]:
    """The target's probability for images (B, 3, S, S), in [0, 1]; the target must be resolved."""
    with choice.autocast():
        logits = network(to_memory_format(network, images.to(choice.device)))
    return [float(value) for value in target_probability(target, logits.float()).cpu()]
