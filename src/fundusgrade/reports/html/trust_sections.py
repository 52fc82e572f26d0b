"""The parts of a report that say when to trust a model: confidence, decisions, deferral, sets of grades."""

from __future__ import annotations

from collections.abc import Sequence

from fundusgrade.evaluation.assessment import Assessment, ModelAssessment
from fundusgrade.grades import GRADE_LABELS
from fundusgrade.metrics.conformal import SetCoverage
from fundusgrade.metrics.operating_points import DecisionCurve, RiskCoverage
from fundusgrade.metrics.reliability import Reliability
from fundusgrade.reports.html.charts import DotRow, Frame, Series, dots_chart, key, lines_chart
from fundusgrade.reports.html.markup import (
    Html,
    count,
    estimate,
    figure,
    folded,
    in_words,
    number,
    paragraph,
    percent,
    section,
    table,
)
from fundusgrade.reports.html.score_sections import missing, named

_DIAGONAL = Series(series=None, x=(0.0, 1.0), y=(0.0, 1.0), label="ideal")


def reliability_section(assessment: Assessment) -> Html:
    """Whether confidence is earned."""
    title = "Is confidence earned?"
    drawn = [
        (i, name, of)
        for i, (name, model) in enumerate(zip(named(assessment), assessment.models, strict=True))
        for of in model.reliability
    ]
    if not drawn:
        return section("reliability", title, missing("Calibration was not measured for these predictions."))
    panels = [_reliability_panel(i, name, of) for i, name, of in drawn if of.bins]
    rows = [[name, of.what, estimate(of.calibration_error), number(of.by_chance)] for _, name, of in drawn]
    worst = max(drawn, key=lambda each: each[2].calibration_error.value or 0.0)
    return section(
        "reliability",
        title,
        paragraph(
            "Photographs are sorted by the model's confidence into bins of equally many. Each dot compares what the "
            "model said (across) with how often it was right (up). Dots on the dashed line are honest; dots below it "
            "are overconfident. The expected calibration error is the mean distance from the line. Chance alone puts "
            "some dots off the line: an error no larger than what chance gives an honest model speaks for the model."
        ),
        figure(panels, _about_calibration(worst[1], worst[2])) if panels else missing("No bin holds any photograph."),
        table("Expected calibration error", ["model", "of what", "error", "of an honest model, by chance"], rows),
    )


def _reliability_panel(series: int, name: str, of: Reliability) -> Html:
    points = sorted((each.confidence, each.observed) for each in of.bins)
    line = Series(series=series, x=tuple(x for x, _ in points), y=tuple(y for _, y in points))
    frame = Frame(
        title=f"{name}: {of.what}", x_label="confidence", y_label="share that was right", x_ends=(0, 1), y_ends=(0, 1)
    )
    words = f"Reliability of {name}, {of.what}: expected calibration error {in_words(of.calibration_error, 3)}."
    return lines_chart([_DIAGONAL, line], frame, words)


def _about_calibration(name: str, of: Reliability) -> str:
    error = of.calibration_error.value
    if error is None:
        return "The calibration error is undefined."
    return (
        f"Largest: {name} ({of.what}), whose confidence is off by {number(100 * error, 1)} percentage points on "
        f"average. A dot stands for about {count(_per_bin(of))} photographs."
    )


def _per_bin(of: Reliability) -> int:
    return round(sum(each.num_photographs for each in of.bins) / max(1, len(of.bins)))


def decisions_section(assessment: Assessment) -> Html:
    """Whether acting on the model does more good than simple rules."""
    title = "Is acting on it worth while?"
    whats = list(dict.fromkeys(of.what for model in assessment.models for of in model.decision_curves))
    if not whats:
        return section("decision-curves", title, missing("Decision curves were not computed for these predictions."))
    panels = [_decision_panel(assessment, what) for what in whats]
    return section(
        "decision-curves",
        title,
        paragraph(
            "The threshold probability says how much disease is worth how much alarm: at 10 %, finding one diseased "
            "eye is worth nine needless referrals. At each threshold the net benefit counts found patients and "
            "subtracts needless referrals at that price. A model is of use where its line is above both “refer all” "
            "(dashed) and zero, which is “refer none”."
        ),
        figure(panels, _about_decisions(assessment, whats), key([model.model for model in assessment.models])),
    )


