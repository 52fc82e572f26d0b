"""What people take away in words and numbers: predictions as CSV, scores as a table and JSON, lists of the store."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from fundusgrade.evaluation.assessment import Assessment
from fundusgrade.evaluation.audit import Audit, InterventionEffect, conclusion
from fundusgrade.files import write_atomically
from fundusgrade.grades import GRADE_LABELS, REFERABLE_FROM, RESEARCH_USE, SIGHT_THREATENING_FROM, Grade, Prediction
from fundusgrade.metrics.comparison import p_value
from fundusgrade.metrics.estimates import describe_number
from fundusgrade.metrics.predictions import PredictionSet, write_predictions
from fundusgrade.metrics.score_keys import ScoreKey
from fundusgrade.reports.figures import ModelEvaluation, draw_audit, draw_confusion_matrices
from fundusgrade.store import StoredDataset, StoredModel
from fundusgrade.text import printable

if TYPE_CHECKING:
    from fundusgrade.data.dataset import PreparedDataset
    from fundusgrade.data.manifest import ManifestRow
    from fundusgrade.evaluation.shortcuts import ShortcutProbe
    from fundusgrade.metrics.classification import BinaryScores, GradeScores
    from fundusgrade.networks.export_check import ExportCheck


def evaluation_table(evaluations: Sequence[ModelEvaluation]) -> Table:
    """All scores for the terminal: one column per model."""
    table = Table("", caption=RESEARCH_USE)
    for evaluation in evaluations:
        # As Text, because square brackets in a name would be read as markup.
        table.add_column(Text(printable(evaluation.model)), justify="right")
    scores = [evaluation.evaluation for evaluation in evaluations]
    _add_row(table, "Photographs", [of.num_photographs for of in scores])
    _add_row(table, "Quadratic weighted kappa", [of.kappa for of in scores])
    _add_row(table, "Accuracy", [of.accuracy for of in scores])
    _add_row(table, "Balanced accuracy", [of.balanced_accuracy for of in scores])
    _add_row(table, "Mean F1 of the grades", [of.macro_f1 for of in scores])
    _add_row(table, "Mean absolute error, grades", [of.mean_absolute_error for of in scores])
    for grade, label in enumerate(GRADE_LABELS):
        _add_grade_rows(table, f"{grade} {label}", [of.grades[grade] for of in scores])
    _add_binary_rows(table, f"Referable (>= {REFERABLE_FROM:d})", [of.referable for of in scores])
    threatening = f"Sight-threatening (>= {SIGHT_THREATENING_FROM:d})"
    _add_binary_rows(table, threatening, [of.sight_threatening for of in scores])
    return table


def _add_grade_rows(table: Table, label: str, scores: Sequence[GradeScores]) -> None:
    table.add_section()
    _add_row(table, f"{label}: photographs", [of.num_photographs for of in scores])
    _add_row(table, f"{label}: precision", [of.precision for of in scores])
    _add_row(table, f"{label}: recall", [of.recall for of in scores])
    _add_row(table, f"{label}: F1", [of.f1 for of in scores])


def _add_binary_rows(table: Table, label: str, scores: Sequence[BinaryScores]) -> None:
    table.add_section()
    _add_row(table, f"{label}: photographs", [of.num_positive for of in scores])
    _add_row(table, f"{label}: sensitivity", [of.sensitivity for of in scores])
    _add_row(table, f"{label}: specificity", [of.specificity for of in scores])
    _add_row(table, f"{label}: AUC", [of.auc for of in scores])


def _add_row(table: Table, name: str, values: Sequence[float | None]) -> None:
    table.add_row(name, *(number(value) for value in values))


def number(value: float | None) -> str:
    """A score with three decimals, a count as it is, and "undefined" for None."""
    return str(value) if isinstance(value, int) else describe_number(value)


def export_table(check: ExportCheck) -> Table:
    """An exported graph beside its original, on the same photographs and one core."""
    table = Table("computed by", "kappa", "loss", "ms a photograph", "MB", caption=RESEARCH_USE)
    table.title = Text(printable(f"{check.num_photographs} photographs of {check.data}, {check.split}"))
    for graded in (check.reference, check.usual, check.export):
        both = graded.kappa is not None and check.reference.kappa is not None
        loss = f"{(check.reference.kappa or 0.0) - (graded.kappa or 0.0):+.4f}" if both else "undefined"
        speed, size = f"{graded.ms_per_image:.2f}", f"{graded.size_mb:.1f}"
        table.add_row(
            graded.arithmetic, "undefined" if graded.kappa is None else f"{graded.kappa:.4f}", loss, speed, size
        )
    table.add_section()
    agreement = "undefined" if check.agreement is None else f"{check.agreement:.4f}"
    table.add_row("kappa between export and float32", agreement)
    table.add_row("grades that differ", str(check.num_changed))
    table.add_row("largest change of a probability", f"{check.max_probability_change:.2g}")
    return table


def shortcuts_table(probes: Sequence[ShortcutProbe]) -> Table:
    """What each kind of property tells of the grade without any retina."""
    table = Table("what alone is known", "of", "kappa", "95 % interval", "accuracy", "referable AUC")
    for probe in probes:
        scores = (
            number(probe.kappa),
            probe.kappa_estimate.describe_interval(),
            number(probe.accuracy),
            number(probe.referable_auc),
        )
        table.add_row(probe.kind, probe.stage, *scores)
    return table


def interventions_table(effects: Sequence[InterventionEffect], *, model: str) -> Table:
    """How far a model's expected grade moves under each change of the photographs."""
    table = Table("change", "photographs", "mean move of the grade", "95 % interval", "95th percentile", "grade flips")
    table.title = Text(printable(f"{model}, expected grade 0-4"))
    for effect in effects:
        flips = "undefined" if effect.flip_fraction is None else f"{effect.flip_fraction:.1%}"
        lost = f" ({effect.num_lost} lost)" if effect.num_lost else ""
        numbers = (
            number(effect.mean_change),
            effect.mean_estimate.describe_interval(),
            number(effect.percentile_95),
            flips,
        )
        table.add_row(effect.name, f"{effect.num_photographs}{lost}", *numbers)
    return table


