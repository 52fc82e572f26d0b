"""A prediction says which grade was decided, by which quantity, and which grade is the most probable one."""

from __future__ import annotations

import re

import numpy as np
import pytest

from fundusgrade.grades import Grade, Prediction, Referral, Ungraded
from fundusgrade.metrics.classification import decide_grades

THRESHOLDS = (0.52, 1.62, 2.58, 3.41)


def prediction(*probabilities: float, thresholds: tuple[float, ...] | None = THRESHOLDS) -> Prediction:
    return Prediction(image="eye.png", model="m", probabilities=probabilities, thresholds=thresholds)


@pytest.mark.parametrize("thresholds", [None, THRESHOLDS])
def test_one_prediction_is_decided_as_a_table_of_them(thresholds: tuple[float, ...] | None) -> None:
    table = np.random.default_rng(0).dirichlet(np.full(5, 0.5), 300)
    predictions = [prediction(*map(float, row), thresholds=thresholds) for row in table]
    assert [of.grade for of in predictions] == decide_grades(table, thresholds).tolist()
    assert [of.most_probable for of in predictions] == table.argmax(axis=1).tolist()
    differ = [of.grade != of.most_probable for of in predictions]
    assert any(differ) == (thresholds is not None)


def test_the_quantity_that_decided_is_given_with_its_threshold() -> None:
    assert prediction(0.0, 0.03, 0.42, 0.08, 0.47).decided_by == "expected grade 2.99, severe from 2.58"
    assert prediction(0.8, 0.14, 0.03, 0.02, 0.01).decided_by == "expected grade 0.30, no DR below 0.52"
    assert prediction(0.0, 0.0, 0.0, 0.1, 0.9).decided_by == "expected grade 3.90, proliferative from 3.41"
    assert prediction(0.1, 0.1, 0.53, 0.2, 0.07, thresholds=None).decided_by == "most probable, p = 0.53"


def test_a_threshold_that_is_said_to_decide_is_never_contradicted_by_rounding() -> None:
    close = prediction(1 - 0.5196, 0.5196, 0.0, 0.0, 0.0)
    assert close.grade is Grade.NONE
    assert close.decided_by == "expected grade 0.5196, no DR below 0.5200"
    for expected in np.linspace(0.5, 0.54, 41):
        text = prediction(1 - expected, float(expected), 0.0, 0.0, 0.0).decided_by
        reached, threshold = map(float, re.findall(r"\d\.\d+", text))
        assert (reached >= threshold) == ("from" in text), text


@pytest.mark.parametrize(
    ("probability", "threshold", "reasons", "expected"),
    [
        (0.31, 0.3, (), Referral.YES),
        (0.29, 0.3, (), Referral.NO),
        (0.29, 0.3, ("dark",), Referral.UNGRADABLE),
        (0.31, 0.3, ("dark",), Referral.YES),
        # Compared as they are written, so that a table agrees with itself.
        (0.29996, 0.3, (), Referral.YES),
        (0.29994, 0.3, (), Referral.NO),
        (0.0, 0.0, (), Referral.YES),
        (1.0, 1.0, (), Referral.YES),
    ],
)
def test_disease_that_is_found_refers_and_doubt_never_reassures(
    probability: float, threshold: float, reasons: tuple[str, ...], expected: Referral
) -> None:
    found = Prediction(
        image="eye.png",
        model="m",
        probabilities=(1 - probability, 0.0, probability, 0.0, 0.0),
        referable_threshold=threshold,
        quality_reasons=reasons,
    )
    assert found.referable is expected
    assert expected.refers == (expected is not Referral.NO)


def test_what_could_not_be_graded_is_ungradable_at_any_threshold() -> None:
    for threshold in (0.0, 0.5, 1.0):
        ungraded = Ungraded(image="eye.png", model="m", reason="damaged", referable_threshold=threshold)
        assert ungraded.referable is Referral.UNGRADABLE and ungraded.referable.refers


def test_a_grade_has_a_name_within_sentences() -> None:
    assert [grade.name_in_sentence for grade in Grade] == ["no DR", "mild", "moderate", "severe", "proliferative"]
