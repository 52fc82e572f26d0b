"""The report is one well-formed file that loads nothing, says what was measured, and escapes every name."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from markupsafe import Markup

from fundusgrade.evaluation.assessment import Assessment, assess
from fundusgrade.evaluation.screening import ReferralRule, Referrals, ScreenedPhotographs
from fundusgrade.grades import GRADE_LABELS, RESEARCH_USE
from fundusgrade.metrics.conformal import measure_conformity
from fundusgrade.metrics.estimates import Estimate
from fundusgrade.metrics.score_keys import ScoreKey
from fundusgrade.reports.html import section_charts
from fundusgrade.reports.html.formats import number
from fundusgrade.reports.html.page import report_html
from tests.reports.html.drawn_report import Page, audit, context, image, sets
from tests.scored import draw_photographs, grade_again, prediction_set, scored

HOSTILE = '<script>alert("x")</script>&\u202e'


@pytest.fixture(scope="module")
def found() -> Assessment:
    columns = {"site": ["north", "south", "<east>"] * 50}
    return assess(sets(), num_resamples=60, columns=columns)


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without drawings, which take most of the time, for tests of words alone."""
    for draw in ("dots_chart", "lines_chart"):
        monkeypatch.setattr(section_charts, draw, lambda *_, **__: Markup("<svg></svg>"))


@pytest.fixture(scope="module")
def html(found: Assessment) -> str:
    return report_html(found, context())


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_a_report_loads_nothing_and_runs_nothing(html: str, page: Page) -> None:
    assert not {"script", "link", "iframe", "object", "embed", "form"} & {tag for tag, _ in page.elements}
    assert all(value.startswith("#") for value in page.values("href"))
    assert all(value.startswith("data:image/") for value in page.values("src"))
    assert not [name for _, found in page.elements for name in found if name.startswith("on")]
    assert not re.search(r"url\((?!#)|@import|https?://", html.replace("http://www.w3.org/2000/svg", ""))
    (policy,) = (of["content"] for _, of in page.elements if of.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_every_entry_of_the_contents_leads_to_a_titled_part_and_names_are_unique(page: Page) -> None:
    names = page.values("id")
    assert len(names) == len(set(names))
    assert {value.removeprefix("#") for value in page.values("href")} <= set(names)
    assert set(page.values("aria-labelledby")) <= set(names)


def test_a_report_can_be_read_without_eyes_and_without_a_mouse(page: Page) -> None:
    assert dict(page.elements)["html"]["lang"] == "en"
    assert all(attributes.get("alt") for tag, attributes in page.elements if tag == "img")
    charts = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(charts) >= 8 and all(each.get("role") == "img" for each in charts)
    assert all(
        attributes.get("tabindex") == "0" for _, attributes in page.elements if attributes.get("class") == "scroll"
    )
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(headings)), "no level is skipped"


def test_what_was_measured_stands_in_it(found: Assessment, page: Page) -> None:
    text = page.text
    for model in found.models:
        assert model.evaluation.kappa is not None
        assert number(model.evaluation.kappa) in text
        for score in model.scores:
            assert score.name in text and number(score.estimate.value) in text
        for point in model.operating_points:
            assert number(point.sensitivity.value) in text and number(point.threshold) in text
        assert all(str(cell) in text for row in model.evaluation.confusion_matrix for cell in row)
    assert "Learning curve" in text and "model-0-fold1" in text
    assert "The outline tells the grade." in text and "0.630" in text
    assert page.facts["grade decided by"] == "the expected grade: mild from 0.52"
    assert (
        "Graders: 4 Proliferative. Model: 3 Severe (expected grade 2.99, severe from 2.58; most probable moderate, "
        "p = 0.47)." in text
    )
    for of in found.comparisons[0].disagreements:
        cells = [f"{of.grade} {GRADE_LABELS[of.grade]}"] + [
            f"{grade} {GRADE_LABELS[grade]}, {number(expected, 2)}"
            for grade, expected in ((of.first, of.first_expected), (of.second, of.second_expected))
        ]
        assert [of.source, *cells] in page.rows
    assert text.count(RESEARCH_USE) == 1


def test_the_same_assessment_gives_the_same_bytes(found: Assessment, html: str) -> None:
    assert report_html(found, context()) == html


def hostile(value: Any) -> Any:
    """The same with other text in the place of every text in it."""
    if type(value) is str:
        return HOSTILE
    if isinstance(value, tuple):
        return tuple(hostile(each) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: hostile(getattr(value, field.name)) for field in fields(value)})
    return value


