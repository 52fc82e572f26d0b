"""Scores, audits and exports as tables for the terminal, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from fundusgrade import __version__
from fundusgrade.evaluation.assessment import Assessment, ModelAssessment
from fundusgrade.evaluation.audit import Audit, conclusion
from fundusgrade.evaluation.robustness import InterventionEffect
from fundusgrade.evaluation.screening import EVERYONE, Screening
from fundusgrade.files import write_atomically
from fundusgrade.grades import GRADE_LABELS, REFERABLE_FROM, RESEARCH_USE, Grade
from fundusgrade.metrics.estimates import describe_number
from fundusgrade.metrics.predictions import PredictionSet, write_predictions
from fundusgrade.metrics.score_keys import BINARY_DECISIONS, F1_KEYS, WITHIN_ACQUISITION_KEYS, ScoreKey
from fundusgrade.reports.figures import ModelEvaluation, draw_audit, draw_confusion_matrices
from fundusgrade.text import printable

if TYPE_CHECKING:
    from fundusgrade.evaluation.shortcuts import ShortcutProbe
    from fundusgrade.networks.export_check import ExportCheck

# Scores of all photographs; those of one grade, or of a binary decision, follow them in sections of their own.
_OVERALL = (
    ScoreKey.KAPPA,
    ScoreKey.KAPPA_WITHIN_ACQUISITION,
    ScoreKey.KAPPA_WITHIN_ACQUISITION_BY_GRADE,
    ScoreKey.ACCURACY,
    ScoreKey.COMMONEST_GRADE_ACCURACY,
    ScoreKey.COMMONEST_GRADE_ACCURACY_WITHIN_ACQUISITION,
    ScoreKey.BALANCED_ACCURACY,
    ScoreKey.MACRO_F1,
    ScoreKey.MEAN_ABSOLUTE_ERROR,
    ScoreKey.OFF_BY_TWO,
    ScoreKey.RANKED_PROBABILITY_SCORE,
    ScoreKey.BRIER_SCORE,
    ScoreKey.LOG_LOSS,
    ScoreKey.MACRO_AUC,
)
_REFERABLE = (
    ScoreKey.REFERABLE_AUC_WITHIN_ACQUISITION,
    ScoreKey.REFERABLE_CALIBRATION_SLOPE,
    ScoreKey.REFERABLE_CALIBRATION_INTERCEPT,
)


def scores_table(assessment: Assessment) -> Table:
    """All scores, with their 95 % confidence intervals where one is estimated: one column per model."""
    table = Table("score (95 % CI)", caption=RESEARCH_USE)
    for model in assessment.models:
        # As Text, because square brackets in a name would be read as markup.
        table.add_column(Text(printable(model.model)), justify="right")
    evaluations = [model.evaluation for model in assessment.models]
    _add_row(table, "photographs", [evaluation.num_photographs for evaluation in evaluations])
    _add_scores(table, assessment, _OVERALL)
    _add_calibration_rows(table, assessment)
    for grade, label in enumerate(GRADE_LABELS):
        table.add_section()
        grade_scores = [evaluation.grades[grade] for evaluation in evaluations]
        _add_row(table, f"photographs, {label}", [scores.num_photographs for scores in grade_scores])
        _add_row(table, f"precision, {label}", [scores.precision for scores in grade_scores])
        _add_row(table, f"recall, {label}", [scores.recall for scores in grade_scores])
        _add_scores(table, assessment, [F1_KEYS[grade]])
    for decision in BINARY_DECISIONS:
        table.add_section()
        positives = [
            sum(scores.num_photographs for scores in evaluation.grades[decision.from_grade :])
            for evaluation in evaluations
        ]
        _add_row(table, f"{decision.name} photographs (grade >= {decision.from_grade})", positives)
        _add_scores(table, assessment, [decision.sensitivity, decision.specificity, decision.auc, decision.auc_delong])
        if decision.from_grade == REFERABLE_FROM:
            _add_scores(table, assessment, _REFERABLE)
    return table


def screening_tables(assessment: Assessment) -> list[Table]:
    """Referrals of each model at its operating point: of the gradable and of everyone, by photograph and by patient."""
    return [_screening_table(model.model, model.screening) for model in assessment.models if model.screening]


def _screening_table(model: str, screening: Screening) -> Table:
    columns = ("referable", "others", "ungradable", "sensitivity (95 % CI)", "specificity (95 % CI)")
    table = Table("referral", *columns, "missed severe", "missed proliferative")
    table.title = Text(printable(f"{model}: referable from p = {screening.threshold:.4f} ({screening.reason})"))
    table.caption = "Of everyone: what cannot be graded is referred. Of a patient the worst photograph counts."
    for of in screening.rates:
        missed = [
            f"{of.num_missed[grade]} of {of.num_per_grade[grade]}" for grade in (Grade.SEVERE, Grade.PROLIFERATIVE)
        ]
        counts = (str(of.num_referable), str(of.num_others), str(of.num_ungradable))
        rates = (of.sensitivity.describe(), of.specificity.describe())
        table.add_row(f"{of.unit}, {'everyone' if of.scope == EVERYONE else 'gradable only'}", *counts, *rates, *missed)
    return table


def acquisition_in_words(assessment: Assessment) -> str:
    """How the photographs differ in acquisition, and why scores within it are left out where they are."""
    clusters = assessment.acquisitions
    if not clusters:
        return (
            "Scores within acquisition are left out: it is not known how the photographs were acquired. Prepare the "
            "data set again with `fundusgrade preprocess`."
        )
    if len(clusters) == 1:
        return "All photographs were acquired alike, so scores within acquisition are those overall."
    described = ", ".join(f"{each.num_photographs} ({each.referable_fraction:.0%})" for each in clusters)
    return (
        f"{len(clusters)} clusters of photographs that were acquired alike, with the share of referable ones: "
        f"{described}. Scores within acquisition compare photographs of one cluster only."
    )


def _add_scores(table: Table, assessment: Assessment, keys: Sequence[ScoreKey]) -> None:
    """Rows of scores; those within acquisition are left out where it is not known."""
    for key in keys:
        if assessment.acquisitions or key not in WITHIN_ACQUISITION_KEYS:
            table.add_row(key.label, *(model.score(key).describe() for model in assessment.models))


def _add_calibration_rows(table: Table, assessment: Assessment) -> None:
    for of_all in zip(*(model.reliability for model in assessment.models), strict=True):
        outcome = of_all[0].outcome
        table.add_row(f"calibration error, {outcome}", *(of.calibration_error.describe() for of in of_all))
        _add_row(table, "  if perfectly calibrated (sampling error)", [of.by_chance for of in of_all])


def _add_row(table: Table, name: str, values: Sequence[float | None]) -> None:
    table.add_row(name, *(str(value) if isinstance(value, int) else describe_number(value) for value in values))


def coverage_tables(assessment: Assessment) -> list[Table]:
    """Coverage of each model's prediction sets and upper bounds: of all photographs, then of each grade.

    A table of each model for which they are known.
    """
    return [_coverage_table(model, assessment.coverage) for model in assessment.models if model.set_coverage]


def _coverage_table(model: ModelAssessment, coverage: float) -> Table:
    table = Table(
        *("true grade", "photographs", "sets with the true grade (95 % CI)", "mean set size"),
        *("could be as bad as the true grade (95 % CI)", "mean bound"),
    )
    table.title = Text(printable(f"{model.model}: prediction sets and upper bounds, target {100 * coverage:g} %"))
    for of in model.set_coverage:
        table.add_row(
            "all" if of.grade is None else GRADE_LABELS[of.grade],
            *(str(of.num_photographs), of.covered.describe(), describe_number(of.mean_size, 2)),
            *(of.bound_covered.describe(), describe_number(of.mean_bound, 2)),
        )
    return table


def export_table(check: ExportCheck) -> Table:
    """An exported graph beside its original, on the same photographs and one core."""
    table = Table("runtime", "kappa", "kappa lost", "ms per photograph", "MB", caption=RESEARCH_USE)
    table.title = Text(printable(f"{check.num_photographs} photographs of {check.data}, {check.split}"))
    for runtime in (check.reference, check.usual, check.export):
        defined = runtime.kappa is not None and check.reference.kappa is not None
        lost = f"{(check.reference.kappa or 0.0) - (runtime.kappa or 0.0):+.4f}" if defined else "undefined"
        speed, size = f"{runtime.ms_per_image:.2f}", f"{runtime.size_mb:.1f}"
        table.add_row(runtime.arithmetic, describe_number(runtime.kappa, 4), lost, speed, size)
    table.add_section()
    table.add_row("kappa between export and float32", describe_number(check.agreement, 4))
    table.add_row("grades that differ", str(check.num_changed))
    table.add_row("largest change of a probability", f"{check.max_probability_change:.2g}")
    return table


def shortcuts_table(probes: Sequence[ShortcutProbe]) -> Table:
    """How well each kind of property predicts the grade."""
    table = Table("predicted from", "stage", "kappa (95 % CI)", "accuracy", "referable AUC")
    table.caption = "Color and sharpness also depend on the contrast of lesions: no proof of a shortcut."
    for probe in probes:
        scores = (
            probe.kappa_estimate.describe(),
            describe_number(probe.accuracy),
            describe_number(probe.referable_auc),
        )
        table.add_row(probe.kind, probe.stage, *scores)
    return table


def interventions_table(effects: Sequence[InterventionEffect], *, model: str) -> Table:
    """Changes of a model's expected grade by each intervention on the photographs."""
    table = Table("intervention", "role", "photographs", "mean change (95 % CI)", "shift (95 % CI)")
    for column in ("95th percentile", "grade changes", "change by the outline alone"):
        table.add_column(column)
    table.caption = "Shift: mean signed change, above 0 towards disease. Outline alone: a classifier known to use cuts."
    table.title = Text(printable(f"{model}: change of the expected grade, 0-4"))
    for effect in effects:
        changed = "undefined" if effect.flip_fraction is None else f"{effect.flip_fraction:.1%}"
        lost = f" ({effect.num_lost} without a retina)" if effect.num_lost else ""
        estimates = (effect.change.describe(), effect.shift.describe())
        outline = "" if effect.outline_change.value is None else effect.outline_change.describe()
        numbers = (*estimates, describe_number(effect.percentile_95), changed, outline)
        table.add_row(effect.name, effect.role, f"{effect.num_photographs}{lost}", *numbers)
    return table


