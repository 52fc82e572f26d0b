"""Sets grow as computed by hand, are contiguous and never empty, and reach their target coverage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fundusgrade.data.splits import held_out_half
from fundusgrade.errors import MetricsError
from fundusgrade.metrics.bootstrap import resample
from fundusgrade.metrics.conformal import (
    NO_CONFORMITY,
    NO_LIMIT,
    ConformalLimits,
    Conformity,
    conformity_scores,
    grade_sets,
    measure_conformity,
    measure_sets,
    score_limit,
)
from fundusgrade.metrics.predictions import ScoredPhotographs
from tests.scored import draw_photographs, prediction_set

ROW = np.array([[0.10, 0.20, 0.40, 0.25, 0.05]])


def set_limit(limit: float) -> ConformalLimits:
    """A limit of sets, with upper bounds that exclude whatever lies above the predicted grade."""
    return ConformalLimits(sets=limit, bounds=(0.0,) * 5)


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
    found = grade_sets(ROW, set_limit(limit))
    assert (found.low.tolist(), found.high.tolist()) == ([low], [high])


def test_sets_hold_exactly_the_grades_whose_score_is_within_the_limit() -> None:
    rng = np.random.default_rng(0)
    table = rng.dirichlet(np.full(5, 0.5), 300)
    for limit in (0.0, 0.3, 0.7, 0.95, 1.0):
        sets = grade_sets(table, set_limit(limit))
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
        sets = grade_sets(table, set_limit(limit), predicted)
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
        sets = grade_sets(new.probabilities, set_limit(limit))
        low, high = sets.low, sets.high
        covered.append(((low <= new.grades) & (new.grades <= high)).mean())
    assert 0.89 <= np.mean(covered) <= 0.915


def test_a_model_whose_accuracy_exceeds_the_target_coverage_gets_sets_of_one_grade() -> None:
    known = draw_photographs(500, 0, skill=4.0)
    assert (known.predicted == known.grades).mean() > 0.92
    limit = score_limit(conformity_scores(known.probabilities, known.grades), 0.9)
    sets = grade_sets(known.probabilities, set_limit(limit))
    low, high = sets.low, sets.high
    assert limit == 0.0
    assert np.array_equal(low, known.predicted) and np.array_equal(high, known.predicted)


def folded(photographs: ScoredPhotographs) -> ScoredPhotographs:
    return replace(photographs, folds=np.arange(len(photographs)) % 2 + 1)


def test_rows_of_all_and_of_each_grade_with_a_limit_for_each_fold() -> None:
    test, validation = folded(draw_photographs(200, 0)), folded(draw_photographs(300, 4))
    rows = measure_sets(prediction_set(test, validation), resample(test.groups, num_resamples=200), coverage=0.8)
    covered, sizes, bounds = np.zeros(200, bool), np.zeros(200), np.zeros(200)
    for fold in (1, 2):
        of_fold, here = validation.subset(validation.folds == fold), test.folds == fold
        known = of_fold.subset(held_out_half(of_fold.groups, of_fold.grades))
        assert 0.4 < len(known) / len(of_fold) < 0.6
        limit = score_limit(conformity_scores(known.probabilities, known.grades), 0.8)
        limits = measure_conformity(known.probabilities, known.grades).limits(0.8)
        assert limits.sets == pytest.approx(limit, abs=1e-4)
        sets = grade_sets(test.probabilities[here], limits)
        low, high = sets.low, sets.high
        covered[here], sizes[here] = (low <= test.grades[here]) & (test.grades[here] <= high), high - low + 1
        bounds[here] = sets.upper_bound
    assert [row.grade for row in rows] == [None, 0, 1, 2, 3, 4]
    for row in rows:
        among = np.ones(200, bool) if row.grade is None else test.grades == row.grade
        assert row.num_photographs == among.sum()
        assert row.covered.value == pytest.approx(covered[among].mean())
        assert row.mean_size == pytest.approx(sizes[among].mean())
        assert row.bound_covered.value == pytest.approx((test.grades <= bounds)[among].mean())
        assert row.mean_bound == pytest.approx(bounds[among].mean())
        assert row.covered.low is not None and row.covered.high is not None and row.covered.low < row.covered.high


def test_no_sets_without_validation_of_every_fold() -> None:
    test = folded(draw_photographs(40, 0))
    resamples = resample(test.groups, num_resamples=20)
    assert measure_sets(prediction_set(test), resamples, coverage=0.9) == ()
    assert measure_sets(prediction_set(test, test.subset(test.folds == 2)), resamples, coverage=0.9) == ()


def test_absent_grade_has_no_coverage() -> None:
    everyone = draw_photographs(120, 0)
    test = everyone.subset(everyone.grades != 4)
    rows = measure_sets(prediction_set(test, everyone), resample(test.groups, num_resamples=20), coverage=0.9)
    absent = rows[5]
    assert (absent.grade, absent.num_photographs, absent.covered.value, absent.mean_size) == (4, 0, None, None)


# Upper bounds


def test_the_upper_bound_is_the_highest_grade_that_is_not_excluded() -> None:
    # P(grade below k) is 0.7 for grade 3 and 0.95 for grade 4; grades up to the predicted 2 are never excluded.
    for limits, bound in (((0, 0, 0, 0.69, 0.94), 2), ((0, 0, 0, 0.71, 0.94), 3), ((0, 0, 0, 0.0, 0.96), 4)):
        found = grade_sets(ROW, ConformalLimits(sets=0.0, bounds=limits))
        assert (found.low.tolist(), found.high.tolist(), found.upper_bound.tolist()) == ([2], [2], [bound])
    assert grade_sets(ROW, set_limit(0.0), np.array([4])).upper_bound.tolist() == [4]
    # A set is part of what the bound allows.
    assert grade_sets(ROW, set_limit(0.66)).upper_bound.tolist() == [3]


def test_scores_of_bounds_are_those_of_each_grade() -> None:
    table, grades = np.repeat(ROW, 4, axis=0), np.array([4, 3, 3, 1])
    found = measure_conformity(table, grades, np.array([2, 2, 3, 2]))
    bounds = ((), (0.0,), (), (0.0, 0.7), (0.95,))
    assert found == Conformity(sets=(0.0, 0.65, 0.85, 1.0), set_grades=(3, 3, 1, 4), bounds=bounds)


def test_bounds_hold_the_target_coverage_of_every_grade() -> None:
    """Over many samples, also of the rare grades and of a model that grades them too low."""
    everyone = draw_photographs(40_000, 0, skill=0.7)
    predicted = np.maximum(everyone.predicted - 1, 0)
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(300):
        known, new = np.split(rng.choice(len(everyone), 1400), [400])
        limits = measure_conformity(everyone.probabilities[known], everyone.grades[known], predicted[known]).limits(0.9)
        bounds = grade_sets(everyone.probabilities[new], limits, predicted[new]).upper_bound
        grades = everyone.grades[new]
        covered.append([(bounds >= grade)[grades == grade].mean() for grade in range(5)])
    by_grade = np.mean(covered, axis=0)
    assert (by_grade >= 0.89).all()
    assert by_grade[4] < 0.95, "the highest grade is excluded where the limit allows it"


def test_a_grade_of_too_few_photographs_is_never_excluded() -> None:
    known = draw_photographs(400, 0)
    few = known.subset(np.concatenate([np.flatnonzero(known.grades < 4), np.flatnonzero(known.grades == 4)[:8]]))
    limits = measure_conformity(few.probabilities, few.grades).limits(0.9)
    assert (limits.bounds[4], limits.bounds[0]) == (NO_LIMIT, 0.0)
    assert (grade_sets(known.probabilities, limits).upper_bound == 4).all()
    assert NO_CONFORMITY.limits(0.5) == ConformalLimits(sets=NO_LIMIT, bounds=(NO_LIMIT,) * 5)


@pytest.mark.parametrize("num_photographs", [1, 7, 9, 10, 11, 60])
@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.99])
def test_known_coverage_leaves_each_photograph_out_of_its_own_limit(num_photographs: int, coverage: float) -> None:
    photographs = draw_photographs(num_photographs, num_photographs)
    conformity = measure_conformity(photographs.probabilities, photographs.grades, photographs.predicted)
    scores, grades = np.array(conformity.sets), np.array(conformity.set_grades)
    covered = np.array([scores[i] <= score_limit(np.delete(scores, i), coverage) for i in range(num_photographs)])
    found = conformity.known_coverage(coverage)
    assert [(of.grade, of.num_photographs, of.num_covered) for of in found] == [
        (None, num_photographs, covered.sum()),
        *((grade, (grades == grade).sum(), covered[grades == grade].sum()) for grade in range(5)),
    ]


def test_each_score_stays_with_its_grade() -> None:
    photographs = draw_photographs(80, 2)
    conformity = measure_conformity(photographs.probabilities, photographs.grades, photographs.predicted)
    scores = conformity_scores(photographs.probabilities, photographs.grades, photographs.predicted).round(4)
    for grade in range(5):
        own = np.array(conformity.sets)[np.array(conformity.set_grades) == grade]
        assert own.tolist() == sorted(scores[photographs.grades == grade].tolist())
    assert NO_CONFORMITY.known_coverage(0.9) == ()


def test_without_validation_photographs_the_limits_of_the_model_count() -> None:
    test, validation = draw_photographs(150, 0), draw_photographs(200, 50)
    resamples = resample(test.groups, num_resamples=20)
    known = validation.subset(held_out_half(validation.groups, validation.grades))
    conformity = measure_conformity(known.probabilities, known.grades, known.predicted)
    alone, both = prediction_set(test), prediction_set(test, validation)
    assert measure_sets(alone, resamples, coverage=0.9) == ()
    found = measure_sets(alone, resamples, coverage=0.9, conformity=conformity)
    assert found == measure_sets(both, resamples, coverage=0.9)
    assert found == measure_sets(both, resamples, coverage=0.9, conformity=NO_CONFORMITY)
