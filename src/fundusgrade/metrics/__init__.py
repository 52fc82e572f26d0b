"""Arithmetic on predictions: metrics with intervals, comparisons, operating points, prediction sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fundusgrade.lazy import lazy_attributes

if TYPE_CHECKING:
    from fundusgrade.metrics.classification import evaluate_predictions, quadratic_weighted_kappa
    from fundusgrade.metrics.estimates import Estimate
    from fundusgrade.metrics.predictions import PredictionSet
    from fundusgrade.metrics.score_keys import ScoreKey
    from fundusgrade.metrics.scores import score_predictions

__all__ = [
    "Estimate",
    "PredictionSet",
    "ScoreKey",
    "evaluate_predictions",
    "quadratic_weighted_kappa",
    "score_predictions",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "Estimate": "estimates",
        "PredictionSet": "predictions",
        "ScoreKey": "score_keys",
        "evaluate_predictions": "classification",
        "quadratic_weighted_kappa": "classification",
        "score_predictions": "scores",
    },
)
