"""Leak-safe splits and folds: by patient and duplicate group, stratified by grade."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from fundusgrade.grades import NUM_GRADES, Grade

SPLIT_FRACTIONS = {"train": 0.70, "validation": 0.15, "test": 0.15}
# Training and validation of what is left when one fold is held out.
FOLD_FRACTIONS = (7 / 8, 1 / 8)


def assign_folds(groups: Sequence[int], grades: Sequence[Grade], num_folds: int, seed: int) -> tuple[int, ...]:
    """The fold, 0 to `num_folds - 1`, of each photograph: equal parts with equal grades that never part a group."""
    return split_groups(groups, grades, (1 / num_folds,) * num_folds, seed + 1)


def split_groups(
    groups: Sequence[int], grades: Sequence[Grade], fractions: Sequence[float], seed: int
) -> tuple[int, ...]:
    """Deal whole groups to parts so that each part gets its fraction of every grade; the part number of each item.

    Large groups first, in random order otherwise; each goes to the part that then lacks most of the group's grades,
    relative to what it should get.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    counts = {group: np.bincount([grades[i] for i in items], minlength=NUM_GRADES) for group, items in members.items()}
    rng = np.random.default_rng(seed)
    order = [list(members)[i] for i in rng.permutation(len(members))]
    order.sort(key=lambda group: -len(members[group]))
    wanted = np.outer(fractions, np.bincount(grades, minlength=NUM_GRADES)).astype(np.float64)
    given = np.zeros_like(wanted)
    part_of_group: dict[int, int] = {}
    for group in order:
        present = counts[group] > 0
        lack = (wanted - given)[:, present] / np.maximum(wanted[:, present], 1e-9)
        total_lack = (wanted - given).sum(axis=1) / wanted.sum(axis=1)
        part = int(np.argmax(lack @ counts[group][present] / counts[group].sum() + 1e-3 * total_lack))
        part_of_group[group] = part
        given[part] += counts[group]
    return tuple(part_of_group[group] for group in groups)