def write_audit(audit: Audit, folder: Path) -> None:
    """Write audit.json and audit.png into a folder, which is made. Raises StoreError where it cannot be."""
    content = {**asdict(audit), "conclusion": conclusion(audit)}
    store_text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_atomically(folder / "audit.json", store_text)
    draw_audit(audit, folder / "audit.png")


def scores_table(assessment: Assessment) -> Table:
    """Every score with its 95 % interval for the terminal: one column per model."""
    table = Table("score (95 % interval)", caption=RESEARCH_USE)
    for model in assessment.models:
        table.add_column(Text(printable(model.model)), justify="right")
    for key in ScoreKey:
        table.add_row(key.label, *(model.score(key).describe() for model in assessment.models))
    for place, reliability in enumerate(assessment.models[0].reliability):
        found = [model.reliability[place] for model in assessment.models]
        table.add_row(f"calibration error, {reliability.what}", *(of.calibration_error.describe() for of in found))
        table.add_row("  expected if perfectly calibrated", *(number(of.by_chance) for of in found))
    return table


def comparisons_table(assessment: Assessment) -> Table:
    """Every pair of models: differences on the same photographs with intervals, and p-values corrected by Holm."""
    table = Table("models", "kappa", "p", "accuracy", "p (McNemar)", "right only by first, second", "kappa between")
    for pair in assessment.comparisons:
        table.add_row(
            Text(printable(f"{pair.first} - {pair.second}")),
            *(pair.kappa_difference.describe(), p_value(pair.kappa_p)),
            *(pair.accuracy_difference.describe(), p_value(pair.mcnemar_p)),
            *(f"{pair.num_first_only}, {pair.num_second_only}", number(pair.agreement_kappa)),
        )
    return table


