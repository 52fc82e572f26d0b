"""Tables of data sets and of decision rules show every score with its interval, a column of each."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from fundusgrade.evaluation.assessment import assess
from fundusgrade.metrics.score_keys import F1_KEYS, ScoreKey
from fundusgrade.reports.source_tables import RULE_KEYS, rules_tables, source_tables
from tests.scored import draw_photographs, prediction_set

TEST = replace(draw_photographs(150, 3), folds=np.repeat([1, 2], [90, 60]))
VALIDATION = replace(draw_photographs(160, 4), folds=np.repeat([1, 2], 80))
ORIGINS = ["north"] * 90 + ["south"] * 60
ASSESSMENT = assess([prediction_set(TEST, VALIDATION, model="cv")], num_resamples=100, origins=ORIGINS)


def cells(table: Table) -> dict[str, list[str]]:
    out = io.StringIO()
    Console(file=out, width=400).print(table)
    lines = [line.strip("│").split("│") for line in out.getvalue().splitlines() if line.count("│") > 2]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


def test_each_data_set_has_a_column_and_their_mean_another() -> None:
    (table,) = source_tables(ASSESSMENT)
    assert table.title is not None and str(table.title) == "cv: each data set"
    assert [str(column.header) for column in table.columns] == ["score (95 % CI)", "north", "south", "mean"]
    rows, sources = cells(table), ASSESSMENT.models[0].sources
    assert rows["photographs"][:2] == ["90", "60"]
    wanted = (ScoreKey.KAPPA, ScoreKey.ACCURACY, *F1_KEYS, ScoreKey.REFERABLE_AUC, ScoreKey.REFERABLE_SENSITIVITY)
    for key in (*wanted, ScoreKey.REFERABLE_SPECIFICITY, ScoreKey.SIGHT_THREATENING_SENSITIVITY):
        estimates = [source.score(key) for source in sources]
        assert rows[key.label][:2] == [estimate.describe() for estimate in estimates]
        assert float(rows[key.label][2]) == pytest.approx(np.mean([each.value or 0 for each in estimates]), abs=0.0006)
    point = next(each for each in sources[1].operating_points if each.aim == "sensitivity 0.90")
    assert rows["referable, threshold for sensitivity 0.90: sensitivity"][1] == point.sensitivity.describe()
    assert ScoreKey.KAPPA_WITHIN_ACQUISITION.label not in rows, "not known"


def test_each_rule_has_a_column_with_its_thresholds() -> None:
    (table,) = rules_tables(ASSESSMENT)
    rows, rules = cells(table), ASSESSMENT.models[0].rules
    headers = [str(column.header) for column in table.columns[1:]]
    objectives = [f"thresholds, {name}" for name in ("balanced", "kappa", "accuracy", "macro-f1")]
    assert headers == ["most probable", *objectives]
    for key in RULE_KEYS:
        assert rows[key.label] == [rule.score(key).describe() for rule in rules]
    listed = rows["thresholds of the expected grade, mean"]
    assert listed[0] == "-" and listed[1] == ", ".join(f"{each:.2f}" for each in rules[1].thresholds)


def test_one_data_set_without_folds_has_neither_table() -> None:
    plain = assess([prediction_set(draw_photographs(60, 1))], num_resamples=50)
    assert source_tables(plain) == [] and rules_tables(plain) == []
