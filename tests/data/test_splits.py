"""Photographs that belong together stay together, and every split looks like the whole."""

from __future__ import annotations

import numpy as np
import pytest

from fundusgrade.data import splits
from fundusgrade.data.splits import SPLIT_FRACTIONS, assign_folds, held_out_half, hold_out_source, split_groups
from fundusgrade.grades import NUM_GRADES, Grade
from fundusgrade.options import NUM_FOLDS

FRACTIONS = tuple(SPLIT_FRACTIONS.values())
FOLDS = (1 / NUM_FOLDS,) * NUM_FOLDS
APTOS_COUNTS = (1805, 370, 999, 193, 295)


# Splits


def aptos_like() -> tuple[list[int], list[Grade]]:
    """3,662 photographs with APTOS's grades in random order, 132 groups of copies among the diseased, 40 patients."""
    rng = np.random.default_rng(2019)
    grades = [Grade(int(grade)) for grade in rng.permutation(np.repeat(range(NUM_GRADES), APTOS_COUNTS))]
    groups = list(range(len(grades)))
    diseased = rng.permutation([i for i, grade in enumerate(grades) if grade > 0])
    for pair in range(132):
        groups[diseased[2 * pair + 1]] = groups[diseased[2 * pair]]
    any_index = rng.permutation(len(grades))
    for patient in range(40):
        for i in any_index[12 * patient : 12 * patient + 12]:
            groups[i] = len(grades) + patient
    return groups, grades


def parts_of_groups(groups: list[int], parts: tuple[int, ...]) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for group, part in zip(groups, parts, strict=True):
        found.setdefault(group, set()).add(part)
    return found


@pytest.mark.parametrize("fractions", [FRACTIONS, FOLDS])
def test_a_set_like_aptos_is_stratified_and_keeps_groups_whole(fractions: tuple[float, ...]) -> None:
    groups, grades = aptos_like()
    parts = split_groups(groups, grades, fractions, seed=0)
    assert {len(found) for found in parts_of_groups(groups, parts).values()} == {1}
    counts = np.zeros((len(fractions), NUM_GRADES))
    np.add.at(counts, (parts, grades), 1)
    assert counts.sum(axis=1) == pytest.approx(np.multiply(fractions, len(grades)), abs=12)
    assert counts == pytest.approx(np.outer(fractions, APTOS_COUNTS), abs=6)


def test_one_seed_gives_one_split_and_another_seed_another() -> None:
    groups, grades = aptos_like()
    first, again, other = (split_groups(groups, grades, FRACTIONS, seed) for seed in (0, 0, 1))
    assert first == again
    assert np.mean(np.not_equal(first, other)) > 0.2


def test_the_numbers_of_groups_do_not_matter() -> None:
    groups, grades = aptos_like()
    renamed = [7 * group + 3 for group in groups]
    assert split_groups(groups, grades, FRACTIONS, 0) == split_groups(renamed, grades, FRACTIONS, 0)


