"""The parts of a report that compare: models with each other, and a model's photographs with themselves changed."""

from __future__ import annotations

from collections.abc import Sequence

from fundusgrade.evaluation.assessment import Assessment
from fundusgrade.evaluation.audit import Audit, InterventionEffect
from fundusgrade.grades import GRADE_LABELS
from fundusgrade.metrics.bootstrap import Estimate
from fundusgrade.metrics.comparison import Disagreement, PairedComparison, p_value
from fundusgrade.reports.html.charts import DotRow, Frame, dots_chart, letter
from fundusgrade.reports.html.context import ReportContext
from fundusgrade.reports.html.markup import (
    Html,
    count,
    estimate,
    figure,
    folded,
    interval,
    number,
    paragraph,
    percent,
    section,
    table,
)
from fundusgrade.reports.html.score_sections import matrix_table, missing

_SIGNIFICANT = 0.05


def comparisons_section(assessment: Assessment) -> Html:
    """Whether one model is better than another on the same photographs."""
    title = "Models compared"
    if not assessment.comparisons:
        one = len(assessment.models) < 2
        reason = "There is only one model, so there is nothing to compare." if one else "The models were not compared."
        return section("comparisons", title, missing(reason))
    rows = [DotRow(label=_pair(assessment, each), dots=(each.kappa_difference,)) for each in assessment.comparisons]
    frame = Frame(title="Difference of kappa, first minus second", x_label="difference, 95 % interval")
    words = "Differences of kappa between pairs of models with 95 % intervals; the dashed line is no difference."
    return section(
        "comparisons",
        title,
        paragraph(
            "Both models of a pair grade the same photographs, so their difference is known better than either score. "
            "Right of zero the first is better. The p-value says how often chance alone would make such a difference; "
            "it is corrected by Holm for the number of pairs, and above 0.05 a difference should not be called one. A "
            "significant difference may still be too small to matter."
        ),
        figure([dots_chart(rows, frame, words, reference=0.0, digits=3)], verdicts(assessment)),
        _comparison_table(assessment),
        *(_pair_details(assessment, each) for each in assessment.comparisons),
    )


def verdicts(assessment: Assessment) -> str:
    """What each comparison of kappas comes to, in sentences."""
    return " ".join(_verdict(assessment, each) for each in assessment.comparisons)


def _verdict(assessment: Assessment, of: PairedComparison) -> str:
    value = of.kappa_difference.value
    if value is None:
        return f"{_pair(assessment, of)}: the difference is undefined."
    better, worse = (of.first, of.second) if value > 0 else (of.second, of.first)
    if of.kappa_p is not None and of.kappa_p < _SIGNIFICANT:
        return (
            f"{_named(assessment, better)} agrees better with the graders than {_named(assessment, worse)} "
            f"(by {number(abs(value))}, p {p_value(of.kappa_p)})."
        )
    return (
        f"{_named(assessment, of.first)} and {_named(assessment, of.second)} cannot be told apart by kappa on these "
        f"photographs (p {p_value(of.kappa_p)})."
    )


def _named(assessment: Assessment, name: str) -> str:
    names = [model.model for model in assessment.models]
    return f"{letter(names.index(name))} {name}" if name in names else name


def _pair(assessment: Assessment, of: PairedComparison) -> str:
    return f"{_named(assessment, of.first)} − {_named(assessment, of.second)}"


def _comparison_table(assessment: Assessment) -> Html:
    columns = ["", *(_pair(assessment, each) for each in assessment.comparisons)]
    pairs = assessment.comparisons
    rows = [
        ["difference of kappa", *(estimate(of.kappa_difference) for of in pairs)],
        ["p (bootstrap)", *(p_value(of.kappa_p) for of in pairs)],
        ["difference of accuracy", *(estimate(of.accuracy_difference) for of in pairs)],
        ["only the first is right", *(count(of.num_first_only) for of in pairs)],
        ["only the second is right", *(count(of.num_second_only) for of in pairs)],
        ["p (McNemar)", *(p_value(of.mcnemar_p) for of in pairs)],
        ["difference of referable AUC", *(estimate(of.auc_difference) for of in pairs)],
        ["p (DeLong)", *(p_value(of.auc_p) for of in pairs)],
        ["kappa between the two models", *(number(of.agreement_kappa) for of in pairs)],
    ]
    return table("Pairs of models on the same photographs; p-values after Holm's correction", columns, rows)


