"""The report of an evaluation: one HTML file that loads nothing, opens from disk and prints."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from fundusgrade.evaluation.assessment import Assessment
from fundusgrade.evaluation.overview import SENSITIVITY_GOAL, SPECIFICITY_GOAL, overview
from fundusgrade.metrics.referral import FEWEST_REFERABLE
from fundusgrade.reports.html import section_charts as charts
from fundusgrade.reports.html import sections
from fundusgrade.reports.html.context import ReportContext
from fundusgrade.reports.html.environment import read_asset, render


@dataclass(frozen=True, slots=True, kw_only=True)
class _Charts:
    """The charts of a report; None or empty where there is nothing to draw.

    `subgroups` has one of each subgroup table, `learning` one of each described model.
    """

    forest: tuple[Markup, ...]
    kappa: Markup
    f1: Markup
    calibration: tuple[Markup, ...]
    decisions: tuple[Markup, ...]
    deferral: tuple[Markup, ...]
    coverage: tuple[Markup, ...]
    comparisons: Markup | None
    audit: tuple[Markup, ...]
    subgroups: tuple[Markup | None, ...]
    learning: tuple[Markup | None, ...]


def report_html(assessment: Assessment, context: ReportContext) -> str:
    """The whole page as text; the same assessment and context give the same bytes."""
    models = sections.reported_models(assessment)
    subgroups = sections.subgroup_tables(assessment)
    comparisons = sections.reported_comparisons(assessment)
    first = overview(assessment)
    drawn = _Charts(
        forest=charts.forest_charts(first),
        kappa=charts.kappa_chart(models),
        f1=charts.f1_chart(models),
        calibration=charts.calibration_charts(models),
        decisions=charts.decision_charts(assessment),
        deferral=charts.deferral_charts(assessment),
        coverage=charts.coverage_charts(assessment),
        comparisons=charts.comparison_chart(comparisons),
        audit=charts.audit_charts(context.audits),
        subgroups=tuple(charts.subgroup_chart(each) for each in subgroups),
        learning=tuple(charts.learning_chart(each) for each in context.models),
    )
    return render(
        "report.html",
        title=context.title,
        report_style=read_asset("report.css"),
        assessment=assessment,
        context=context,
        charts=drawn,
        models=models,
        overview=first,
        goals=(SENSITIVITY_GOAL, SPECIFICITY_GOAL),
        fewest_referable=FEWEST_REFERABLE,
        threshold_sources=sections.threshold_sources(assessment),
        largest_calibration_error=sections.largest_calibration_error(models),
        net_benefit_ranges=sections.net_benefit_ranges(assessment),
        subgroups=subgroups,
        comparisons=comparisons,
    )
