"""Scores of each of several data sets: how well a model grades where the photographs come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fundusgrade.errors import MetricsError
from fundusgrade.grades import NUM_GRADES
from fundusgrade.metrics.bootstrap import Resamples
from fundusgrade.metrics.estimates import Estimate
from fundusgrade.metrics.operating_points import MeasuredPoint, measure_operating_points
from fundusgrade.metrics.predictions import PredictionSet
from fundusgrade.metrics.score_keys import ScoreKey
from fundusgrade.metrics.scores import NamedEstimate, find_score, score_predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceScores:
    """Scores of the photographs of one data set; operating points have the thresholds that were chosen for all."""

    name: str
    num_per_grade: tuple[int, ...]
    scores: tuple[NamedEstimate, ...]
    operating_points: tuple[MeasuredPoint, ...]

    @property
    def num_photographs(self) -> int:
        """Photographs of all grades."""
        return sum(self.num_per_grade)

    def score(self, key: ScoreKey) -> Estimate:
        """The score of this key with its interval. Raises KeyError where it was not estimated."""
        return find_score(self.scores, key)


def score_sources(predictions: PredictionSet, origins: Sequence[str], resamples: Resamples) -> tuple[SourceScores, ...]:
    """Scores of each data set in order of its first photograph; `origins` name the data set of each photograph.

    Empty where all photographs are of one data set, and where none are given. Raises MetricsError where their number is
    wrong.
    """
    num_photographs = len(predictions.test)
    if origins and len(origins) != num_photographs:
        raise MetricsError(
            f"There are {len(origins)} names of data sets for {num_photographs} photographs: give one for each."
        )
    names = list(dict.fromkeys(origins))
    if len(names) < 2:
        return ()
    return tuple(_scores_of_source(predictions, name, origins, resamples) for name in names)


def _scores_of_source(
    predictions: PredictionSet, name: str, origins: Sequence[str], resamples: Resamples
) -> SourceScores:
    members = np.array([origin == name for origin in origins], bool)
    of_source = replace(predictions, test=predictions.test.subset(members))
    drawn = resamples.subset(members)
    return SourceScores(
        name=name,
        num_per_grade=tuple(np.bincount(of_source.test.grades, minlength=NUM_GRADES).tolist()),
        scores=score_predictions(of_source.test, drawn),
        operating_points=measure_operating_points(of_source, drawn),
    )