def test_hostile_names_are_text() -> None:
    photographs = draw_photographs(60, 3)
    named = replace(photographs, sources=tuple(f"{HOSTILE}{i}" for i in range(60)))
    predictions = [replace(prediction_set(each, model=HOSTILE + end), data=HOSTILE) for each, end in (
        (named, "1"), (replace(grade_again(named, 5), sources=named.sources), "2"),
    )]  # fmt: skip
    assessed = assess(predictions, num_resamples=20, columns={HOSTILE: [HOSTILE] * 60})
    made = hostile(context())
    page = report_html(assessed, made)
    assert "<script" not in page and "\u202e" not in page
    assert '<script>alert("x")</script>' in Page(page).text, "and can be read"


@pytest.mark.usefixtures("no_charts")
def test_referrals_are_reported_with_the_severe_disease_that_they_missed() -> None:
    predictions = sets(1)
    number = len(predictions[0].test)
    photographs = ScreenedPhotographs(
        gradable=np.arange(number) % 5 > 0,
        patients=tuple(str(i // 2) for i in range(number)),
        unprepared_grades=np.zeros(0, np.int64),
        unprepared_groups=np.zeros(0, np.int64),
    )
    rules = {predictions[0].model: ReferralRule(thresholds={0: 0.6}, reason="given")}
    assessed = assess(predictions, num_resamples=20, referrals=Referrals(photographs=photographs, rules=rules))
    screening = assessed.models[0].screening
    assert screening is not None
    text = Page(report_html(assessed, context(audits=(), gallery=(), models=()))).text
    everyone = screening.rates[1]
    assert "referable from p = 0.6000 (given)" in text
    assert "referred from p = 0.6000 of grade 2 or worse, given." in text
    assert (
        f"Of {everyone.num_per_grade[3]} severe and {everyone.num_per_grade[4]} proliferative photographs, "
        f"{everyone.num_missed[3]} and {everyone.num_missed[4]} were not referred." in text
    )
    for name in (
        "photographs, gradable only",
        "photographs, everyone",
        "patients, gradable only",
        "patients, everyone",
    ):
        assert name in text


@pytest.mark.usefixtures("no_charts")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: assess(sets(1), num_resamples=20), "There is only one model, so there is nothing to compare."),
        (lambda: assess(sets(with_validation=False), num_resamples=20), "no threshold could be chosen"),
        (lambda: assess(sets(), num_resamples=20), "It is not known which of these photographs are gradable"),
        (lambda: assess(sets(), num_resamples=20), "the photographs differ neither in data set, site, eye"),
    ],
)  # fmt: skip
def test_a_part_that_has_nothing_to_say_says_why(make: Callable[[], Assessment], reason: str) -> None:
    text = Page(report_html(make(), context(audits=(), gallery=(), models=()))).text
    assert reason.casefold() in text.casefold()
    assert "Not run." in text and "No photographs are shown" in text


def test_what_is_undefined_is_never_a_number() -> None:
    healthy = scored([0] * 12, np.tile([0.9, 0.05, 0.03, 0.01, 0.01], (12, 1)))
    page = report_html(assess([prediction_set(healthy)], num_resamples=20), context())
    assert "undefined" in page
    assert not re.search(
        r"\bnan\b|\binf\b|\bNone\b",
        Page(page).text.replace("None of these", "").replace("None were", "").replace("None are", ""),
    )


def test_images_are_in_the_file(page: Page) -> None:
    shown = [value.split(",", 1)[1] for value in page.values("src")]
    assert [base64.b64decode(each) for each in shown] == [image()] * 3


@pytest.mark.usefixtures("no_charts")
def test_the_checklist_answers_with_what_was_done(page: Page) -> None:
    answers = page.facts
    assert answers["Distribution of severity"] == "grade 0: 70, grade 1: 20, grade 2: 40, grade 3: 8, grade 4: 12."
    flow = answers["Flow of photographs; those that could not be used"]
    assert flow.startswith("150 scored; 3 of the data set could not be prepared; 4 of doubtful quality")
    assert answers["Subgroups and fairness"] == "See subgroups."
    assert answers["Robustness and shortcuts"] == "The outline tells the grade."
    alone = assess(sets(1, with_validation=False), num_resamples=20)
    bare = Page(report_html(alone, context(audits=(), models=()))).facts
    assert bare["Thresholds set before the test"].startswith(
        "The thresholds of the model, which decide the grade, were chosen on its own validation photographs."
    )
    words = "Those of the model, chosen on its own validation photographs"
    assert bare["thresholds and prediction sets"] == words
    assert bare["Robustness and shortcuts"] == "Not audited."
    assert bare["Overlap of training and test data"] == "Not known."
    assert bare["Model and initial weights"] == "Not known."


@pytest.mark.usefixtures("no_charts")
def test_every_audited_model_is_in_it(found: Assessment) -> None:
    changed = Estimate(value=0.456, low=0.4, high=0.5)
    other = replace(audit(), model="model-1", effects=(replace(audit().effects[0], change=changed),))
    text = Page(report_html(found, context(audits=(audit(), other)))).text
    assert all(f"Change of the expected grade of model-{i}" in text for i in (0, 1)) and "0.456" in text
    assert text.count("predicted from photographs kappa") == 1, "the data are the same"
    assert "acquisition change" in text and "1.250" in text and "-0.015" in text.replace("\N{MINUS SIGN}", "-")
    assert "hard exudates 10 432 8.7 % 12.3 %" in text


