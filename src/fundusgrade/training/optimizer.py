"""The optimizer of a run: AdamW, its parameter groups, and the schedule of the learning rate."""

from __future__ import annotations

import math

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay

from fundusgrade.networks.network import GradingNetwork
from fundusgrade.training.options import TrainOptions

_FINAL_FRACTION = 0.01


def build_optimizer(network: GradingNetwork, options: TrainOptions, device: torch.device) -> torch.optim.Optimizer:
    """AdamW without weight decay for biases, norms and what the architecture exempts.

    `base_rate` of each group is its highest learning rate.
    """
    return torch.optim.AdamW(_parameter_groups(network, options), fused=device.type == "cuda")


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give each parameter group `factor` times its highest learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_rate"] * factor


def learning_rate_factor(step: int, num_steps: int, warmup_steps: int) -> float:
    """Linear warm-up to 1, then a cosine down to 1 %; `step` counts optimizer steps from 0."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return _FINAL_FRACTION + (1 - _FINAL_FRACTION) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _parameter_groups(network: GradingNetwork, options: TrainOptions) -> list[dict[str, object]]:
    """With `layer_decay` < 1 the learning rate of a layer is that fraction of the next layer's."""
    rate, layer_decay, weight_decay = options.learning_rate or 0.0, options.layer_decay or 1.0, options.weight_decay
    backbone, exempt = network.backbone, _without_weight_decay(network)
    if layer_decay < 1:
        groups = param_groups_layer_decay(backbone, weight_decay, no_weight_decay_list=exempt, layer_decay=layer_decay)
    else:
        groups = param_groups_weight_decay(backbone, weight_decay, no_weight_decay_list=exempt)
    return [
        {
            "params": group["params"],
            "weight_decay": group["weight_decay"],
            "base_rate": rate * group.get("lr_scale", 1.0),
            "lr": rate,
        }
        for group in groups
    ]


def _without_weight_decay(network: GradingNetwork) -> set[str]:
    """Names of the parameters that the architecture exempts from weight decay, such as position embeddings."""
    listed = getattr(network.backbone, "no_weight_decay", None)
    return set() if listed is None else set(listed())
