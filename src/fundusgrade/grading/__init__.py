"""Many photographs -> rows of predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fundusgrade.lazy import lazy_attributes

if TYPE_CHECKING:
    from fundusgrade.grading.datasets import predict_dataset
    from fundusgrade.grading.grader import Grader
    from fundusgrade.grading.results import Results
    from fundusgrade.grading.writer import PredictionWriter

__all__ = ["Grader", "PredictionWriter", "Results", "predict_dataset"]

__getattr__ = lazy_attributes(
    __name__,
    {"Grader": "grader", "PredictionWriter": "writer", "Results": "results", "predict_dataset": "datasets"},
)
