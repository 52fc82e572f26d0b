"""Short training runs of tests: their options, devices and observers, and what they leave."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from fundusgrade import store
from fundusgrade.networks.device import choose_device
from fundusgrade.options import DeviceName, Precision
from fundusgrade.training.history import METRICS_FILE, EpochRecord
from fundusgrade.training.options import TrainOptions

FLOAT32 = choose_device(DeviceName.CPU, Precision.FLOAT32)
BFLOAT16 = choose_device(DeviceName.CPU, Precision.BFLOAT16)
QUICK = TrainOptions(arch="cnn", epochs=3, batch_size=8)
# Validation scores the network alone: nothing is fitted afterwards.
UNFITTED = replace(QUICK, calibrate=False)


class Quiet:
    """Watches nothing."""

    def batch_done(self, epoch: int, step: int, num_steps: int, num_images: int) -> None:
        """Nothing."""

    def epoch_done(self, record: EpochRecord, is_best: bool) -> None:
        """Nothing."""


class CtrlC(Quiet):
    """Interrupts after a step of an epoch."""

    def __init__(self, epoch: int, step: int) -> None:
        self.moment = (epoch, step)

    def batch_done(self, epoch: int, step: int, num_steps: int, num_images: int) -> None:
        if (epoch, step) == self.moment:
            assert step < num_steps, "in the middle of an epoch"
            raise KeyboardInterrupt


def weights_in(directory: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(directory / store.MODEL_FILE)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def lasting(record: dict[str, object]) -> dict[str, object]:
    """A line of metrics.jsonl without what a clock measured."""
    return {name: value for name, value in record.items() if name not in {"seconds", "images_per_second"}}


def metrics_in(directory: Path) -> list[dict[str, object]]:
    lines = (directory / METRICS_FILE).read_text(encoding="utf-8").splitlines()
    return [lasting(json.loads(line)) for line in lines]
