"""Scores of each data set, and of each decision rule, as tables for the terminal: one of each model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.table import Table
from rich.text import Text

from fundusgrade.evaluation.assessment import Assessment, ModelAssessment
from fundusgrade.evaluation.sources import SourceScores
from fundusgrade.metrics.estimates import Estimate, describe_number
from fundusgrade.metrics.operating_points import MeasuredPoint
from fundusgrade.metrics.score_keys import BINARY_DECISIONS, F1_KEYS, ScoreKey
from fundusgrade.text import printable

RULE_KEYS = (ScoreKey.KAPPA, ScoreKey.ACCURACY, ScoreKey.MACRO_F1, *F1_KEYS)
"""Scores by which decision rules are compared."""

_KEYS = (
    *(ScoreKey.KAPPA, ScoreKey.ACCURACY, ScoreKey.COMMONEST_GRADE_ACCURACY, ScoreKey.MACRO_F1, *F1_KEYS),
    *(key for decision in BINARY_DECISIONS for key in (decision.auc, decision.sensitivity, decision.specificity)),
)
_AIMS = ("sensitivity 0.90", "specificity 0.90")


def source_tables(assessment: Assessment) -> list[Table]:
    """The scores of each data set beside one another, with their mean; none where all photographs are of one."""
    return [_source_table(model, assessment) for model in assessment.models if model.sources]


def _source_table(model: ModelAssessment, assessment: Assessment) -> Table:
    table = Table("score (95 % CI)")
    table.title = Text(printable(f"{model.model}: each data set"))
    for source in model.sources:
        table.add_column(Text(printable(source.name)), justify="right")
    table.add_column("mean", justify="right")
    table.add_row("photographs", *(str(source.num_photographs) for source in model.sources), "")
    within = (ScoreKey.KAPPA_WITHIN_ACQUISITION, ScoreKey.REFERABLE_AUC_WITHIN_ACQUISITION)
    for key in (*_KEYS, *(within if assessment.acquisitions else ())):
        _add_estimates(table, key.label, [source.score(key) for source in model.sources])
    for aim in _AIMS:
        points = [_point(source, aim) for source in model.sources]
        if all(point is not None for point in points):
            name = f"referable, threshold for {aim}"
            _add_estimates(table, f"{name}: sensitivity", [point.sensitivity for point in points if point])
            _add_estimates(table, f"{name}: specificity", [point.specificity for point in points if point])
    return table


def _point(source: SourceScores, aim: str) -> MeasuredPoint | None:
    found = (point for point in source.operating_points if (point.decision, point.aim) == ("referable", aim))
    return next(found, None)


def _add_estimates(table: Table, name: str, estimates: Sequence[Estimate]) -> None:
    values = [estimate.value for estimate in estimates if estimate.value is not None]
    mean = float(np.mean(values)) if len(values) == len(estimates) else None
    table.add_row(name, *(estimate.describe() for estimate in estimates), describe_number(mean))


def rules_tables(assessment: Assessment) -> list[Table]:
    """The scores of each decision rule beside one another; none where predictions are not of two or more folds."""
    return [_rules_table(model) for model in assessment.models if model.rules]


def _rules_table(model: ModelAssessment) -> Table:
    caption = "The thresholds of each fold are fitted to the out-of-fold predictions of the other folds."
    table = Table("score (95 % CI)", caption=caption)
    table.title = Text(printable(f"{model.model}: decision rules"))
    for rule in model.rules:
        table.add_column(rule.rule if not rule.thresholds else f"thresholds, {rule.rule}", justify="right")
    for key in RULE_KEYS:
        table.add_row(key.label, *(rule.score(key).describe() for rule in model.rules))
    listed = [", ".join(f"{each:.2f}" for each in rule.thresholds) or "-" for rule in model.rules]
    table.add_row("thresholds of the expected grade, mean", *listed)
    return table
