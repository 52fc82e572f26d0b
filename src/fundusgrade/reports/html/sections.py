"""The values that the sections of a report show of an assessment, for their templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fundusgrade.evaluation.assessment import Assessment, ModelAssessment
from fundusgrade.evaluation.subgroups import Subgroup
from fundusgrade.metrics.comparison import PairedComparison
from fundusgrade.metrics.conformal import SetCoverage
from fundusgrade.metrics.estimates import Estimate
from fundusgrade.metrics.operating_points import RiskCoverage
from fundusgrade.metrics.score_keys import F1_KEYS, ScoreKey
from fundusgrade.reports.html.charts import letter

_SIGNIFICANT = 0.05
_DEFERRAL_COVERAGE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedModel:
    """A model's assessment with the values that the text of a report mentions.

    `name` begins with the letter that charts use where there are several models. `weakest_grade` has the lowest defined
    F1; `deferral` and `coverage` are None where nothing was measured.
    """

    name: str
    assessment: ModelAssessment
    kappa: Estimate
    f1: tuple[Estimate, ...]
    weakest_grade: int | None
    deferral: Deferral | None
    coverage: CoverageSummary | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferral:
    """Accuracy on all photographs, and on those that remain when a fraction, the least certain, is deferred."""

    accuracy: float
    deferred: float
    remaining_accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageSummary:
    """Coverage over all photographs, and of the groups (all, or a grade) where that of sets and of bounds is lowest."""

    all: SetCoverage
    lowest: SetCoverage
    lowest_bound: SetCoverage


def reported_models(assessment: Assessment) -> tuple[ReportedModel, ...]:
    """The models in the order of the assessment."""
    return tuple(
        _reported_model(name, model) for name, model in zip(display_names(assessment), assessment.models, strict=True)
    )


def display_names(assessment: Assessment) -> tuple[str, ...]:
    """The models' names, with the letters that charts call them by where there are several."""
    names = tuple(model.model for model in assessment.models)
    return names if len(names) < 2 else tuple(f"{letter(i)} {name}" for i, name in enumerate(names))


def _reported_model(name: str, model: ModelAssessment) -> ReportedModel:
    f1 = tuple(model.score(key) for key in F1_KEYS)
    defined = {grade: estimate.value for grade, estimate in enumerate(f1) if estimate.value is not None}
    return ReportedModel(
        name=name,
        assessment=model,
        kappa=model.score(ScoreKey.KAPPA),
        f1=f1,
        weakest_grade=min(defined, key=lambda grade: defined[grade], default=None),
        deferral=_deferral(model.risk_coverage),
        coverage=_coverage(model.set_coverage),
    )


def _deferral(curve: RiskCoverage) -> Deferral | None:
    points = sorted(zip(curve.coverages, curve.accuracies, strict=True))
    if not points:
        return None
    coverage, accuracy = min(points, key=lambda point: abs(point[0] - _DEFERRAL_COVERAGE))
    return Deferral(accuracy=points[-1][1], deferred=1 - coverage, remaining_accuracy=accuracy)


def _coverage(sets: Sequence[SetCoverage]) -> CoverageSummary | None:
    defined = [coverage for coverage in sets if coverage.covered.value is not None]
    if not defined or defined[0].grade is not None:
        return None
    return CoverageSummary(
        all=defined[0],
        lowest=min(defined, key=lambda coverage: coverage.covered.value or 0.0),
        lowest_bound=min(defined, key=lambda coverage: coverage.bound_covered.value or 0.0),
    )


# Thresholds, calibration, net benefit


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdSource:
    """Validation photographs on which some models' thresholds were chosen: how many, in each of how many folds."""

    models: tuple[str, ...]
    num_photographs: int
    num_folds: int