def _pair_details(assessment: Assessment, of: PairedComparison) -> Html:
    first, second = _named(assessment, of.first), _named(assessment, of.second)
    matrix = matrix_table(f"Photographs by the grade of {first} (rows) and of {second} (columns)", of.agreement)
    if not of.disagreements:
        listed = missing("No photographs are listed on which the two differ most.")
    else:
        listed = table(
            "Photographs on which the two differ most",
            ["photograph", "graders", first, second],
            [_disagreement_row(each) for each in of.disagreements],
            words=True,
        )
    return folded(f"Where {first} and {second} differ", matrix, listed)


def _disagreement_row(of: Disagreement) -> list[str]:
    return [of.source, *(f"{grade} {GRADE_LABELS[grade]}" for grade in (of.grade, of.first, of.second))]


def audit_section(context: ReportContext) -> Html:
    """What gives the grade away without a retina, and what a model minds."""
    title = "Shortcut audit"
    if not context.audits:
        return section(
            "audit",
            title,
            missing(
                "Not run. Whether the grade can be told from the camera or the file instead of the retina is not "
                "known. To find out, make the report again with --audit."
            ),
        )
    return section(
        "audit",
        title,
        paragraph(
            "First question: what tells the grade without any retina? A kappa near 0 is good news; a high one means "
            "that a model can score well on this data set and fail at the next clinic. Second: how far does the grade "
            "move when only the way of taking the photograph changes? It should move much more when lesions are "
            "covered."
        ),
        paragraph(context.conclusion or "No conclusion was drawn."),
        _audit_charts(context.audits),
        folded("The audit in numbers", *_audit_tables(context.audits)),
    )


def _audit_charts(audits: Sequence[Audit]) -> Html:
    """The data first, then each model whose photographs were changed."""
    panels = []
    if audits[0].probes:
        rows = [
            DotRow(
                label=f"{of.kind} ({of.stage})", dots=(Estimate(value=of.kappa, low=of.kappa_low, high=of.kappa_high),)
            )
            for of in audits[0].probes
        ]
        frame = Frame(title="What tells the grade without a retina", x_label="kappa, 95 % interval")
        panels.append(dots_chart(rows, frame, "Kappa of the grade told without any retina.", reference=0.0))
    for audit in (each for each in audits if each.effects):
        moves = [DotRow(label=of.name, dots=(_move(of),)) for of in audit.effects]
        frame = Frame(title=f"How far {audit.model} moves", x_label="mean change of the expected grade, 0-4")
        panels.append(dots_chart(moves, frame, f"Mean move of {audit.model} under each change.", reference=0.0))
    if not panels:
        return missing("The audit holds no measurements.")
    return figure(panels, "First what gives the grade away, then what each model minds." if len(panels) > 1 else "")


def _move(of: InterventionEffect) -> Estimate:
    return Estimate(value=of.mean_change, low=of.mean_low, high=of.mean_high)


def _audit_tables(audits: Sequence[Audit]) -> list[Html]:
    probes = [
        [
            f"{of.kind} ({of.stage})",
            count(of.num_photographs),
            estimate(Estimate(value=of.kappa, low=of.kappa_low, high=of.kappa_high)),
            number(of.accuracy),
            number(of.referable_auc),
        ]
        for of in audits[0].probes
    ]
    known = ["what alone is known", "photographs", "kappa", "accuracy", "referable AUC"]
    tables = [table("The grade told without any retina", known, probes)] if probes else []
    return tables + [_effects_table(audit) for audit in audits if audit.effects]


def _effects_table(audit: Audit) -> Html:
    effects = [
        [
            of.name,
            count(of.num_photographs),
            number(of.mean_change),
            interval(_move(of)),
            number(of.percentile_95),
            percent(of.flip_fraction, 1),
        ]
        for of in audit.effects
    ]
    changes = ["change", "photographs", "mean move", "95 % interval", "95th percentile", "grade flips"]
    return table(f"Moves of the expected grade of {audit.model}", changes, effects)
