"""Decision rules compared on the same probabilities: the most probable grade, and thresholds for each objective.

The thresholds that grade a fold are fitted to the out-of-fold predictions of the other folds, without photographs of
the fold's groups. So no label of a photograph that is scored was seen by the thresholds that graded it, and with folds
by source none of its data set was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fundusgrade.metrics.bootstrap import Resamples
from fundusgrade.metrics.classification import decide_grades, expected_grades
from fundusgrade.metrics.estimates import Estimate
from fundusgrade.metrics.predictions import ScoredPhotographs
from fundusgrade.metrics.score_keys import ScoreKey
from fundusgrade.metrics.scores import NamedEstimate, find_score, score_grades
from fundusgrade.metrics.thresholds import fit_thresholds
from fundusgrade.options import DecideFor

MOST_PROBABLE = "most probable"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleScores:
    """Scores of the grades that a rule gives: "most probable", or the objective of thresholds.

    `thresholds` are the mean over folds, empty for the most probable grade.
    """

    rule: str
    thresholds: tuple[float, ...]
    scores: tuple[NamedEstimate, ...]

    def score(self, key: ScoreKey) -> Estimate:
        """The score of this key with its interval. Raises KeyError where it was not estimated."""
        return find_score(self.scores, key)


def compare_rules(photographs: ScoredPhotographs, resamples: Resamples) -> tuple[RuleScores, ...]:
    """Each rule on the pooled photographs of a cross-validation; empty where they are not of two or more folds."""
    folds = np.unique(photographs.folds)
    if len(folds) < 2 or not folds.all():
        return ()
    most_probable = replace(photographs, predicted=photographs.most_probable)
    compared = [
        RuleScores(rule=MOST_PROBABLE, thresholds=(), scores=score_grades(most_probable, resamples)),
        *(_rule_of(decide_for, photographs, resamples) for decide_for in DecideFor),
    ]
    return tuple(compared)


def _rule_of(decide_for: DecideFor, photographs: ScoredPhotographs, resamples: Resamples) -> RuleScores:
    predicted, fitted = photographs.predicted.copy(), []
    for fold in np.unique(photographs.folds):
        thresholds = thresholds_of_fold(photographs, int(fold), decide_for)
        of_fold = photographs.folds == fold
        predicted[of_fold] = decide_grades(photographs.probabilities[of_fold], thresholds)
        fitted.append(thresholds)
    scores = score_grades(replace(photographs, predicted=predicted), resamples)
    means: NDArray[np.float64] = np.mean(fitted, axis=0)
    return RuleScores(rule=decide_for.value, thresholds=tuple(means.tolist()), scores=scores)


def thresholds_of_fold(photographs: ScoredPhotographs, fold: int, decide_for: DecideFor) -> tuple[float, ...]:
    """Thresholds that grade a fold, from the other folds: without photographs of groups that are in the fold."""
    of_fold = photographs.folds == fold
    others = photographs.subset(~of_fold & ~np.isin(photographs.groups, photographs.groups[of_fold]))
    return fit_thresholds(others.grades, expected_grades(others.probabilities), decide_for)
