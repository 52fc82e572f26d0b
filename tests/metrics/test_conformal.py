"""Sets grow as computed by hand, are contiguous and never empty, and reach their target coverage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fundusgrade.errors import MetricsError
from fundusgrade.metrics.bootstrap import resample
from fundusgrade.metrics.conformal import NO_LIMIT, conformity_scores, grade_sets, measure_sets, score_limit
from fundusgrade.metrics.predictions import ScoredPhotographs
from tests.scored import draw_photographs, prediction_set

ROW = np.array([[0.10, 0.20, 0.40, 0.25, 0.05]])


def test_set_grows_by_the_more_probable_neighbor() -> None:
    # From 2 to 3, 1, 0 and 4.
    scores = conformity_scores(np.repeat(ROW, 5, axis=0), np.arange(5))
    assert scores == pytest.approx([0.95, 0.85, 0.0, 0.65, 1.0])
    assert scores[4] == 1.0


def test_a_probable_grade_behind_an_improbable_one_joins_later() -> None:
    table = np.repeat([[0.45, 0.05, 0.15, 0.35, 0.0]], 5, axis=0)
    assert conformity_scores(table, np.arange(5)) == pytest.approx([0, 0.5, 0.65, 1, 1])


def test_of_equals_the_lower_grade_comes_first() -> None:
    table = np.repeat([[0.2, 0.2, 0.2, 0.2, 0.2]], 5, axis=0)
    assert conformity_scores(table, np.arange(5)) == pytest.approx([0, 0.4, 0.6, 0.8, 1])
    table = np.repeat([[0.0, 0.3, 0.4, 0.3, 0.0]], 5, axis=0)
    assert conformity_scores(table, np.arange(5)) == pytest.approx([1, 0.7, 0, 1, 1])


@pytest.mark.parametrize(
    ("limit", "low", "high"),
    [(0.0, 2, 2), (0.64, 2, 2), (0.66, 2, 3), (0.86, 1, 3), (0.96, 0, 3), (0.999, 0, 3), (NO_LIMIT, 0, 4)],
)
def test_sets_at_a_limit(limit: float, low: int, high: int) -> None:
    found = grade_sets(ROW, limit)
    assert (found.low.tolist(), found.high.tolist()) == ([low], [high])


def test_sets_hold_exactly_the_grades_whose_score_is_within_the_limit() -> None:
    rng = np.random.default_rng(0)
    table = rng.dirichlet(np.full(5, 0.5), 300)
    for limit in (0.0, 0.3, 0.7, 0.95, 1.0):
        sets = grade_sets(table, limit)
        low, high = sets.low, sets.high
        assert (low <= high).all()
        for grade in range(5):
            inside = conformity_scores(table, np.full(300, grade)) <= limit
            assert np.array_equal(inside, (low <= grade) & (grade <= high))


def test_sets_grow_from_the_predicted_grade() -> None:
    # From 4 to 3, 2, 1 and 0: the predicted grade need not be the most probable grade.
    scores = conformity_scores(np.repeat(ROW, 5, axis=0), np.arange(5), np.full(5, 4))
    assert scores == pytest.approx([1.0, 0.9, 0.7, 0.3, 0.0])
    rng = np.random.default_rng(2)
    table, predicted = rng.dirichlet(np.full(5, 0.5), 300), rng.integers(0, 5, 300)
    for limit in (0.0, 0.5, 0.9):
        sets = grade_sets(table, limit, predicted)
        low, high = sets.low, sets.high
        assert ((low <= predicted) & (predicted <= high)).all()
        for grade in range(5):
            inside = conformity_scores(table, np.full(300, grade), predicted) <= limit
            assert np.array_equal(inside, (low <= grade) & (grade <= high))


def test_limit_is_an_order_statistic() -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1, 20) / 20)
    assert score_limit(scores, 0.9) == pytest.approx(18 / 20)
    assert score_limit(scores, 0.95) == pytest.approx(19 / 20)
    # 9 scores have a 9th smallest for 90 %, but none for more.
    assert score_limit(scores[:9], 0.9) == scores[:9].max()
    assert score_limit(scores[:9], 0.91) == NO_LIMIT
    assert score_limit(np.zeros(0), 0.5) == NO_LIMIT
    for coverage in (0.0, 1.0, 90.0):
        with pytest.raises(MetricsError, match="between 0 and 1"):
            score_limit(scores, coverage)


@pytest.mark.parametrize("skill", [0.7, 1.5])
def test_mean_coverage_is_the_target_coverage(skill: float) -> None:
    """Of a weak and a fair model, over many splits; never empty sets make neither cover too often."""
    everyone = draw_photographs(40_000, 0, skill=skill)
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(200):
        rows = rng.choice(len(everyone), 500)
        known, new = everyone.subset(rows[:200]), everyone.subset(rows[200:])
        limit = score_limit(conformity_scores(known.probabilities, known.grades), 0.9)
        sets = grade_sets(new.probabilities, limit)
        low, high = sets.low, sets.high
        covered.append(((low <= new.grades) & (new.grades <= high)).mean())
    assert 0.89 <= np.mean(covered) <= 0.915


def test_a_model_whose_accuracy_exceeds_the_target_coverage_gets_sets_of_one_grade() -> None:
    known = draw_photographs(500, 0, skill=4.0)
    assert (known.predicted == known.grades).mean() > 0.92
    limit = score_limit(conformity_scores(known.probabilities, known.grades), 0.9)
    sets = grade_sets(known.probabilities, limit)
    low, high = sets.low, sets.high
    assert limit == 0.0
    assert np.array_equal(low, known.predicted) and np.array_equal(high, known.predicted)


def folded(photographs: ScoredPhotographs) -> ScoredPhotographs:
    return replace(photographs, folds=np.arange(len(photographs)) % 2 + 1)


def test_rows_of_all_and_of_each_grade_with_a_limit_for_each_fold() -> None:
    test, validation = folded(draw_photographs(200, 0)), folded(draw_photographs(150, 4))
    rows = measure_sets(prediction_set(test, validation), resample(test.groups, num_resamples=200), coverage=0.8)
    covered, sizes = np.zeros(200, bool), np.zeros(200)
    for fold in (1, 2):
        known, here = validation.subset(validation.folds == fold), test.folds == fold
        limit = score_limit(conformity_scores(known.probabilities, known.grades), 0.8)
        sets = grade_sets(test.probabilities[here], limit)
        low, high = sets.low, sets.high
        covered[here], sizes[here] = (low <= test.grades[here]) & (test.grades[here] <= high), high - low + 1
    assert [row.grade for row in rows] == [None, 0, 1, 2, 3, 4]
    for row in rows:
        among = np.ones(200, bool) if row.grade is None else test.grades == row.grade
        assert row.num_photographs == among.sum()
        assert row.covered.value == pytest.approx(covered[among].mean())
        assert row.mean_size == pytest.approx(sizes[among].mean())
        assert row.covered.low is not None and row.covered.high is not None and row.covered.low < row.covered.high


def test_no_sets_without_validation_of_every_fold() -> None:
    test = folded(draw_photographs(40, 0))
    resamples = resample(test.groups, num_resamples=20)
    assert measure_sets(prediction_set(test), resamples, coverage=0.9) == ()
    assert measure_sets(prediction_set(test, test.subset(test.folds == 2)), resamples, coverage=0.9) == ()


def test_absent_grade_has_no_coverage() -> None:
    everyone = draw_photographs(60, 0)
    test = everyone.subset(everyone.grades != 4)
    rows = measure_sets(prediction_set(test, everyone), resample(test.groups, num_resamples=20), coverage=0.9)
    absent = rows[5]
    assert (absent.grade, absent.num_photographs, absent.covered.value, absent.mean_size) == (4, 0, None, None)
