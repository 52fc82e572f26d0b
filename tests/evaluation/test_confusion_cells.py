"""The cells of a confusion matrix list their photographs, the least expected first; a difference lists who differs."""

from __future__ import annotations

import numpy as np

from fundusgrade.evaluation.confusion_cells import confusion_cells, difference_cells
from fundusgrade.metrics.classification import confusion_matrix
from tests.scored import draw_photographs, grade_again


def test_cells_hold_every_photograph_once() -> None:
    test = draw_photographs(200, 0)
    cells = confusion_cells(test)
    matrix = confusion_matrix(test.grades, test.predicted)
    assert [cell.num_photographs for cell in cells] == matrix.ravel().tolist()
    assert [(cell.grade, cell.predicted) for cell in cells] == [(i, j) for i in range(5) for j in range(5)]
    listed = [each.source for cell in cells for each in cell.photographs]
    assert sorted(listed) == sorted(test.sources)
    index = {source: i for i, source in enumerate(test.sources)}
    for cell in cells:
        of_true_grade = [test.probabilities[index[each.source], cell.grade] for each in cell.photographs]
        assert of_true_grade == sorted(of_true_grade)
        for each in cell.photographs:
            probabilities = test.probabilities[index[each.source]]
            assert abs(each.expected_grade - probabilities @ np.arange(5)) < 1e-9
            assert abs(each.referable - probabilities[2:].sum()) < 1e-9


def test_a_large_cell_lists_some_and_counts_all() -> None:
    test = draw_photographs(200, 0)
    whole, some = confusion_cells(test), confusion_cells(test, max_listed=3)
    for cell, shorter in zip(whole, some, strict=True):
        assert shorter.num_photographs == cell.num_photographs
        assert shorter.photographs == cell.photographs[:3]


def test_a_difference_of_two_matrices_lists_the_photographs_that_one_model_alone_puts_there() -> None:
    first = draw_photographs(200, 0)
    shuffled = np.random.default_rng(0).permutation(200)
    second = grade_again(first, 7, skill=1.0)
    cells = difference_cells(first, second.subset(shuffled))
    matrices = [confusion_matrix(each.grades, each.predicted) for each in (first, second)]
    assert [cell.difference for cell in cells] == (matrices[0] - matrices[1]).ravel().tolist()
    for cell in cells:
        names = [{each.source for each in part.photographs} for part in (cell.only_first, cell.only_second)]
        assert not names[0] & names[1]
        chosen = [(each.grades == cell.grade) & (each.predicted == cell.predicted) for each in (first, second)]
        alone = chosen[0] & ~chosen[1]
        assert names[0] == {first.sources[i] for i in np.flatnonzero(alone)}