def threshold_sources(assessment: Assessment) -> tuple[ThresholdSource, ...]:
    """Where thresholds and prediction sets were chosen; models that chose on none are left out."""
    chosen: dict[tuple[int, int], list[str]] = {}
    for model in assessment.models:
        if model.num_validation:
            source = (round(model.num_validation / model.num_folds), model.num_folds)
            chosen.setdefault(source, []).append(model.model)
    return tuple(
        ThresholdSource(models=tuple(models), num_photographs=num_photographs, num_folds=num_folds)
        for (num_photographs, num_folds), models in chosen.items()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationError:
    """The largest calibration error of a report, and about how many photographs stand behind each dot of its chart."""

    model: str
    outcome: str
    error: float
    num_per_bin: int


def largest_calibration_error(models: Sequence[ReportedModel]) -> CalibrationError | None:
    """Of all models and kinds of confidence; None where no error is defined."""
    errors = [
        CalibrationError(
            model=model.name,
            outcome=reliability.outcome,
            error=reliability.calibration_error.value,
            num_per_bin=round(sum(group.num_photographs for group in reliability.bins) / max(1, len(reliability.bins))),
        )
        for model in models
        for reliability in model.assessment.reliability
        if reliability.calibration_error.value is not None
    ]
    return max(errors, key=lambda error: error.error, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetBenefitRange:
    """The lowest and highest threshold probability at which every model beats referring all and referring none."""

    decision: str
    low: float | None
    high: float | None


def net_benefit_ranges(assessment: Assessment) -> tuple[NetBenefitRange, ...]:
    """One of each decision with a decision curve."""
    decisions = dict.fromkeys(curve.decision for model in assessment.models for curve in model.decision_curves)
    return tuple(net_benefit_range(assessment, decision) for decision in decisions)


def net_benefit_range(assessment: Assessment, decision: str) -> NetBenefitRange:
    """The range of one decision, such as "referable"."""
    curves = [curve for model in assessment.models for curve in model.decision_curves if curve.decision == decision]
    better = [
        threshold
        for i, threshold in enumerate(curves[0].thresholds)
        if all(i < len(curve.model) and curve.model[i] > max(0.0, curve.treat_all[i]) for curve in curves)
    ]
    return NetBenefitRange(decision=decision, low=min(better, default=None), high=max(better, default=None))


# Subgroups


@dataclass(frozen=True, slots=True, kw_only=True)
class SubgroupRow:
    """Photographs with one value of a column; each model's scores of them, None where it has none."""

    value: str
    num_photographs: int
    by_model: tuple[Subgroup | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubgroupTable:
    """All values of one column of the manifest."""

    column: str
    rows: tuple[SubgroupRow, ...]


def subgroup_tables(assessment: Assessment) -> tuple[SubgroupTable, ...]:
    """One table of each requested column."""
    columns: dict[str, dict[str, dict[str, Subgroup]]] = {}
    for model in assessment.models:
        for subgroup in model.subgroups:
            columns.setdefault(subgroup.column, {}).setdefault(subgroup.value, {})[model.model] = subgroup
    return tuple(
        SubgroupTable(
            column=column,
            rows=tuple(_subgroup_row(value, by_name, assessment) for value, by_name in values.items()),
        )
        for column, values in columns.items()
    )


def _subgroup_row(value: str, by_name: Mapping[str, Subgroup], assessment: Assessment) -> SubgroupRow:
    return SubgroupRow(
        value=value,
        num_photographs=next(iter(by_name.values())).num_photographs,
        by_model=tuple(by_name.get(model.model) for model in assessment.models),
    )


# Comparisons


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedComparison:
    """A pair of models by the names of the report; `better` and `worse` by kappa, None where it does not decide."""

    name: str
    first: str
    second: str
    comparison: PairedComparison
    better: str | None
    worse: str | None


def reported_comparisons(assessment: Assessment) -> tuple[ReportedComparison, ...]:
    """All pairs in the order of the assessment."""
    names = dict(zip((model.model for model in assessment.models), display_names(assessment), strict=True))
    return tuple(_reported_comparison(comparison, names) for comparison in assessment.comparisons)


def _reported_comparison(comparison: PairedComparison, names: Mapping[str, str]) -> ReportedComparison:
    first, second = names[comparison.first], names[comparison.second]
    decided = comparison.kappa_p is not None and comparison.kappa_p < _SIGNIFICANT
    first_is_better = (comparison.kappa_difference.value or 0.0) > 0
    return ReportedComparison(
        name=f"{first} − {second}",
        first=first,
        second=second,
        comparison=comparison,
        better=None if not decided else first if first_is_better else second,
        worse=None if not decided else second if first_is_better else first,
    )
