"""Leak-safe splits and folds: by patient and duplicate group, stratified by grade."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fundusgrade.grades import NUM_GRADES, Grade

SPLIT_FRACTIONS = {"train": 0.70, "validation": 0.15, "test": 0.15}
"""Fraction of all photographs in each split."""
FEWEST_TO_HALVE = 100
"""Photographs that a validation split needs to be halved."""
_HALF_SEED = 4
FOLD_FRACTIONS = (7 / 8, 1 / 8)
"""Training and validation, of the photographs that are not in the test fold."""


def assign_folds(groups: Sequence[int], grades: Sequence[Grade], num_folds: int, seed: int) -> tuple[int, ...]:
    """The fold of each photograph, from 0: of equal size, stratified by grade, with each group in one fold."""
    return split_groups(groups, grades, (1 / num_folds,) * num_folds, seed + 1)


def hold_out_source(
    origins: Sequence[str], groups: Sequence[int], splits: Sequence[str | None], held_out: str
) -> tuple[str | None, ...]:
    """The split of each photograph where all of one source are tested and the others train: leave one source out.

    Photographs of another source keep a validation split, and train where they were trained or tested: none of them is
    tested here. Those of a group with a photograph of the source that is held out have no split (None): they neither
    train nor choose anything. A group that is in training of one source and in validation of another trains.
    """
    tested = {group for group, origin in zip(groups, origins, strict=True) if origin == held_out}
    trained = {group for group, split in zip(groups, splits, strict=True) if split != "validation"}
    return tuple(
        "test" if origin == held_out else None if group in tested else "train" if group in trained else "validation"
        for origin, group in zip(origins, groups, strict=True)
    )


def held_out_half(groups: NDArray[np.int64], grades: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Half of the photographs (N,) of a validation split, stratified by grade, with each group in one half.

    Conformity scores come from this half, and it chooses nothing: neither epoch, nor calibration, nor thresholds. It
    depends on groups (N,) and grades (N,) only, so that whoever has these knows it. None are held out of fewer than
    `FEWEST_TO_HALVE`, nor where the others would have fewer than two grades to choose by: then all of them choose.
    """
    none = np.zeros(len(groups), bool)
    if len(groups) < FEWEST_TO_HALVE:
        return none
    order = np.lexsort((grades, groups))
    parts = split_groups(
        groups[order].tolist(), [Grade(grade) for grade in grades[order].tolist()], (0.5, 0.5), _HALF_SEED
    )
    held_out = none.copy()
    held_out[order] = np.array(parts, np.int64) == 1
    return held_out if len(np.unique(grades[~held_out])) > 1 else none


def split_groups(
    groups: Sequence[int], grades: Sequence[Grade], fractions: Sequence[float], seed: int
) -> tuple[int, ...]:
    """Assign whole groups to parts so that each part gets its fraction of every grade; the part of each item, from 0.

    Greedy and stratified: large groups first, groups of one size in random order; each goes to the part that lacks most
    of the group's grades, relative to the number it should get.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    counts = {group: np.bincount([grades[i] for i in items], minlength=NUM_GRADES) for group, items in members.items()}
    rng = np.random.default_rng(seed)
    order = [list(members)[i] for i in rng.permutation(len(members))]
    order.sort(key=lambda group: -len(members[group]))
    target = np.outer(fractions, np.bincount(grades, minlength=NUM_GRADES)).astype(np.float64)
    assigned = np.zeros_like(target)
    part_of_group: dict[int, int] = {}
    for group in order:
        present = counts[group] > 0
        deficit = (target - assigned)[:, present] / np.maximum(target[:, present], 1e-9)
        total_deficit = (target - assigned).sum(axis=1) / target.sum(axis=1)
        part = int(np.argmax(deficit @ counts[group][present] / counts[group].sum() + 1e-3 * total_deficit))
        part_of_group[group] = part
        assigned[part] += counts[group]
    return tuple(part_of_group[group] for group in groups)
