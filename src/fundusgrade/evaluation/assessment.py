"""Evaluation of one or more models on one set of photographs, as plain values."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fundusgrade.errors import MetricsError
from fundusgrade.evaluation.rules import RuleScores, compare_rules
from fundusgrade.evaluation.screening import Referrals, Screening
from fundusgrade.evaluation.sources import SourceScores, score_sources
from fundusgrade.evaluation.subgroups import (
    AcquisitionCluster,
    Subgroup,
    SubgroupMask,
    acquisition_clusters,
    score_subgroup,
    subgroup_masks,
)
from fundusgrade.metrics.bootstrap import Resamples, resample
from fundusgrade.metrics.classification import Evaluation, evaluate_predictions, order_of_errors
from fundusgrade.metrics.comparison import PairedComparison, compare_all
from fundusgrade.metrics.conformal import NO_CONFORMITY, Conformity, SetCoverage, measure_sets
from fundusgrade.metrics.estimates import Estimate
from fundusgrade.metrics.operating_points import (
    DecisionCurve,
    MeasuredPoint,
    RiskCoverage,
    measure_decision_curves,
    measure_operating_points,
    measure_risk_coverage,
)
from fundusgrade.metrics.predictions import PredictionSet, ScoredPhotographs
from fundusgrade.metrics.reliability import Reliability, measure_reliability
from fundusgrade.metrics.score_keys import ScoreKey
from fundusgrade.metrics.scores import NamedEstimate, find_score, score_predictions

MAX_WORST_ERRORS = 24
_NUM_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstError:
    """A photograph whose predicted grade is far from its label, and the probabilities of grades 0-4."""

    source: str
    grade: int
    predicted: int
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAssessment:
    """All scores of one model.

    `num_validation` counts the validation photographs of all `num_folds` folds together; without cross-validation
    `num_folds` is 1. `sources` are empty where all photographs are of one data set, `rules` without cross-validation.
    `screening` is None where it is not known which photographs are gradable. `is_inflated` says that the model was
    trained or selected on photographs that are scored. `internal` are the data sets that it was trained on other
    photographs of, None where that is not known.
    """

    model: str
    num_validation: int
    num_folds: int
    evaluation: Evaluation
    scores: tuple[NamedEstimate, ...]
    reliability: tuple[Reliability, ...]
    operating_points: tuple[MeasuredPoint, ...]
    decision_curves: tuple[DecisionCurve, ...]
    risk_coverage: RiskCoverage
    set_coverage: tuple[SetCoverage, ...]
    sources: tuple[SourceScores, ...]
    rules: tuple[RuleScores, ...]
    subgroups: tuple[Subgroup, ...]
    worst_errors: tuple[WorstError, ...]
    screening: Screening | None
    is_inflated: bool
    internal: tuple[str, ...] | None

    def score(self, key: ScoreKey) -> Estimate:
        """The score of this key with its interval. Raises KeyError where it was not estimated."""
        return find_score(self.scores, key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """The evaluation of all models on the same photographs of one data set.

    `num_groups` counts independent groups (patients, copies), `num_resamples` those of the bootstrap; `coverage` is the
    target coverage of conformal prediction sets. `acquisitions` are empty where it is not known for all photographs.
    """

    data: str
    part: str
    num_photographs: int
    num_groups: int
    num_resamples: int
    coverage: float
    acquisitions: tuple[AcquisitionCluster, ...]
    models: tuple[ModelAssessment, ...]
    comparisons: tuple[PairedComparison, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Request:
    """What is to be scored of each model: parts of the photographs, referrals, and what is known of the models."""

    resamples: Resamples
    num_resamples: int
    seed: int
    coverage: float
    subgroups: Sequence[SubgroupMask]
    origins: Sequence[str]
    conformities: Mapping[str, Conformity]
    referrals: Referrals | None
    internal: Mapping[str, Collection[str]]


def assess(
    sets: Sequence[PredictionSet],
    *,
    part: str = "test",
    coverage: float = 0.9,
    num_resamples: int = 1000,
    seed: int = 0,
    columns: Mapping[str, Sequence[str]] | None = None,
    origins: Sequence[str] = (),
    conformities: Mapping[str, Conformity] | None = None,
    referrals: Referrals | None = None,
    internal: Mapping[str, Collection[str]] | None = None,
) -> Assessment:
    """Score models on the same photographs and compare all pairs of them.

    Grades, groups and clusters of acquisition are the first set's; `part` names what the sets' `test` holds. Of its
    photographs, `columns` give subgroups, `origins` the data sets where they are of several, `referrals` the gradable.
    `conformities` of models, by name, give the limits of prediction sets where there are no validation photographs;
    `internal` the data sets that each was trained on. Pairs with a model that has seen the photographs are not tested.
    Raises MetricsError where there is nothing to score or the sets differ in photographs or grades.
    """
    first, *others = _aligned(sets, part)
    resamples = resample(first.test.groups, num_resamples=num_resamples, seed=seed)
    request = _Request(
        resamples=resamples, num_resamples=num_resamples, seed=seed, coverage=coverage, origins=origins,
        subgroups=subgroup_masks(columns or {}, len(first.test)), conformities=conformities or {},
        referrals=referrals, internal=internal or {},
    )  # fmt: skip
    return Assessment(
        data=first.data,
        part=part,
        num_photographs=len(first.test),
        num_groups=len(np.unique(first.test.groups)),
        num_resamples=num_resamples,
        coverage=coverage,
        acquisitions=acquisition_clusters(first.test),
        models=tuple(_assess_model(predictions, request) for predictions in (first, *others)),
        comparisons=compare_all((first, *others), resamples),
    )


def _assess_model(predictions: PredictionSet, request: _Request) -> ModelAssessment:
    test, resamples, name, referrals = predictions.test, request.resamples, predictions.model, request.referrals
    conformity, internal = request.conformities.get(name, NO_CONFORMITY), request.internal.get(name)
    referred, screening = None, None
    if referrals is not None:
        referred = referrals.referred(predictions)
        screening = referrals.screen(predictions, num_resamples=request.num_resamples, seed=request.seed)
    return ModelAssessment(
        model=predictions.model,
        num_validation=len(predictions.validation),
        num_folds=len(np.unique(test.folds)),
        evaluation=evaluate_predictions(test.grades, test.probabilities, predicted=test.predicted),
        scores=score_predictions(test, resamples),
        reliability=measure_reliability(test, resamples),
        operating_points=measure_operating_points(predictions, resamples),
        decision_curves=measure_decision_curves(test),
        risk_coverage=measure_risk_coverage(test),
        set_coverage=measure_sets(predictions, resamples, coverage=request.coverage, conformity=conformity),
        sources=score_sources(predictions, request.origins, resamples),
        rules=compare_rules(test, resamples),
        subgroups=tuple(score_subgroup(subgroup, test, resamples, referred) for subgroup in request.subgroups),
        worst_errors=find_worst_errors(test),
        screening=screening,
        is_inflated=predictions.is_inflated,
        internal=None if internal is None else tuple(sorted(internal)),
    )


# Alignment


def _aligned(sets: Sequence[PredictionSet], part: str) -> list[PredictionSet]:
    """The sets with their test photographs in the order of the first, and with its groups and clusters."""
    if not sets:
        raise MetricsError("There are no predictions to assess: give those of at least one model.")
    for each in sets:
        if not len(each.test):
            raise MetricsError(
                f"The predictions of {each.model} hold no photographs of part {part}; choose a part that they hold."
            )
        if len(set(each.test.sources)) < len(each.test):
            raise MetricsError(
                f"The predictions of {each.model} name a photograph more than once; keep one prediction of each."
            )
    return [_reordered(each, sets[0]) for each in sets]


def _reordered(predictions: PredictionSet, first: PredictionSet) -> PredictionSet:
    index = {source: i for i, source in enumerate(predictions.test.sources)}
    missing = [source for source in first.test.sources if source not in index]
    foreign = sorted(set(index) - set(first.test.sources))
    if missing or foreign:
        raise MetricsError(
            f"The predictions of {predictions.model} are not of the same photographs as those of {first.model}: "
            f"{_few(missing)} missing, {_few(foreign)} only there. Models are compared on the same photographs; "
            "make the predictions again on the same data and part."
        )
    test = predictions.test.subset(np.array([index[source] for source in first.test.sources], np.int64))
    different = np.flatnonzero(test.grades != first.test.grades)
    if len(different):
        raise MetricsError(
            f"The predictions of {predictions.model} and {first.model} have different true grades of "
            f"{_few([test.sources[i] for i in different])}; make them again from the same labels."
        )
    return replace(predictions, test=replace(test, groups=first.test.groups, acquisitions=first.test.acquisitions))


def _few(sources: Sequence[str]) -> str:
    named = ", ".join(sources[:_NUM_NAMED])
    more = f" and {len(sources) - _NUM_NAMED} more" if len(sources) > _NUM_NAMED else ""
    return f"{len(sources)} photographs ({named}{more})" if sources else "none"


# Single photographs


def find_worst_errors(test: ScoredPhotographs, limit: int = MAX_WORST_ERRORS) -> tuple[WorstError, ...]:
    """Wrongly graded photographs: the furthest from their label first, of equals that of the least probable label."""
    order = order_of_errors(test.grades, test.predicted, test.probabilities)[:limit]
    return tuple(
        WorstError(
            source=test.sources[i],
            grade=int(test.grades[i]),
            predicted=int(test.predicted[i]),
            probabilities=tuple(test.probabilities[i].tolist()),
        )
        for i in order
    )
