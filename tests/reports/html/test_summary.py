"""The first screen: one verdict, each model by data set, no p-value and a banner where the photographs were seen."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from markupsafe import Markup

from fundusgrade.evaluation.assessment import Assessment, assess
from fundusgrade.evaluation.confusion_cells import confusion_cells, difference_cells
from fundusgrade.evaluation.flow import FlowCount, StudyFlow
from fundusgrade.evaluation.screening import ReferralRule, Referrals, ScreenedPhotographs
from fundusgrade.metrics.predictions import INFLATED, PredictionSet
from fundusgrade.reports.html import formats, section_charts
from fundusgrade.reports.html.context import ReportContext
from fundusgrade.reports.html.page import report_html
from tests.reports.html.drawn_report import Page, context, sets
from tests.scored import prediction_set, scored

SEEN = f"Trained on 4 files; 3 of 150 evaluation images were used to train or select this model: {INFLATED}."


@pytest.fixture(autouse=True)
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    for draw in ("dots_chart", "lines_chart"):
        monkeypatch.setattr(section_charts, draw, lambda *_, **__: Markup("<svg></svg>"))


def assessed(predictions: list[PredictionSet], *, prevalence: float = 0.1, patients: bool = True) -> Assessment:
    number = len(predictions[0].test)
    origins = ["aptos" if i % 2 else "idrid" for i in range(number)]
    photographs = ScreenedPhotographs(
        gradable=np.arange(number) % 9 > 0,
        patients=tuple(f"{origins[i]} {i // 4}" for i in range(number)) if patients else None,
        unprepared_grades=np.zeros(0, np.int64),
        unprepared_groups=np.zeros(0, np.int64),
        origins=tuple(origins),
    )
    rules = {each.model: ReferralRule(thresholds={0: 0.4}, reason="given") for each in predictions}
    return assess(
        predictions,
        num_resamples=40,
        origins=origins,
        columns={"origin": origins},
        referrals=Referrals(photographs=photographs, rules=rules, prevalence=prevalence),
        internal={each.model: {"aptos"} for each in predictions},
    )


def with_cells(predictions: list[PredictionSet]) -> ReportContext:
    count = FlowCount(num_photographs=150, num_eyes=140, num_patients=75)
    none = FlowCount(num_photographs=0, num_eyes=0, num_patients=0)
    tests = [each.test for each in predictions]
    flow = StudyFlow(
        total=count, unprepared=none, ungraded=none, other_splits=none, evaluated=count, ungradable=none, gradable=count
    )
    difference = difference_cells(tests[0], tests[1]) if len(tests) == 2 else ()
    return context(flow=flow, cells=tuple(map(confusion_cells, tests)), difference=difference, audits=(), gallery=())


def rate(value: float | None) -> str:
    """A rate as it stands in the text of a `Page`, whose spaces are all ordinary ones."""
    return " ".join(formats.rate(value).split())


def page_of(predictions: list[PredictionSet], **options: object) -> Page:
    return Page(report_html(assessed(predictions, **options), with_cells(predictions)))  # type: ignore[arg-type]


def test_the_verdict_is_a_sentence_with_the_rates_of_everyone_by_patient() -> None:
    predictions = sets(1)
    everyone = assessed(predictions).models[0].screening
    assert everyone is not None
    of = everyone.of("everyone")
    text = page_of(predictions).text
    assert f"model-0 finds {rate(of.sensitivity.value)} (95 % CI " in text
    assert f"of the patients with referable disease and spares {rate(of.specificity.value)}" in text
    assert f"it misses {of.num_sight_threatening_missed} of {of.num_sight_threatening} with severe" in text
    assert "On idrid, which it was not trained on, it finds" in text
    assert "Sensitivity goal of 85" in text and "Specificity goal of 82.5" in text
    assert "of the photographs with referable disease" in page_of(predictions, patients=False).text


def test_each_model_has_a_row_of_all_photographs_and_one_of_each_data_set() -> None:
    predictions = sets()
    page, found = page_of(predictions, prevalence=0.035), assessed(predictions, prevalence=0.035)
    header = next(row for row in page.rows if row[:2] == ["model", "photographs"])
    assert header[-2:] == ["PPV at 3.5 %", "NPV at 3.5 %"] and header[8] == "grades 3–4 missed"
    rows = [row for row in page.rows if len(row) == len(header) and row != header]
    assert [row[0] for row in rows] == [
        name for model in ("A model-0", "B model-1") for name in (model, "idrid external", "aptos internal")
    ]
    for row, model in zip(rows[::3], found.models, strict=True):
        assert model.screening is not None
        of = model.screening.of("everyone")
        assert row[4].startswith(rate(of.sensitivity.value)) and row[5].startswith(rate(of.specificity.value))
        assert row[8] == f"{of.num_sight_threatening_missed} of {of.num_sight_threatening}"
        assert row[9].startswith(rate(of.predictive.positive.value))
        assert row[10].startswith(rate(of.predictive.negative.value))


def test_every_count_of_a_matrix_leads_to_the_list_of_its_photographs() -> None:
    predictions = sets()
    html = report_html(assessed(predictions), with_cells(predictions))
    for i, each in enumerate(predictions):
        for cell in confusion_cells(each.test):
            name = f"cell-{i}-{cell.grade}-{cell.predicted}"
            assert (f'href="#{name}"' in html) == (f'id="{name}"' in html) == (cell.num_photographs > 0)
            if cell.num_photographs:
                drawer = html[html.index(f'id="{name}"') :]
                drawer = drawer[: drawer.index("</aside>")]
                assert all(f"<span>{photo.source}</span>" in drawer for photo in cell.photographs)
                assert f"{cell.num_photographs} photograph" in drawer
    assert 'href="#difference-' in html


def test_one_model_has_no_difference_and_its_matrix_leads_to_its_photographs_on_the_first_screen() -> None:
    html = report_html(assessed(sets(1)), with_cells(sets(1)))
    summary = html[html.index('<section id="summary"') : html.index('<section id="data"')]
    assert 'href="#cell-0-0-0"' in summary and "difference-" not in summary


def test_a_model_that_has_seen_the_photographs_is_marked_and_not_tested() -> None:
    honest, cheat = sets()
    page = page_of([honest, replace(cheat, leakage=SEEN)])
    assert "Scores are inflated. model-1 was trained or selected on photographs that are scored here" in page.text
    assert [found["class"] for _, found in page.elements if found.get("role") == "alert"] == ["banner"]
    assert [row[0] for row in page.rows if "has seen them" in row[0]] == ["B model-1 has seen them"]
    assert "not tested against each other, because one of them has seen these photographs" in page.text
    assert not re.search(r"p [<=]? ?0\.\d", page.text[: page.text.index("Data and models") + 3000])
    for test in ("p (bootstrap)", "p (McNemar)", "p (DeLong)"):
        assert page.facts[test] == "not tested"
    assert "model-0 finds" in page.text and "Best of" not in page.text, "only one is judged"
    assert "Best of 2 models, model-" in page_of([honest, cheat]).text
    both = page_of([replace(each, leakage=SEEN) for each in (honest, cheat)]).text
    assert "There is no verdict: every model with an operating point has seen the photographs" in both
    assert "role" not in {name for _, found in page_of([honest]).elements for name in found if found[name] == "alert"}


@pytest.mark.parametrize("kind", ["healthy only", "all right", "few", "ordinary"])
def test_no_word_is_doubled_and_nothing_is_an_undefined_interval(kind: str) -> None:
    healthy = np.tile([0.9, 0.05, 0.03, 0.01, 0.01], (40, 1))
    perfect = np.eye(5)[np.arange(40) % 5] * 0.9 + 0.02
    made = {
        "healthy only": [prediction_set(scored([0] * 40, healthy))],
        "all right": [prediction_set(scored(np.arange(40) % 5, perfect))],
        "few": [prediction_set(scored([0, 4], perfect[[0, 4]]))],
        "ordinary": sets(),
    }[kind]
    page = page_of(made)
    labels = [value for name in ("aria-label", "alt") for value in page.values(name)]
    for text in (*page.words, *labels):
        doubled = re.findall(r"\b([A-Za-z]{2,}) \1\b(?![-.]\w)", " ".join(text.split()))
        assert not doubled, text
    for text in (page.text, *labels):
        assert "interval interval" not in text and "interval no interval" not in text
        assert "interval undefined" not in text and "CI undefined" not in text and "nan" not in text.split()


def test_the_date_is_one_that_people_write() -> None:
    text = Page(report_html(assessed(sets(1)), context(created="2026-11-26T13:05:09+00:00"))).text
    assert "26 November 2026, 13:05 UTC" in text and "2026-11-26T" not in text