@pytest.mark.parametrize("fractions", [FRACTIONS, FOLDS])
def test_tiny_sets_are_split_too(fractions: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    for size in range(1, 11):
        for _ in range(5):
            grades = [Grade(int(grade)) for grade in rng.integers(0, NUM_GRADES, size)]
            groups = [int(group) for group in rng.integers(0, size, size)]
            parts = split_groups(groups, grades, fractions, seed=0)
            assert len(parts) == size and set(parts) <= set(range(len(fractions)))
            assert {len(found) for found in parts_of_groups(groups, parts).values()} == {1}


def test_one_photograph_goes_to_training() -> None:
    assert split_groups([5], [Grade.SEVERE], FRACTIONS, seed=0) == (0,)


def test_a_set_that_is_one_group_is_not_split() -> None:
    assert len(set(split_groups([1] * 20, [Grade(i % 5) for i in range(20)], FRACTIONS, seed=0))) == 1


def test_three_of_a_rare_grade_reach_all_three_splits() -> None:
    grades = [Grade.NONE] * 100 + [Grade.PROLIFERATIVE] * 3
    parts = split_groups(list(range(103)), grades, FRACTIONS, seed=0)
    assert sorted(parts[-3:]) == [0, 1, 2]


# Folds


@pytest.mark.parametrize("num_folds", [2, 5, 10])
def test_folds_are_equal_parts_with_equal_grades_that_keep_groups_whole(num_folds: int) -> None:
    groups, grades = aptos_like()
    folds = assign_folds(groups, grades, num_folds, seed=0)
    assert {len(found) for found in parts_of_groups(groups, folds).values()} == {1}
    counts = np.zeros((num_folds, NUM_GRADES))
    np.add.at(counts, (folds, grades), 1)
    assert counts.sum(axis=1) == pytest.approx(len(grades) / num_folds, abs=12)
    assert counts == pytest.approx(np.tile(np.divide(APTOS_COUNTS, num_folds), (num_folds, 1)), abs=6)


def test_folds_follow_from_the_seed_and_are_not_the_splits() -> None:
    groups, grades = aptos_like()
    first, again, other = (assign_folds(groups, grades, 5, seed) for seed in (0, 0, 1))
    assert first == again
    assert np.mean(np.not_equal(first, other)) > 0.5
    assert np.mean(np.not_equal(first, split_groups(groups, grades, FOLDS, seed=0))) > 0.5


# Leave one source out


def test_all_photographs_of_a_source_are_tested_and_none_of_their_groups_trains_or_chooses() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        origins = rng.choice(["a", "b", "c"], 60).tolist()
        groups = rng.integers(0, 40, 60).tolist()
        before = rng.choice(["train", "validation", "test"], 60).tolist()
        after = hold_out_source(origins, groups, before, "b")
        tested = {group for group, origin in zip(groups, origins, strict=True) if origin == "b"}
        for origin, group, was, now in zip(origins, groups, before, after, strict=True):
            if origin == "b":
                assert now == "test"
            elif group in tested:
                assert now is None
            elif was == "validation":
                assert now in ("validation", "train")
            else:
                assert now == "train", "what trained or was tested"
        splits_of_groups: dict[int, set[str | None]] = {}
        for group, now in zip(groups, after, strict=True):
            if group not in tested:
                splits_of_groups.setdefault(group, set()).add(now)
        assert {len(found) for found in splits_of_groups.values()} == {1}


def test_sources_without_copies_keep_their_validation_splits_and_train_on_the_rest() -> None:
    origins, before = ["a", "a", "a", "b", "b"], ["train", "validation", "test", "train", "validation"]
    assert hold_out_source(origins, range(5), before, "b") == ("train", "validation", "train", "test", "test")
    assert hold_out_source(origins, [0, 1, 1, 2, 3], before, "b")[1] == "train", "its copy trains"


# The half of a validation split that chooses nothing


def test_half_of_every_grade_is_held_out_and_no_group_is_divided() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 350, 500)
    grades = rng.choice(5, 350, p=[0.5, 0.1, 0.25, 0.05, 0.1])[groups]
    held_out = held_out_half(groups, grades)
    assert not set(groups[held_out].tolist()) & set(groups[~held_out].tolist())
    for grade in range(5):
        assert held_out[grades == grade].mean() == pytest.approx(0.5, abs=0.06)


def test_the_half_depends_on_groups_and_grades_but_not_on_their_order() -> None:
    rng = np.random.default_rng(1)
    groups, grades = rng.integers(0, 80, 120), rng.integers(0, 5, 120)
    held_out, order = held_out_half(groups, grades), rng.permutation(120)
    assert held_out.any()
    assert np.array_equal(held_out_half(groups[order], grades[order]), held_out[order])


def test_nothing_is_held_out_of_fewer_than_100_photographs() -> None:
    for num_photographs, num_held_out in ((99, 0), (100, 50)):
        groups, grades = np.arange(num_photographs), np.arange(num_photographs) % 2
        assert held_out_half(groups, grades).sum() == num_held_out


def test_nothing_is_held_out_where_the_others_would_have_one_grade_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "FEWEST_TO_HALVE", 1)
    for groups, grades in (([1, 1, 1], [0, 1, 2]), ([1, 2], [0, 3]), ([1, 2, 3], [0, 0, 0])):
        found = held_out_half(np.array(groups), np.array(grades))
        assert len(np.unique(np.array(grades)[~found])) == len(set(grades)) or found.sum() == 0
        assert found.sum() == 0
