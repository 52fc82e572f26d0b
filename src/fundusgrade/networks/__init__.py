"""Networks: built, run, stored and exported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fundusgrade.lazy import lazy_attributes

if TYPE_CHECKING:
    from fundusgrade.networks.checkpoint import Checkpoint
    from fundusgrade.networks.device import choose_device
    from fundusgrade.networks.inference import predict_probabilities
    from fundusgrade.networks.loading import load_model
    from fundusgrade.networks.network import GradingNetwork

__all__ = ["Checkpoint", "GradingNetwork", "choose_device", "load_model", "predict_probabilities"]

__getattr__ = lazy_attributes(
    __name__,
    {
        "Checkpoint": "checkpoint",
        "GradingNetwork": "network",
        "choose_device": "device",
        "load_model": "loading",
        "predict_probabilities": "inference",
    },
)
