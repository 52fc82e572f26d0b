"""Rows, tables and JSON say exactly what was predicted and scored."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from fundusgrade import __version__
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.evaluation.assessment import assess
from fundusgrade.evaluation.screening import ReferralRule, Referrals, ScreenedPhotographs
from fundusgrade.grades import GRADE_LABELS, RESEARCH_USE, Grade, GradeRange, Prediction
from fundusgrade.metrics.conformal import KnownCoverage
from fundusgrade.metrics.estimates import describe_number
from fundusgrade.metrics.predictions import read_predictions
from fundusgrade.metrics.referral import UNSTATED_POINT, choose_operating_point, referral_scores
from fundusgrade.metrics.score_keys import WITHIN_ACQUISITION_KEYS, ScoreKey
from fundusgrade.photographs.recipe import PreprocessRecipe
from fundusgrade.reports.listings import (
    coverage_line,
    dataset_summary,
    datasets_table,
    models_table,
    operating_point_line,
    prediction_line,
    referral_in_words,
    referral_line,
)
from fundusgrade.reports.tables import (
    acquisition_in_words,
    comparisons_table,
    coverage_tables,
    evaluation_json,
    scores_table,
    screening_tables,
    write_evaluation,
)
from fundusgrade.store import StoredDataset, StoredModel
from tests.scored import draw_photographs, grade_again, prediction_set, scored

GRADED = Prediction(image="eyes/a.png", model="resnet50", probabilities=(0.05, 0.1, 0.6, 0.2, 0.05))


EYES = draw_photographs(60, 1)
SETS = [prediction_set(EYES, model="cnn"), prediction_set(grade_again(EYES, 7), model="vit")]
ASSESSMENT = assess(SETS, part="test", num_resamples=200)
IN_CLUSTERS = assess(
    [replace(each, test=replace(each.test, acquisitions=np.arange(60) % 3 + 1)) for each in SETS], num_resamples=200
)


HEALTHY = scored([0, 0], [[1.0, 0, 0, 0, 0]] * 2)


def cells(table: Table) -> dict[str, list[str]]:
    """The cells of each row by its name."""
    lines = [line.strip("│").split("│") for line in shown(table).splitlines() if line.count("│") > 2]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


def test_the_table_shows_every_score_with_its_interval_and_a_column_of_each_model() -> None:
    rows = cells(scores_table(IN_CLUSTERS))
    for i, model in enumerate(IN_CLUSTERS.models):
        assert all(rows[score.name][i] == score.estimate.describe() for score in model.scores)
        for label, of in zip(GRADE_LABELS, model.evaluation.grades, strict=True):
            assert rows[f"photographs, {label}"][i] == str(of.num_photographs)
            assert rows[f"precision, {label}"][i] == f"{of.precision:.3f}"
            assert rows[f"recall, {label}"][i] == f"{of.recall:.3f}"
            assert rows[f"F1, {label}"][i].startswith(f"{of.f1:.3f} (")
        assert rows["photographs"][i] == "60"
        assert rows["referable photographs (grade >= 2)"][i] == str(model.evaluation.referable.num_positive)
        threatening = model.evaluation.sight_threatening
        assert rows["sight-threatening photographs (grade >= 3)"][i] == str(threatening.num_positive)
        for of in model.reliability:
            assert rows[f"calibration error, {of.outcome}"][i] == of.calibration_error.describe()
        assert rows["if perfectly calibrated (sampling error)"][i] == f"{model.reliability[-1].by_chance:.3f}"
    assert len(rows) == 1 + len(ScoreKey) + 3 + 3 * 5 + 2, "no score stands there twice"
    assert RESEARCH_USE in shown(scores_table(ASSESSMENT))


def test_scores_within_acquisition_are_left_out_with_a_sentence_where_it_is_not_known() -> None:
    assert not {key.label for key in WITHIN_ACQUISITION_KEYS} & set(cells(scores_table(ASSESSMENT)))
    assert "are left out: it is not known how" in acquisition_in_words(ASSESSMENT)
    words = acquisition_in_words(IN_CLUSTERS)
    shares = [np.mean(EYES.grades[first::3] >= 2) for first in range(3)]
    assert words.startswith("3 clusters") and ", ".join(f"20 ({share:.0%})" for share in shares) in words
    alike = [replace(each, test=replace(each.test, acquisitions=np.ones(60, np.int64))) for each in SETS]
    assert "acquired alike, so" in acquisition_in_words(assess(alike, num_resamples=20))


def test_the_table_says_what_is_undefined_and_shows_names_as_they_are() -> None:
    healthy = assess([prediction_set(HEALTHY, model="vit $x_[bold]")], num_resamples=20)
    rows = cells(scores_table(healthy))
    assert "vit $x_[bold]" in shown(scores_table(healthy))
    undefined = ("quadratic weighted kappa", "precision, Severe", "recall, Severe", "F1, Severe", "referable AUC")
    assert [rows[name] for name in undefined] == [["undefined"]] * 5
    assert (rows["photographs"], rows["photographs, Severe"]) == (["2"], ["0"])


def test_json_gives_back_the_numbers() -> None:
    content = json.loads(evaluation_json(ASSESSMENT, {"cnn": "Nothing."}))
    assert content.pop("seen") == {"cnn": "Nothing."}
    assert content.pop("fundusgrade") == __version__
    assert (content["data"], content["part"]) == ("eyes", "test")
    assert [model["model"] for model in content["models"]] == ["cnn", "vit"]
    assert content == json.loads(json.dumps(dataclasses.asdict(ASSESSMENT)))
    (evaluation, _) = (model["evaluation"] for model in content["models"])
    assert evaluation["kappa"] == ASSESSMENT.models[0].evaluation.kappa


def test_the_table_of_pairs_shows_each_difference() -> None:
    pairs, (pair,) = shown(comparisons_table(ASSESSMENT)), ASSESSMENT.comparisons
    assert "cnn - vit" in pairs and pair.kappa_difference.describe() in pairs
    assert f"{pair.kappa_p:.3f}" in pairs and f"{pair.num_first_only}, {pair.num_second_only}" in pairs


def test_referrals_are_tabled_for_the_gradable_and_for_everyone_with_missed_severe_disease() -> None:
    gradable = np.arange(60) % 6 > 0
    photographs = ScreenedPhotographs(
        gradable=gradable,
        patients=tuple(str(i // 2) for i in range(62)),
        unprepared_grades=np.array([4, 0]),
        unprepared_groups=np.array([100, 101]),
    )
    rules = {each.model: ReferralRule(thresholds={0: 0.3}, reason="given") for each in SETS[:1]}
    found = assess(SETS, num_resamples=100, referrals=Referrals(photographs=photographs, rules=rules))
    [table] = screening_tables(found)
    assert found.models[1].screening is None and screening_tables(ASSESSMENT) == []
    screening = found.models[0].screening
    assert screening is not None
    rows = cells(table)
    assert list(rows)[-4:] == [
        *("photographs, gradable only", "photographs, everyone", "patients, gradable only", "patients, everyone"),
    ]
    for of, row in zip(screening.rates, list(rows.values())[-4:], strict=True):
        assert row == [
            *(str(of.num_referable), str(of.num_others), str(of.num_ungradable)),
            *(of.sensitivity.describe(), of.specificity.describe()),
            *(f"{of.num_missed[grade]} of {of.num_per_grade[grade]}" for grade in (3, 4)),
        ]
    assert "cnn: referable from p = 0.3000 (given)" in shown(table)
    assert json.loads(evaluation_json(found, {}))["models"][0]["screening"]["threshold"] == 0.3


def test_scores_are_written_as_json_figure_and_predictions(tmp_path: Path) -> None:
    write_evaluation(ASSESSMENT, SETS, tmp_path / "new" / "folder")
    written = tmp_path / "new" / "folder"
    names = ["confusion.png", "evaluation.json", "predictions-cnn.csv", "predictions-vit.csv"]
    assert sorted(path.name for path in written.iterdir()) == names
    assert (written / "evaluation.json").read_text() == evaluation_json(ASSESSMENT, {"cnn": "", "vit": ""}) + "\n"
    again = read_predictions(written / "predictions-vit.csv")
    assert again.test.sources == SETS[1].test.sources
    assert np.abs(again.test.probabilities - SETS[1].test.probabilities).max() < 2e-6


def test_one_line_for_people() -> None:
    assert prediction_line(GRADED) == (
        "eyes/a.png: grade 2 Moderate: most probable, p = 0.60; referable: yes, p = 0.85, from 0.50 (resnet50)"
    )
    undecodable = dataclasses.replace(GRADED, image=os.fsdecode(b"eye\xff.png"))
    assert prediction_line(undecodable).startswith("eye\\udcff.png: grade 2")


def test_the_answer_for_a_referral_is_never_contradicted_by_rounding() -> None:
    for probability, threshold in ((0.2296, 0.2304), (0.2304, 0.2296), (0.23, 0.23), (0.5, 0.2317), (0.1, 0.2317)):
        of = dataclasses.replace(
            GRADED, probabilities=(1 - probability, 0, probability, 0, 0), referable_threshold=threshold
        )
        found = re.fullmatch(r"referable: (\w+), p = (\d\.\d+), from (\d\.\d+)", referral_in_words(of))
        assert found is not None
        assert (found[1] == "yes") == (float(found[2]) >= float(found[3])) == (probability >= threshold)


def test_the_operating_point_is_said_with_what_it_finds_on_each_data_set() -> None:
    rng = np.random.default_rng(0)
    grades, scores = rng.integers(0, 5, 400), rng.random(400)
    parts = [
        referral_scores(["a" if i % 2 else "b" for i in range(200)], grades[half], scores[half], np.arange(200))
        for half in (slice(200), slice(200, 400))
    ]
    point = choose_operating_point(*parts, sensitivity=0.9)
    assert point is not None
    line, (overall, a, b) = operating_point_line("m", point), point.rates
    assert line.startswith(f"m: referable from p = {point.threshold:.4f}, chosen for a sensitivity of 0.9 on 200 valid")
    assert "on validation photographs that chose nothing: all: " in line
    for rates in (overall, a, b):
        assert (
            f"{rates.data or 'all'}: sensitivity {rates.sensitivity.describe(2)} of {rates.num_referable}, "
            f"specificity {rates.specificity.describe(2)} of {rates.num_others}" in line
        )
    unknown = operating_point_line("m", UNSTATED_POINT)
    assert unknown.startswith("m: referable from p = 0.5000; what that finds is not known, because the model stores no")
    one = operating_point_line("m", replace(point, rates=(overall, a), held_out=()))
    assert "on these photographs themselves: a: sensitivity" in one and "all:" not in one


def test_the_summary_refers_what_cannot_be_graded() -> None:
    line = referral_line(num_referable=5, num_failed=2, num_doubtful=3, num_healthy=90)
    assert line == "refer 10: 5 referable, 5 ungradable (2 failed, 3 doubtful); do not refer 90"


def test_the_line_of_a_grade_that_is_not_the_most_probable_says_what_decided() -> None:
    decided = dataclasses.replace(
        GRADED,
        probabilities=(0.01, 0.02, 0.43, 0.14, 0.40),
        thresholds=(0.5, 1.6, 2.58, 3.4),
        quality_reasons=("dark",),
    )
    assert prediction_line(decided) == (
        "eyes/a.png: grade 3 Severe: expected grade 2.90, severe from 2.58; most probable moderate, p = 0.43; "
        "referable: yes, p > 0.95, from 0.50 (resnet50); doubtful quality: dark"
    )


def test_a_range_is_in_the_line_with_the_grade_that_the_eye_could_be_as_bad_as() -> None:
    of = GradeRange(low=Grade.MILD, high=Grade.SEVERE, upper_bound=Grade.PROLIFERATIVE, coverage=0.9)
    line = prediction_line(dataclasses.replace(GRADED, grade_range=of))
    words = "90 % prediction set mild to severe, could be as bad as proliferative"
    assert line.endswith(f"referable: yes, p = 0.85, from 0.50; {words} (resnet50)")
    alone = dataclasses.replace(of, low=Grade.NONE, high=Grade.NONE, upper_bound=Grade.MILD, coverage=0.975)
    assert alone.describe() == "97.5 % prediction set no DR, could be as bad as mild"


def test_the_coverage_of_each_grade_is_one_line() -> None:
    counts = ((None, 40, 36), (0, 20, 20), (1, 0, 0), (2, 12, 11), (3, 3, 2), (4, 5, 3))
    known = [KnownCoverage(grade=grade, num_photographs=num, num_covered=covered) for grade, num, covered in counts]
    assert coverage_line("cnn", known, 0.9).startswith(
        "cnn: 90 % prediction sets contain the true grade of 90 % of all 40, 100 % of 20 no DR, 0 mild, 92 % of 12 "
        "moderate, 67 % of 3 severe, 60 % of 5 proliferative photographs from which its limits come; "
    )


def test_the_tables_of_prediction_sets_have_a_row_of_each_grade() -> None:
    test, known = draw_photographs(60, 1), draw_photographs(200, 50)
    model = assess([prediction_set(test, known, model="cnn")], num_resamples=50)
    (table,) = coverage_tables(model)
    rows = cells(table)
    for of in model.models[0].set_coverage:
        assert rows["all" if of.grade is None else GRADE_LABELS[of.grade]] == [
            str(of.num_photographs), of.covered.describe(), describe_number(of.mean_size, 2),
            of.bound_covered.describe(), describe_number(of.mean_bound, 2),
        ]  # fmt: skip
    assert coverage_tables(ASSESSMENT) == []


def row(number: int, grade: Grade | None, **changes: Any) -> ManifestRow:
    usual = ManifestRow(
        image=f"images/{number}.png",
        source=f"{number}.jpg",
        grade=grade,
        split="train",
        fold=0,
        group=number,
        patient=None,
        eye=None,
        site=None,
        error=None,
        conflict=False,
        sha256=f"{number:064x}",
        fingerprint=None,
    )
    return dataclasses.replace(usual, **changes)


def test_summary_of_a_data_set_counts_what_is_prepared_and_why_the_rest_is_not() -> None:
    empty = "the file is empty (0 bytes); copy the file again from its source"
    rows = [row(0, Grade.NONE), row(1, Grade.NONE, split="test"), row(2, Grade.SEVERE, conflict=True)]
    rows += [row(number, Grade.MILD, image="", split=None, error=empty) for number in (3, 4)]
    rows += [row(5, Grade.MILD, image="", split=None, error="no retina found")]
    prepared = PreparedDataset(
        directory=Path("data sets", "eyes"),
        name="eyes",
        recipe=PreprocessRecipe(),
        seed=0,
        hash="0" * 64,
        rows=tuple(rows),
    )
    assert dataset_summary(prepared).splitlines() == [
        "data set eyes: 3 of 6 photographs prepared in data sets/eyes",
        "photographs of each grade: No DR 2, Mild 0, Moderate 0, Severe 1, Proliferative 0",
        "photographs of each split: train 2, test 1",
        "duplicates with conflicting grades: 1",
        "photographs of doubtful quality: 0",
        f"not prepared, 2: {empty}",
        "not prepared, 1: no retina found",
    ]
    clusters = [replace(each, acquisition=None if each.error else 1) for each in prepared.rows]
    lines = dataset_summary(replace(prepared, rows=tuple(clusters))).splitlines()
    assert lines[4] == "photographs that were acquired alike, in clusters: 3"


def shown(table: Table) -> str:
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(table)
    return console.export_text()


def test_models_are_listed_with_kappa_size_date_and_hash() -> None:
    model = StoredModel(
        name="vit[bold]",
        path=Path("vit"),
        created="2024-05-06T07:08:09+00:00",
        arch="vit",
        kappa=0.9004,
        size_bytes=86_400_000,
        hash="abcdef0123456789",
        shipped=False,
    )
    other = dataclasses.replace(model, name="cnn", kappa=None, shipped=True)
    lines = [line for line in shown(models_table([model, other], default="cnn")).splitlines() if "2024" in line]
    cells = [re.split(r"\s{2,}", line.strip()) for line in lines]
    assert cells == [
        ["vit[bold]", "vit", "0.900", "2024-05-06", "86.4", "store", "abcdef012345"],
        ["cnn (default)", "vit", "undefined", "2024-05-06", "86.4", "shipped", "abcdef012345"],
    ]


def test_data_sets_are_listed_with_count_size_date_and_hash() -> None:
    dataset = StoredDataset(
        name="aptos",
        path=Path("aptos"),
        created="2024-05-06",
        num_photographs=3662,
        size_bytes=123_456_789,
        hash="ab" * 32,
    )
    (line,) = [line for line in shown(datasets_table([dataset])).splitlines() if "aptos" in line]
    assert re.split(r"\s{2,}", line.strip()) == [
        "aptos",
        "3662",
        "2024-05-06",
        "123.5",
        "abababababab",
    ]