def _decision_panel(assessment: Assessment, what: str) -> Html:
    curves = [(i, of) for i, model in enumerate(assessment.models) for of in model.decision_curves if of.what == what]
    everybody = curves[0][1]
    top = max([0.01, *(value for _, of in curves for value in of.model)])
    lines = [
        Series(series=None, x=everybody.thresholds, y=tuple(max(y, -1.0) for y in everybody.treat_all), label="all"),
        Series(series=None, x=everybody.thresholds, y=(0.0,) * len(everybody.thresholds), label="none"),
        *(Series(series=i, x=of.thresholds, y=of.model) for i, of in curves),
    ]
    frame = Frame(title=what, x_label="threshold probability", y_label="net benefit", y_ends=(-0.15 * top, 1.1 * top))
    return lines_chart(lines, frame, f"Net benefit over the threshold probability, {what}. {_gain(curves, what)}")


def _about_decisions(assessment: Assessment, whats: Sequence[str]) -> str:
    sentences = []
    for what in whats:
        curves = [
            (i, of) for i, model in enumerate(assessment.models) for of in model.decision_curves if of.what == what
        ]
        sentences.append(_gain(curves, what))
    return " ".join(sentences)


def _gain(curves: Sequence[tuple[int, DecisionCurve]], what: str) -> str:
    """Where every model does better than both simple rules, in a sentence."""
    thresholds = [
        threshold
        for place, threshold in enumerate(curves[0][1].thresholds)
        if all(place < len(of.model) and of.model[place] > max(0.0, of.treat_all[place]) for _, of in curves)
    ]
    who = "The model does" if len(curves) == 1 else "All models do"
    if not thresholds:
        nobody = "The model does" if len(curves) == 1 else "Not all models do"
        return f"{what}: {nobody} {'not ' if len(curves) == 1 else ''}better than both simple rules at any threshold."
    return (
        f"{what}: {who} better than both simple rules at thresholds from {percent(min(thresholds))} to "
        f"{percent(max(thresholds))}."
    )


def deferral_section(assessment: Assessment) -> Html:
    """What is gained by leaving the least certain photographs to people."""
    title = "What if uncertain photographs go to people?"
    curves = [model.risk_coverage for model in assessment.models]
    if not any(curve.coverages for curve in curves):
        return section("deferral", title, missing("There are too few photographs to sort them by certainty."))
    panels = [
        _deferral_panel("Kappa of the photographs kept", "kappa", curves, [of.kappas for of in curves]),
        _deferral_panel("Share graded right", "accuracy", curves, [of.accuracies for of in curves]),
        _deferral_panel("Share off by two grades or more", "share", curves, [of.off_by_two for of in curves]),
    ]
    return section(
        "deferral",
        title,
        paragraph(
            "From right to left, ever more of the least certain photographs are left to people and only the rest is "
            "scored. A model that knows when it does not know gets better towards the left; one whose line is flat or "
            "falls is no judge of itself. Kappa may fall although accuracy rises, when mostly easy healthy eyes remain."
        ),
        figure(panels, _about_deferral(assessment), key([model.model for model in assessment.models])),
    )


def _deferral_panel(
    title: str, y_label: str, curves: Sequence[RiskCoverage], values: Sequence[Sequence[float | None]]
) -> Html:
    lines = []
    for i, (curve, scores) in enumerate(zip(curves, values, strict=True)):
        points = sorted(zip(curve.coverages, scores, strict=True), key=lambda point: point[0])
        lines.append(Series(series=i, x=tuple(x for x, _ in points), y=tuple(y for _, y in points)))
    lowest = min((x for line in lines for x in line.x), default=0.0)
    frame = Frame(title=title, x_label="share of photographs kept", y_label=y_label, x_ends=(min(lowest, 0.98), 1.0))
    return lines_chart(lines, frame, f"{title}, by the share of photographs that the model keeps.")