def unseen_lesions_table(audit: Audit) -> Table:
    """Lesions outside of what networks see, by kind."""
    table = Table("lesions", "photographs", "number", "number outside", "area outside")
    subject = audit.model or f"a model of {audit.data}"
    table.title = Text(printable(f"lesions outside of what {subject} sees"))
    for lesions in audit.unseen_lesions:
        fractions = [
            "undefined" if value is None else f"{value:.1%}" for value in (lesions.unseen_lesions, lesions.unseen_area)
        ]
        table.add_row(lesions.kind, str(lesions.num_photographs), str(lesions.num_lesions), *fractions)
    return table


def audit_tables(audits: Sequence[Audit]) -> list[Table]:
    """The shortcuts of the data set, then for each model the effects of interventions and the lesions it cannot see."""
    tables = [shortcuts_table(audits[0].probes)]
    for audit in audits:
        if audit.model is not None:
            tables.append(interventions_table(audit.effects, model=audit.model))
        if audit.unseen_lesions:
            tables.append(unseen_lesions_table(audit))
    return tables


def audit_files(folder: Path) -> tuple[Path, Path]:
    """The files that `write_audit` writes."""
    return folder / "audit.json", folder / "audit.png"


def write_audit(audit: Audit, folder: Path) -> None:
    """Write audit.json and audit.png into a folder, which is made. Raises StoreError where it cannot be."""
    content = {"fundusgrade": __version__, **asdict(audit), "conclusion": conclusion(audit)}
    file, figure = audit_files(folder)
    write_atomically(file, json.dumps(content, indent=2, allow_nan=False) + "\n")
    draw_audit(audit, figure)


