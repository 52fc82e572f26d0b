"""The optimizer of a run: AdamW, its parameter groups, and the schedule of the learning rate."""

from __future__ import annotations

import math

import torch
from timm.optim import param_groups_layer_decay

from fundusgrade.networks.network import GradingNetwork
from fundusgrade.training.options import TrainOptions

_FINAL_FRACTION = 0.01


def build_optimizer(network: GradingNetwork, options: TrainOptions, device: torch.device) -> torch.optim.Optimizer:
    """AdamW without weight decay for biases and norms; `base_rate` of each group is its highest learning rate."""
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
    rate, layer_decay = options.learning_rate or 0.0, options.layer_decay or 1.0
    if layer_decay < 1:
        groups = param_groups_layer_decay(network.backbone, weight_decay=options.weight_decay, layer_decay=layer_decay)
        return [
            {
                "params": group["params"],
                "weight_decay": group["weight_decay"],
                "base_rate": rate * group["lr_scale"],
                "lr": rate,
            }
            for group in groups
        ]
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": options.weight_decay, "base_rate": rate, "lr": rate},
        {"params": vectors, "weight_decay": 0.0, "base_rate": rate, "lr": rate},
    ]
