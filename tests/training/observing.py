"""Observers of training runs in tests."""

from __future__ import annotations

from fundusgrade.training.history import EpochRecord


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