@pytest.mark.usefixtures("no_charts")
def test_a_score_without_an_interval_says_why_instead_of_an_interval() -> None:
    photographs = draw_photographs(60, 3)
    perfect = replace(photographs, predicted=photographs.grades)
    page = Page(report_html(assess([prediction_set(perfect)], num_resamples=20), context()))
    assert "1.000 (no interval: the same in all resamples)" in page.text
    assert "interval undefined" not in page.text and "CI no interval" not in page.text


@pytest.mark.usefixtures("no_charts")
def test_coverage_of_sets_and_bounds_is_given_for_each_grade_of_other_data_too() -> None:
    test, known = draw_photographs(150, 0), draw_photographs(90, 50)
    conformity = measure_conformity(known.probabilities, known.grades, known.predicted)
    assessment = assess([prediction_set(test)], num_resamples=20, conformities={"model": conformity})
    page = Page(report_html(assessment, context()))
    for of in assessment.models[0].set_coverage[1:]:
        assert of.grade is not None
        (row,) = [row for row in page.rows if row[0].startswith(f"{of.grade} ") and len(row) == 6]
        assert row[2].startswith(number(of.covered.value)) and row[4].startswith(number(of.bound_covered.value))
    assert "calibrated on the model’s own validation photographs" in page.text
    assert "a coverage below the target shows that they do" in page.text


def chosen_on(assessment: Assessment) -> str:
    return Page(report_html(assessment, context())).facts["thresholds and prediction sets"]


@pytest.mark.usefixtures("no_charts")
@pytest.mark.usefixtures("no_charts")
def test_scores_within_acquisition_stand_beside_those_overall() -> None:
    clusters = np.arange(150) % 2 + 1
    assessed = assess(
        [replace(each, test=replace(each.test, acquisitions=clusters)) for each in sets()], num_resamples=20
    )
    page = Page(report_html(assessed, context()))
    for row, key in (
        ("kappa, overall", ScoreKey.KAPPA),
        ("kappa, within acquisition", ScoreKey.KAPPA_WITHIN_ACQUISITION),
        ("referable AUC, within acquisition", ScoreKey.REFERABLE_AUC_WITHIN_ACQUISITION),
        ("accuracy of always the commonest grade", ScoreKey.COMMONEST_GRADE_ACCURACY),
    ):
        values = [number(model.score(key).value) for model in assessed.models]
        assert [cell.split()[0] for cell in next(cells for cells in page.rows if cells[0] == row)[1:]] == values
    assert ["1", "75", *map(str, assessed.acquisitions[0].num_per_grade)] in [cells[:-1] for cells in page.rows]
    slopes = [model.score(ScoreKey.REFERABLE_CALIBRATION_SLOPE).value for model in assessed.models]
    assert all(number(slope) in page.text for slope in slopes)
    assert any(cells[0] == "difference of kappa within acquisition" for cells in page.rows)


@pytest.mark.usefixtures("no_charts")
def test_where_acquisition_is_not_known_the_report_says_so() -> None:
    text = Page(report_html(assess(sets(1), num_resamples=20), context())).text
    assert "It is not known how the photographs were acquired" in text


def test_photographs_that_thresholds_were_chosen_on_are_counted_for_each_model() -> None:
    alone, other = sets()
    assert chosen_on(assess([alone, other], num_resamples=20)) == "Chosen on 120 validation photographs"
    folds = {"test": np.arange(150) % 3 + 1, "validation": np.arange(120) % 3 + 1}
    crossed = replace(other, **{part: replace(getattr(other, part), folds=of) for part, of in folds.items()})
    without = replace(alone, validation=alone.validation.subset(np.zeros(0, np.int64)))
    words = "Chosen in each of 3 folds on about 40 validation photographs of its own"
    assert chosen_on(assess([without, crossed], num_resamples=20)) == words, "a model without any is not counted"
    both = chosen_on(assess([alone, crossed], num_resamples=20))
    assert both == "model-0: chosen on 120 validation photographs; model-1: c" + words[1:]


def test_shades_are_shares_of_the_row(found: Assessment, html: str) -> None:
    matrix = found.models[0].evaluation.confusion_matrix
    shares = [round(100 * cell / sum(row)) if sum(row) else 0 for row in matrix for cell in row]
    drawn = [int(value) for value in re.findall(r"--share:(\d+)%", html)]
    assert drawn[: len(shares)] == shares
    assert math.isclose(sum(shares[:5]), 100, abs_tol=3)
