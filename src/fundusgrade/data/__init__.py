"""Labeled photographs -> a prepared data set with leak-safe splits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fundusgrade.lazy import lazy_attributes

if TYPE_CHECKING:
    from fundusgrade.data.concatenation import open_dataset
    from fundusgrade.data.dataset import PreparedDataset, load_dataset
    from fundusgrade.data.labels import find_samples
    from fundusgrade.data.prepare import prepare_dataset

__all__ = ["PreparedDataset", "find_samples", "load_dataset", "open_dataset", "prepare_dataset"]

__getattr__ = lazy_attributes(
    __name__,
    {
        "PreparedDataset": "dataset",
        "find_samples": "labels",
        "load_dataset": "dataset",
        "open_dataset": "concatenation",
        "prepare_dataset": "prepare",
    },
)