def evaluation_json(assessment: Assessment, leakage: Mapping[str, str]) -> str:
    """The assessment as indented JSON, with the leakage of each model as "seen"; undefined scores are null."""
    return json.dumps({**asdict(assessment), "seen": dict(leakage)}, indent=2, allow_nan=False)


def dataset_summary(dataset: PreparedDataset) -> str:
    """What preprocessing made, in a few lines of plain text, with the reasons of failures counted."""
    usable = [row for row in dataset.rows if row.error is None]
    per_grade = Counter(row.grade for row in usable)
    per_split = Counter(row.split for row in usable if row.split)
    lines = [
        f"data set {dataset.name}: {len(usable)} of {len(dataset.rows)} photographs ready in {dataset.directory}",
        "grades: " + ", ".join(f"{int(grade)}: {per_grade[grade]}" for grade in Grade),
        "splits: " + ", ".join(f"{split}: {count}" for split, count in sorted(per_split.items())),
        f"copies with conflicting grades: {sum(row.conflict for row in dataset.rows)} photographs",
        _quality_summary(usable),
    ]
    for reason, count in Counter(row.error for row in dataset.rows if row.error).most_common(10):
        lines.append(f"not ready, {count}: {reason}")
    return printable("\n".join(lines))


def _quality_summary(rows: Sequence[ManifestRow]) -> str:
    flagged = [row.quality.reasons for row in rows if row.quality is not None and not row.quality.gradable]
    counts = Counter(reason for reasons in flagged for reason in reasons)
    named = ", ".join(f"{reason}: {count}" for reason, count in counts.most_common())
    return f"doubtful quality: {len(flagged)} photographs" + (f" ({named})" if named else "")


def prediction_line(prediction: Prediction) -> str:
    """One line for people: photograph, model, grade, probability."""
    grade = prediction.grade
    return printable(
        f"{prediction.image}: grade {int(grade)} {grade.label}, p = {prediction.probabilities[grade]:.2f}, "
        f"referable {prediction.referable_probability:.2f} ({prediction.model})"
        + ("" if prediction.gradable else f"; doubtful quality: {', '.join(prediction.quality_reasons)}")
    )


def write_evaluation(assessment: Assessment, sets: Sequence[PredictionSet], folder: Path) -> None:
    """Write evaluation.json, confusion.png and each model's predictions into a folder, which is made.

    Raises StoreError where they cannot be written.
    """
    leakage = {predictions.model: predictions.leakage for predictions in sets}
    write_atomically(folder / "evaluation.json", evaluation_json(assessment, leakage) + "\n")
    for predictions in sets:
        write_predictions(predictions, folder / f"predictions-{predictions.model}.csv")
    draw_confusion_matrices(model_evaluations(assessment), folder / "confusion.png")


def model_evaluations(assessment: Assessment) -> list[ModelEvaluation]:
    """The plain scores of each model, for the table and the figure of confusion matrices."""
    return [ModelEvaluation(model=each.model, evaluation=each.evaluation) for each in assessment.models]


def models_table(models: Sequence[StoredModel], *, default: str) -> Table:
    """The models by name; the one used when none is named is marked."""
    table = Table("model", "architecture", "validation kappa", "created", "MB", "hash", "where")
    for model in models:
        name = Text(printable(model.name) + (" (default)" if model.name == default else ""))
        where = "shipped" if model.shipped else "store"
        size = f"{model.size_bytes / 1e6:.1f}"
        table.add_row(name, model.arch, number(model.kappa), model.created, size, model.hash[:12], where)
    return table


def datasets_table(datasets: Sequence[StoredDataset]) -> Table:
    """The prepared data sets by name."""
    table = Table("data set", "photographs", "created", "MB", "hash")
    for dataset in datasets:
        size = f"{dataset.size_bytes / 1e6:.1f}"
        table.add_row(
            Text(printable(dataset.name)), str(dataset.num_photographs), dataset.created, size, dataset.hash[:12]
        )
    return table