def _about_deferral(assessment: Assessment) -> str:
    sentences = []
    for name, model in zip(named(assessment), assessment.models, strict=True):
        curve = sorted(zip(model.risk_coverage.coverages, model.risk_coverage.accuracies, strict=True))
        if curve:
            kept, right = min(curve, key=lambda point: abs(point[0] - 0.8))
            sentences.append(
                f"{name} is right on {percent(curve[-1][1])} of all photographs, and on {percent(right)} when the "
                f"{percent(1 - kept)} it is least certain of are left to people."
            )
    return " ".join(sentences)


def sets_section(assessment: Assessment) -> Html:
    """Sets of grades that hold the true one with a promised frequency."""
    title = "Sets of grades with a promise"
    if not any(model.set_coverage for model in assessment.models):
        return section("sets", title, missing(_why_no_sets(assessment)))
    grades = list(dict.fromkeys(of.grade for model in assessment.models for of in model.set_coverage))
    found = [{of.grade: of for of in model.set_coverage} for model in assessment.models]
    return section(
        "sets",
        title,
        paragraph(
            "Instead of one grade a model can name neighboring grades, such as “mild or moderate”, wide enough that "
            f"{percent(assessment.coverage)} of the sets hold the true grade (conformal prediction, tuned on "
            "validation). The promise holds over all photographs together. It may be broken for a rare grade: look at "
            "the lowest row. The smaller the sets, the more they say."
        ),
        figure(
            [_sets_chart(assessment, grades, found)],
            _about_sets(assessment),
            key([model.model for model in assessment.models]),
        ),
        folded("Coverage and size of the sets in numbers", *_sets_tables(assessment, grades)),
    )


def _why_no_sets(assessment: Assessment) -> str:
    if not any(model.num_validation for model in assessment.models):
        return (
            "There are no validation photographs among the predictions, and sets of grades can only be tuned on those."
        )
    return "Sets of grades were not computed for these predictions."


def _sets_chart(
    assessment: Assessment, grades: Sequence[int | None], found: Sequence[dict[int | None, SetCoverage]]
) -> Html:
    rows = [
        DotRow(label=_grade_name(grade), dots=tuple(of[grade].covered for of in found if grade in of))
        for grade in grades
    ]
    frame = Frame(title="Sets that hold the true grade", x_label="share of photographs, 95 % interval")
    words = f"Share of sets that hold the true grade; the dashed line is the aim, {percent(assessment.coverage)}."
    return dots_chart(rows, frame, words, reference=assessment.coverage)


def _sets_tables(assessment: Assessment, grades: Sequence[int | None]) -> list[Html]:
    columns = ["true grade", "photographs", "sets that hold it", "mean number of grades"]
    tables = []
    for name, model in zip(named(assessment), assessment.models, strict=True):
        rows = [
            [_grade_name(of.grade), count(of.num_photographs), estimate(of.covered), number(of.mean_size, 2)]
            for of in model.set_coverage
        ]
        tables.append(table(f"{name}: sets of grades", columns, rows))
    return tables


def _grade_name(grade: int | None) -> str:
    return "all photographs" if grade is None else f"{grade} {GRADE_LABELS[grade]}"


def _about_sets(assessment: Assessment) -> str:
    return " ".join(
        _about_sets_of(name, model) for name, model in zip(named(assessment), assessment.models, strict=True)
    )


def _about_sets_of(name: str, model: ModelAssessment) -> str:
    defined = [of for of in model.set_coverage if of.covered.value is not None]
    whole = next((of for of in defined if of.grade is None), None)
    if whole is None or not defined:
        return f"{name}: coverage is undefined."
    lowest = min(defined, key=lambda of: of.covered.value or 0.0)
    return (
        f"{name}: {percent(whole.covered.value)} of the sets hold the true grade, with {number(whole.mean_size, 1)} "
        f"grades on average; lowest for {_grade_name(lowest.grade)} ({percent(lowest.covered.value)})."
    )
