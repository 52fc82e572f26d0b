"""A prepared data set -> a trained model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fundusgrade.lazy import lazy_attributes

if TYPE_CHECKING:
    from fundusgrade.training.cross_validation import cross_validate
    from fundusgrade.training.loop import train
    from fundusgrade.training.options import TrainOptions

__all__ = ["TrainOptions", "cross_validate", "train"]

__getattr__ = lazy_attributes(
    __name__, {"TrainOptions": "options", "cross_validate": "cross_validation", "train": "loop"}
)