def comparisons_table(assessment: Assessment) -> Table:
    """Every pair of models: differences on the same photographs with intervals, and p-values corrected by Holm."""
    table = Table(
        *("first - second", "kappa (95 % CI)", "p", "kappa within acquisition", "accuracy (95 % CI)", "p (McNemar)"),
        *("correct only by first, second", "kappa between them"),
    )
    for pair in assessment.comparisons:
        table.add_row(
            Text(printable(f"{pair.first} - {pair.second}")),
            *(pair.kappa_difference.describe(), pair.describe_p(pair.kappa_p)),
            pair.kappa_difference_within_acquisition.describe(),
            *(pair.accuracy_difference.describe(), pair.describe_p(pair.mcnemar_p)),
            *(f"{pair.num_first_only}, {pair.num_second_only}", describe_number(pair.agreement_kappa)),
        )
    return table


def evaluation_json(assessment: Assessment, leakage: Mapping[str, str]) -> str:
    """The assessment as indented JSON, with the leakage of each model as "seen"; undefined scores are null."""
    return json.dumps(
        {"fundusgrade": __version__, **asdict(assessment), "seen": dict(leakage)}, indent=2, allow_nan=False
    )


def evaluation_files(folder: Path, model_names: Sequence[str]) -> list[Path]:
    """The files that `write_evaluation` writes for models of these names: the predictions come last, in this order."""
    predictions = [folder / f"predictions-{name}.csv" for name in model_names]
    return [folder / "evaluation.json", folder / "confusion.png", *predictions]


def write_evaluation(assessment: Assessment, sets: Sequence[PredictionSet], folder: Path) -> None:
    """Write evaluation.json, confusion.png and each model's predictions into a folder, which is made.

    Raises StoreError where they cannot be written.
    """
    leakage = {predictions.model: predictions.leakage for predictions in sets}
    file, figure, *tables = evaluation_files(folder, [predictions.model for predictions in sets])
    write_atomically(file, evaluation_json(assessment, leakage) + "\n")
    for predictions, table in zip(sets, tables, strict=True):
        write_predictions(predictions, table)
    evaluations = [ModelEvaluation(model=model.model, evaluation=model.evaluation) for model in assessment.models]
    draw_confusion_matrices(evaluations, figure)
