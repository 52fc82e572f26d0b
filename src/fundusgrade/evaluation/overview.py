"""The first screen of a report: each model at its operating point, against the goals of a screening trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from fundusgrade.evaluation.assessment import Assessment, ModelAssessment
from fundusgrade.evaluation.screening import EVERYONE, GRADABLE, Screening, ScreeningRates
from fundusgrade.evaluation.subgroups import OTHER, UNKNOWN, Subgroup
from fundusgrade.metrics.estimates import UNDEFINED, Estimate
from fundusgrade.metrics.referral import FEWEST_REFERABLE
from fundusgrade.metrics.score_keys import ScoreKey

SENSITIVITY_GOAL, SPECIFICITY_GOAL = 0.85, 0.825
"""What the trial of autonomous screening in primary care set as its goals, of disease that is more than mild and of the
rest (Abramoff et al., npj Digital Medicine 2018)."""


class Origin(StrEnum):
    """How a model knows a data set: trained on other photographs of it (internal), or on none (external)."""

    INTERNAL = "internal"
    EXTERNAL = "external"
    UNKNOWN = "unknown"


class Goal(StrEnum):
    """Whether an interval lies wholly above a goal, wholly below it, or holds it."""

    REACHED = "reached"
    MISSED = "missed"
    OPEN = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class OverviewRow:
    """A model on all photographs (`data` is None), or on those of one of several data sets.

    `everyone` and `gradable` are None where the referrals are not known.
    """

    data: str | None
    origin: Origin
    num_photographs: int
    kappa: Estimate
    kappa_within_acquisition: Estimate
    everyone: ScreeningRates | None
    gradable: ScreeningRates | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOverview:
    """A model: on all photographs, then on each data set where there are several; and the subgroup it serves worst.

    `lowest` is the subgroup of the lowest sensitivity among those of a known value that have `FEWEST_REFERABLE`
    referable photographs or more, of which there are `num_subgroups`; None where there are fewer than two.
    """

    model: ModelAssessment
    rows: tuple[OverviewRow, ...]
    lowest: Subgroup | None
    num_subgroups: int
    sensitivity_goal: Goal
    specificity_goal: Goal

    @property
    def all(self) -> OverviewRow:
        """The row of all photographs."""
        return self.rows[0]

    @property
    def reaches_goals(self) -> bool:
        """Whether both goals are reached: one alone is reached by referring everybody, or nobody."""
        return self.sensitivity_goal is self.specificity_goal is Goal.REACHED


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """All models, and the one that the verdict is on: the best at its operating point; None where none has one.

    Best is who reaches both goals, then who has the higher sum of sensitivity and specificity; a model that
    has seen the photographs is not considered.
    """

    models: tuple[ModelOverview, ...]
    best: ModelOverview | None


def overview(assessment: Assessment) -> Overview:
    """The first screen of an assessment."""
    models = tuple(_model_overview(model, assessment) for model in assessment.models)
    judged = [of for of in models if of.all.everyone is not None and not of.model.is_inflated]
    return Overview(models=models, best=max(judged, key=_rank, default=None))


def _rank(of: ModelOverview) -> tuple[bool, float]:
    everyone = of.all.everyone
    assert everyone is not None, "only models with referrals are ranked"
    return of.reaches_goals, (everyone.sensitivity.value or 0.0) + (everyone.specificity.value or 0.0)


def _model_overview(model: ModelAssessment, assessment: Assessment) -> ModelOverview:
    everyone = None if model.screening is None else model.screening.of(EVERYONE)
    candidates = [
        of
        for of in model.subgroups
        if of.value not in (UNKNOWN, OTHER)
        and of.num_referable >= FEWEST_REFERABLE
        and of.sensitivity.value is not None
    ]
    return ModelOverview(
        model=model,
        rows=(_row_of_all(model, assessment), *_rows_of_sources(model)),
        lowest=min(candidates, key=lambda of: of.sensitivity.value or 0.0) if len(candidates) > 1 else None,
        num_subgroups=len(candidates),
        sensitivity_goal=judge(everyone.sensitivity if everyone else UNDEFINED, SENSITIVITY_GOAL),
        specificity_goal=judge(everyone.specificity if everyone else UNDEFINED, SPECIFICITY_GOAL),
    )


def judge(estimate: Estimate, goal: float) -> Goal:
    """Whether the whole interval of an estimate reaches a goal, lies below it, or neither."""
    if estimate.low is not None and estimate.low >= goal:
        return Goal.REACHED
    return Goal.MISSED if estimate.high is not None and estimate.high < goal else Goal.OPEN


def _row_of_all(model: ModelAssessment, assessment: Assessment) -> OverviewRow:
    return OverviewRow(
        data=None,
        origin=Origin.UNKNOWN if model.sources else _origin(assessment.data, model.internal),
        num_photographs=assessment.num_photographs,
        kappa=model.score(ScoreKey.KAPPA),
        kappa_within_acquisition=model.score(ScoreKey.KAPPA_WITHIN_ACQUISITION),
        everyone=_rates(model.screening, EVERYONE),
        gradable=_rates(model.screening, GRADABLE),
    )


def _rows_of_sources(model: ModelAssessment) -> Sequence[OverviewRow]:
    return [
        OverviewRow(
            data=source.name,
            origin=_origin(source.name, model.internal),
            num_photographs=source.num_photographs,
            kappa=source.score(ScoreKey.KAPPA),
            kappa_within_acquisition=source.score(ScoreKey.KAPPA_WITHIN_ACQUISITION),
            everyone=_rates(model.screening, EVERYONE, source.name),
            gradable=_rates(model.screening, GRADABLE, source.name),
        )
        for source in model.sources
    ]


def _origin(data: str, internal: Sequence[str] | None) -> Origin:
    if internal is None:
        return Origin.UNKNOWN
    return Origin.INTERNAL if data in internal else Origin.EXTERNAL


def _rates(screening: Screening | None, scope: str, source: str | None = None) -> ScreeningRates | None:
    if screening is None or (source is not None and source not in {of.name for of in screening.sources}):
        return None
    return screening.of(scope, source)
