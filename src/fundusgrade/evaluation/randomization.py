"""Does a map depend on what the network learned? Its layers are randomized, one after another, from the answer down.

Sanity checks for saliency maps (Adebayo et al., NeurIPS 2018): a map that stays alike while the network forgets shows
the picture, not the network. Likeness is Spearman's rank correlation and the structural similarity (Wang et al., 2004)
of the two maps.
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
"""Shares of the network, counted from its answer, that are randomized; 0 is its last layer alone."""

_SSIM_SIGMA_PX = 1.5
_SSIM_CONSTANTS = (0.01**2, 0.03**2)


@dataclass(frozen=True, slots=True, kw_only=True)
class MapSimilarity:
    """How alike two maps are, -1 to 1; None where one of them is even, as it then has no ranks and no structure."""

    rank_correlation: float | None
    structural_similarity: float | None


UNLIKE = MapSimilarity(rank_correlation=None, structural_similarity=None)


def randomized(network: GradingNetwork, depth: float, images: Tensor, seed: int = 0) -> GradingNetwork:
    """A copy whose last layer, and this share of all others from the answer down, forgot what they learned.

    Layers start anew where they know how; parameters that stand alone, as positions do, are shuffled. What batch
    normalization knows of its inputs is measured again on `pictures` (B, 3, S, S), or the signal would die out on its
    way and the map would be rounding noise.
    """
    forgetful = copy.deepcopy(network)
    parts = _parts(forgetful.backbone)
    count = max(1, round(depth * len(parts)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in parts[len(parts) - count :]:
            _forget(part)
        if depth >= 1:
            _shuffle(forgetful.backbone)
    _measure_statistics(forgetful, images)
    return forgetful


def compare_maps(first: NDArray[np.float32], second: NDArray[np.float32], mask: NDArray[np.bool_]) -> MapSimilarity:
    """Compare two maps (S, S) within the mask (S, S)."""
    from scipy.stats import spearmanr

    one, other = first[mask], second[mask]
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return UNLIKE
    correlation = float(spearmanr(one, other).statistic)
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
    """Layers and blocks in the order of the network's definition, those without weights left out."""
    parts: list[nn.Module] = []
    for child in backbone.children():
        blocks = list(child.children()) if isinstance(child, nn.Sequential | nn.ModuleList) else []
        parts += blocks or [child]
    return [part for part in parts if any(True for _ in part.parameters())]


def _forget(part: nn.Module) -> None:
    for module in part.modules():
        restart: Any = getattr(module, "reset_parameters", None)
        if restart is not None:
            restart()


@torch.no_grad()
def _measure_statistics(network: GradingNetwork, images: Tensor) -> None:
    """Evaluation mode, with the means and variances of all batch normalization set to those of the pictures."""
    network.eval()
    normalizing = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [module.momentum for module in normalizing]
    for module in normalizing:
        module.reset_running_stats()
        module.momentum = None  # a plain mean
        module.train()
    if normalizing:
        network(to_memory_format(network, images))
    for module, momentum in zip(normalizing, momenta, strict=True):
        module.momentum = momentum
        module.eval()


def _shuffle(backbone: nn.Module) -> None:
    """Parameters of modules that cannot start anew: what they hold stays, where it stands is chance."""
    for parameter in _lone_parameters(backbone):
        order = torch.randperm(parameter.numel())
        parameter.data = parameter.data.flatten()[order.to(parameter.device)].reshape(parameter.shape)


def _lone_parameters(backbone: nn.Module) -> Iterator[nn.Parameter]:
    for module in backbone.modules():
        if not hasattr(module, "reset_parameters"):
            yield from module.parameters(recurse=False)
