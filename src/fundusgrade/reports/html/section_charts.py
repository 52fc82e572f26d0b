"""The charts of a report's sections, each from the values that its section shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup

from fundusgrade.evaluation.assessment import Assessment
from fundusgrade.evaluation.audit import Audit
from fundusgrade.evaluation.overview import SENSITIVITY_GOAL, SPECIFICITY_GOAL, Overview, OverviewRow
from fundusgrade.grades import GRADE_LABELS
from fundusgrade.metrics.estimates import UNDEFINED, Estimate
from fundusgrade.metrics.operating_points import RiskCoverage
from fundusgrade.metrics.reliability import Reliability
from fundusgrade.reports.html.charts import DotRow, Frame, Series, dots_chart, lines_chart
from fundusgrade.reports.html.context import ModelDescription
from fundusgrade.reports.html.formats import column_label, percent
from fundusgrade.reports.html.sections import ReportedComparison, ReportedModel, SubgroupTable

_DIAGONAL = Series(series=None, x=(0.0, 1.0), y=(0.0, 1.0), label="ideal")
_MAX_SUBGROUPS = 12


def forest_charts(overview: Overview) -> tuple[Markup, ...]:
    """Kappa of each model on all photographs and on each data set; sensitivity and specificity where they are known."""
    drawn = [
        _forest_chart(overview, "Kappa", "quadratic weighted kappa, 95 % CI", None, lambda row: row.kappa),
    ]
    if all(of.all.everyone is not None for of in overview.models):
        drawn += [
            _forest_chart(overview, "Sensitivity", "sensitivity, 95 % CI", SENSITIVITY_GOAL, _sensitivity),
            _forest_chart(overview, "Specificity", "specificity, 95 % CI", SPECIFICITY_GOAL, _specificity),
        ]
    return tuple(drawn)


def _sensitivity(row: OverviewRow) -> Estimate:
    return UNDEFINED if row.everyone is None else row.everyone.sensitivity


def _specificity(row: OverviewRow) -> Estimate:
    return UNDEFINED if row.everyone is None else row.everyone.specificity


def _forest_chart(
    overview: Overview, title: str, x_label: str, goal: float | None, score: Callable[[OverviewRow], Estimate]
) -> Markup:
    names = [row.data or "all photographs" for row in overview.models[0].rows]
    rows = [
        DotRow(label=name, dots=tuple(score(model.rows[i]) for model in overview.models))
        for i, name in enumerate(names)
    ]
    description = f"{title} of each model with 95 % confidence intervals; the numbers are in the table above."
    return dots_chart(rows, Frame(title=title, x_label=x_label), description, reference=goal)


def kappa_chart(models: Sequence[ReportedModel]) -> Markup:
    """The kappa of each model."""
    return dots_chart(
        [DotRow(label=model.name, dots=(model.kappa,)) for model in models],
        Frame(title="Quadratic weighted kappa", x_label="kappa, 95 % CI"),
        "Quadratic weighted kappa of each model with its 95 % confidence interval.",
        digits=3,
    )


def f1_chart(models: Sequence[ReportedModel]) -> Markup:
    """The F1 of each grade and model."""
    return dots_chart(
        [
            DotRow(label=f"{grade} {label}", dots=tuple(model.f1[grade] for model in models))
            for grade, label in enumerate(GRADE_LABELS)
        ],
        Frame(title="F1 of each grade", x_label="F1, 95 % CI", x_limits=(0.0, 1.0)),
        "F1 of each grade with 95 % confidence intervals; the numbers are in the table below.",
    )


def calibration_charts(models: Sequence[ReportedModel]) -> tuple[Markup, ...]:
    """A reliability diagram of each model and kind of confidence."""
    return tuple(
        _reliability_diagram(i, model.name, reliability)
        for i, model in enumerate(models)
        for reliability in model.assessment.reliability
        if reliability.bins
    )


def _reliability_diagram(series: int, name: str, reliability: Reliability) -> Markup:
    groups = sorted(reliability.bins, key=lambda group: group.confidence)
    line = Series(
        series=series,
        x=tuple(group.confidence for group in groups),
        y=tuple(group.observed.value for group in groups),
        bounds=tuple((group.observed.low, group.observed.high) for group in groups),
    )
    frame = Frame(
        title=f"{name}: {reliability.outcome}",
        x_label="predicted",
        y_label="observed fraction",
        x_limits=(0, 1),
        y_limits=(0, 1),
    )
    error = reliability.calibration_error.describe()
    description = f"Reliability diagram of {name}, {reliability.outcome}: expected calibration error {error}."
    return lines_chart([_DIAGONAL, line], frame, description)


def decision_charts(assessment: Assessment) -> tuple[Markup, ...]:
    """The net benefit of all models, a chart of each decision."""
    decisions = dict.fromkeys(curve.decision for model in assessment.models for curve in model.decision_curves)
    return tuple(_decision_chart(assessment, decision) for decision in decisions)


def _decision_chart(assessment: Assessment, decision: str) -> Markup:
    curves = [
        (i, curve)
        for i, model in enumerate(assessment.models)
        for curve in model.decision_curves
        if curve.decision == decision
    ]
    everybody = curves[0][1]
    top = max([0.01, *(value for _, curve in curves for value in curve.model)])
    lines = [
        Series(series=None, x=everybody.thresholds, y=tuple(max(y, -1.0) for y in everybody.treat_all), label="all"),
        Series(series=None, x=everybody.thresholds, y=(0.0,) * len(everybody.thresholds), label="none"),
        *(Series(series=i, x=curve.thresholds, y=curve.model) for i, curve in curves),
    ]
    frame = Frame(
        title=decision, x_label="threshold probability", y_label="net benefit", y_limits=(-0.15 * top, 1.1 * top)
    )
    return lines_chart(lines, frame, f"Net benefit over the threshold probability, {decision}.")


def deferral_charts(assessment: Assessment) -> tuple[Markup, ...]:
    """Kappa, accuracy and gross errors over the fraction of photographs that the model grades."""
    curves = [model.risk_coverage for model in assessment.models]
    if not any(curve.coverages for curve in curves):
        return ()
    return (
        _deferral_chart("Kappa of the photographs graded", "kappa", curves, [curve.kappas for curve in curves]),
        _deferral_chart("Accuracy", "accuracy", curves, [curve.accuracies for curve in curves]),
        _deferral_chart("Off by two grades or more", "fraction", curves, [curve.off_by_two for curve in curves]),
    )


def _deferral_chart(
    title: str, y_label: str, curves: Sequence[RiskCoverage], values: Sequence[Sequence[float | None]]
) -> Markup:
    lines = []
    for i, (curve, scores) in enumerate(zip(curves, values, strict=True)):
        points = sorted(zip(curve.coverages, scores, strict=True), key=lambda point: point[0])
        lines.append(Series(series=i, x=tuple(x for x, _ in points), y=tuple(y for _, y in points)))
    lowest = min((x for line in lines for x in line.x), default=0.0)
    frame = Frame(title=title, x_label="fraction graded (coverage)", y_label=y_label, x_limits=(min(lowest, 0.98), 1.0))
    return lines_chart(lines, frame, f"{title}, by the fraction of photographs that the model grades.")


def coverage_charts(assessment: Assessment) -> tuple[Markup, ...]:
    """The coverage of prediction sets, and of upper bounds, of all photographs and of each grade."""
    if not any(model.set_coverage for model in assessment.models):
        return ()
    return (
        _coverage_chart(
            assessment,
            [{of.grade: of.covered for of in model.set_coverage} for model in assessment.models],
            Frame(title="Coverage of prediction sets", x_label="sets with the true grade, 95 % CI"),
        ),
        _coverage_chart(
            assessment,
            [{of.grade: of.bound_covered for of in model.set_coverage} for model in assessment.models],
            Frame(title="Coverage of upper bounds", x_label="bounds at or above the true grade, 95 % CI"),
        ),
    )


def _coverage_chart(assessment: Assessment, by_model: Sequence[dict[int | None, Estimate]], frame: Frame) -> Markup:
    rows = [
        DotRow(
            label="all photographs" if grade is None else f"{grade} {GRADE_LABELS[grade]}",
            dots=tuple(by_grade[grade] for by_grade in by_model if grade in by_grade),
        )
        for grade in dict.fromkeys(grade for by_grade in by_model for grade in by_grade)
    ]
    description = f"{frame.title}; the dashed line is the target, {percent(assessment.coverage)}."
    return dots_chart(rows, frame, description, reference=assessment.coverage)


def subgroup_chart(table: SubgroupTable) -> Markup | None:
    """The kappa of each value of a column; None where there are too many values to draw."""
    if len(table.rows) > _MAX_SUBGROUPS:
        return None
    rows = [
        DotRow(
            label=f"{row.value} ({row.num_photographs:,} photographs)",
            dots=tuple(UNDEFINED if subgroup is None else subgroup.kappa for subgroup in row.by_model),
        )
        for row in table.rows
    ]
    name = column_label(table.column)
    frame = Frame(title=f"Kappa by {name}", x_label="kappa, 95 % CI")
    return dots_chart(rows, frame, f"Quadratic weighted kappa by {name} with 95 % confidence intervals.")


def comparison_chart(comparisons: Sequence[ReportedComparison]) -> Markup | None:
    """The difference of kappa of each pair; None without pairs."""
    if not comparisons:
        return None
    rows = [DotRow(label=pair.name, dots=(pair.comparison.kappa_difference,)) for pair in comparisons]
    frame = Frame(title="Difference of kappa, first minus second", x_label="difference, 95 % CI")
    description = "Differences of kappa between pairs of models with 95 % confidence intervals; dashed: no difference."
    return dots_chart(rows, frame, description, reference=0.0, digits=3)


def audit_charts(audits: Sequence[Audit]) -> tuple[Markup, ...]:
    """Kappas of grades predicted from other properties, then changes of each model's expected grade."""
    charts = []
    if audits and audits[0].probes:
        rows = [
            DotRow(label=f"{probe.kind} ({probe.stage})", dots=(probe.kappa_estimate,)) for probe in audits[0].probes
        ]
        frame = Frame(title="Grade predicted from other properties", x_label="kappa, 95 % CI")
        description = "Kappa of the grade predicted from the outline, the file, and color and sharpness."
        charts.append(dots_chart(rows, frame, description, reference=0.0))
    for audit in [audit for audit in audits if audit.effects]:
        rows = [DotRow(label=effect.name, dots=(effect.change,)) for effect in audit.effects]
        frame = Frame(title=f"Change of {audit.model}", x_label="mean change of the expected grade, 0-4")
        description = f"Mean change of the expected grade of {audit.model} under each intervention."
        charts.append(dots_chart(rows, frame, description, reference=0.0))
    return tuple(charts)


def learning_chart(model: ModelDescription) -> Markup | None:
    """Validation kappa over the epochs; None where it was not recorded."""
    if not model.curves:
        return None
    lines = [
        Series(series=i, x=tuple(float(epoch + 1) for epoch in range(len(curve.kappas))), y=curve.kappas)
        for i, curve in enumerate(model.curves)
    ]
    frame = Frame(title="Kappa on validation", x_label="epoch", y_label="kappa")
    return lines_chart(lines, frame, f"Validation kappa of {model.name} after each epoch of training.")
