"""Several prepared data sets as one: each keeps its splits, and copies across them are one group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fundusgrade import store
from fundusgrade.data.dataset import PreparedDataset, load_dataset
from fundusgrade.data.duplicates import Grouping, Identity, group_photographs
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.errors import DatasetError
from fundusgrade.files import hash_text

JOINED_BY = "+"
"""Stands between the names of joined data sets; no name holds it."""


def open_dataset(named: Sequence[str]) -> PreparedDataset:
    """The data set of a name or folder, the only one of the store where none is named; several are joined.

    The name of joined sets, "A+B", stands for them. Raises StoreError or DatasetError where there is none.
    """
    each = [part for name in named for part in ([name] if Path(name).exists() else name.split(JOINED_BY))]
    folders = [store.resolve_dataset(name) for name in each] or [store.resolve_dataset(None)]
    return join_datasets([load_dataset(folder) for folder in folders])


def join_datasets(datasets: Sequence[PreparedDataset]) -> PreparedDataset:
    """Several data sets as one to train on; each photograph keeps its split and, as `origin`, the name of its set.

    Copies in several sets become one group. Raises DatasetError where two sets have one name or were prepared
    differently, or where a photograph of one set's training split, or a copy of it, is held out in another.
    """
    first, *others = datasets
    if not others:
        return first
    if len({dataset.name for dataset in datasets}) < len(datasets):
        names = ", ".join(dataset.name for dataset in datasets)
        raise DatasetError(f"data sets of one name cannot be joined ({names}); give each once, under its own name")
    for other in others:
        if other.recipe != first.recipe:
            raise DatasetError(
                f"{first.name!r} is {first.recipe.describe()}, {other.name!r} is {other.recipe.describe()}; "
                "prepare them alike"
            )
    rows = [
        replace(
            row,
            image=(dataset.directory / row.image).absolute().as_posix() if row.image else "",
            source=f"{dataset.name}/{row.source}",
            origin=dataset.name,
            fold=None,
        )
        for dataset in datasets
        for row in dataset.rows
    ]
    grouping = _tie_across(rows)
    _refuse_parted_copies(rows, grouping)
    return PreparedDataset(
        directory=first.directory.parent,
        name=JOINED_BY.join(dataset.name for dataset in datasets),
        recipe=first.recipe,
        seed=first.seed,
        hash=hash_text("\n".join(dataset.hash for dataset in datasets)),
        rows=tuple(replace(row, group=group) for row, group in zip(rows, grouping.groups, strict=True)),
        parts=tuple(datasets),
    )


def _tie_across(rows: Sequence[ManifestRow]) -> Grouping:
    """Groups of joined data sets: those of each set, tied where a photograph of one has a copy in another."""
    return group_photographs(
        [
            Identity(
                sha256=row.sha256 or f"missing {i}", fingerprint=row.fingerprint, patient=f"{row.origin} {row.group}"
            )
            for i, row in enumerate(rows)
        ]
    )


def _refuse_parted_copies(rows: Sequence[ManifestRow], grouping: Grouping) -> None:
    split_of: dict[int, tuple[str, str]] = {}
    for row, copy in zip(rows, grouping.copies, strict=True):
        if row.split is None:
            continue
        split, source = split_of.setdefault(copy, (row.split, row.source))
        if split != row.split:
            raise DatasetError(
                f"{source} ({split}) and {row.source} ({row.split}) are copies of one photograph: what is held out "
                "in one data set must not train in another; prepare both as one data set"
            )
