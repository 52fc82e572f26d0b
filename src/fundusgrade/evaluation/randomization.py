"""Model randomization test: does a heat map depend on the trained weights?

Layers are randomized cumulatively from the output to the input (sanity checks for saliency maps: Adebayo et al.,
NeurIPS 2018). A map that stays similar shows the image, not the network. Similarity is Spearman's rank correlation and
the structural similarity (Wang et al., IEEE TIP 2004) of the two maps.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fundusgrade.networks.inference import to_memory_format
from fundusgrade.networks.network import GradingNetwork

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Fractions of the network's layers, counted from the output, that are randomized; 0 is the last layer only."""

_SSIM_SIGMA_PX = 1.5
_SSIM_CONSTANTS = (0.01**2, 0.03**2)


@dataclass(frozen=True, slots=True, kw_only=True)
class MapSimilarity:
    """Similarity of two maps, -1 to 1; None where one of them is constant, as it then has no ranks and no structure."""

    rank_correlation: float | None
    structural_similarity: float | None


UNDEFINED_SIMILARITY = MapSimilarity(rank_correlation=None, structural_similarity=None)


def randomized(network: GradingNetwork, depth: float, images: Tensor, seed: int = 0) -> GradingNetwork:
    """A copy whose last layer, and this fraction of all layers from the output down, are randomized.

    Layers with `reset_parameters` are initialized again; parameters of other modules, such as position embeddings, are
    shuffled. Batch normalization statistics are measured again on `images` (B, 3, S, S), without which the signal would
    vanish in deep networks and the map would be rounding noise.
    """
    result = copy.deepcopy(network)
    parts = _parts(result.backbone)
    count = max(1, round(depth * len(parts)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in parts[len(parts) - count :]:
            _reset(part)
        if depth >= 1:
            _shuffle(result.backbone)
    _measure_statistics(result, images)
    return result


def compare_maps(first: NDArray[np.float32], second: NDArray[np.float32], mask: NDArray[np.bool_]) -> MapSimilarity:
    """Compare two maps (S, S) within the mask (S, S)."""
    from scipy.stats import spearmanr

    first_values, second_values = first[mask], second[mask]
    if np.ptp(first_values) == 0 or np.ptp(second_values) == 0:
        return UNDEFINED_SIMILARITY
    correlation = float(spearmanr(first_values, second_values).statistic)
    return MapSimilarity(rank_correlation=correlation, structural_similarity=structural_similarity(first, second, mask))


def structural_similarity(first: NDArray[np.float32], second: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Mean structural similarity (Wang et al., IEEE TIP 2004) of two maps (S, S), each scaled to a maximum of 1."""
    x, y = _scaled(first, mask), _scaled(second, mask)

    def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(cv2.GaussianBlur(values, (0, 0), _SSIM_SIGMA_PX), np.float64)

    mean_x, mean_y = smooth(x), smooth(y)
    variance_x, variance_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    covariance = smooth(x * y) - mean_x * mean_y
    small, large = _SSIM_CONSTANTS
    luminance = (2 * mean_x * mean_y + small) / (mean_x**2 + mean_y**2 + small)
    structure = (2 * covariance + large) / (variance_x + variance_y + large)
    return float((luminance * structure)[mask].mean())


def _scaled(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    heat = np.where(mask, values, 0).astype(np.float64)
    return heat / heat.max() if heat.max() > 0 else heat


def _parts(backbone: nn.Module) -> list[nn.Module]:
    """Layers and blocks with parameters, in the order of the network's definition."""
    parts: list[nn.Module] = []
    for child in backbone.children():
        blocks = list(child.children()) if isinstance(child, nn.Sequential | nn.ModuleList) else []
        parts += blocks or [child]
    return [part for part in parts if any(True for _ in part.parameters())]


def _reset(part: nn.Module) -> None:
    for module in part.modules():
        reset: Any = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()


@torch.no_grad()
def _measure_statistics(network: GradingNetwork, images: Tensor) -> None:
    """Set the running statistics of all batch normalization to those of the images; evaluation mode afterwards."""
    network.eval()
    normalizing = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [module.momentum for module in normalizing]
    for module in normalizing:
        module.reset_running_stats()
        module.momentum = None  # the cumulative average
        module.train()
    if normalizing:
        network(to_memory_format(network, images))
    for module, momentum in zip(normalizing, momenta, strict=True):
        module.momentum = momentum
        module.eval()


def _shuffle(backbone: nn.Module) -> None:
    """Shuffle the values of parameters of modules without `reset_parameters`."""
    for parameter in _other_parameters(backbone):
        order = torch.randperm(parameter.numel())
        parameter.data = parameter.data.flatten()[order.to(parameter.device)].reshape(parameter.shape)


def _other_parameters(backbone: nn.Module) -> Iterator[nn.Parameter]:
    for module in backbone.modules():
        if not hasattr(module, "reset_parameters"):
            yield from module.parameters(recurse=False)
