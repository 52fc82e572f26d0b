"""Concatenation of prepared data sets: each keeps its splits, and copies across them form one group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fundusgrade import store
from fundusgrade.data.dataset import PreparedDataset, load_dataset
from fundusgrade.data.descriptors import descriptor_path
from fundusgrade.data.duplicates import Grouping, Identity, group_photographs
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.errors import DatasetError
from fundusgrade.files import hash_text

SEPARATOR = "+"
"""Separates the names of concatenated data sets; it may not occur in a name."""


def open_dataset(names: Sequence[str], *, check_splits: bool = True) -> PreparedDataset:
    """Load a data set by name or folder, or the only one in the store where none is named.

    Several, also given as "A+B", are concatenated. Raises StoreError or DatasetError where one does not exist, and as
    `concatenate_datasets` does.
    """
    single = [part for name in names for part in ([name] if Path(name).exists() else name.split(SEPARATOR))]
    folders = [store.resolve_dataset(name) for name in single] or [store.resolve_dataset(None)]
    return concatenate_datasets([load_dataset(folder) for folder in folders], check_splits=check_splits)


def concatenate_datasets(datasets: Sequence[PreparedDataset], *, check_splits: bool = True) -> PreparedDataset:
    """Several data sets as one; each photograph keeps its split and, as `origin`, the name of its data set.

    Clusters of acquisition are numbered on, so that those of different data sets differ.
    Copies in several data sets form one group. Raises DatasetError where two have the same name or were preprocessed
    differently, or where a training photograph of one, or a copy of it, is held out in another; the last only with
    `check_splits`: folds make splits of their own, which keep copies together.
    """
    first, *others = datasets
    if not others:
        return first
    if len({dataset.name for dataset in datasets}) < len(datasets):
        names = ", ".join(dataset.name for dataset in datasets)
        raise DatasetError(f"data sets with the same name cannot be concatenated ({names}); name each data set once")
    for other in others:
        if other.recipe != first.recipe:
            raise DatasetError(
                f"{first.name!r} is {first.recipe.describe()}, {other.name!r} is {other.recipe.describe()}; "
                "preprocess them with the same options"
            )
    rows = _rows_of_all(datasets)
    grouping = _group_across(rows)
    if check_splits:
        _check_splits_of_copies(rows, grouping)
    return PreparedDataset(
        directory=first.directory.parent,
        name=SEPARATOR.join(dataset.name for dataset in datasets),
        recipe=first.recipe,
        seed=first.seed,
        hash=hash_text("\n".join(dataset.hash for dataset in datasets)),
        rows=tuple(replace(row, group=group) for row, group in zip(rows, grouping.groups, strict=True)),
        parts=tuple(datasets),
    )


def _rows_of_all(datasets: Sequence[PreparedDataset]) -> list[ManifestRow]:
    clusters_before = np.cumsum([0, *(_num_acquisitions(dataset) for dataset in datasets)])
    return [
        replace(
            row,
            image=(dataset.directory / row.image).absolute().as_posix() if row.image else "",
            source=f"{dataset.name}/{row.source}",
            origin=dataset.name,
            fold=None,
            acquisition=None if row.acquisition is None else row.acquisition + int(before),
        )
        for dataset, before in zip(datasets, clusters_before, strict=False)
        for row in dataset.rows
    ]


def _num_acquisitions(dataset: PreparedDataset) -> int:
    return max((row.acquisition for row in dataset.rows if row.acquisition is not None), default=0)


def _group_across(rows: Sequence[ManifestRow]) -> Grouping:
    """Groups of concatenated data sets: those of each, merged where a photograph of one has a copy in another."""
    return group_photographs(
        [
            Identity(
                sha256=row.sha256 or f"missing {i}",
                fingerprint=row.fingerprint,
                descriptor=descriptor_path(Path(row.image)) if row.image else None,
                patient=f"{row.origin} {row.group}",
            )
            for i, row in enumerate(rows)
        ]
    )


def _check_splits_of_copies(rows: Sequence[ManifestRow], grouping: Grouping) -> None:
    """Raise DatasetError where copies of one photograph are in different splits."""
    split_of: dict[int, tuple[str, str]] = {}
    for row, copy in zip(rows, grouping.copies, strict=True):
        if row.split is None:
            continue
        split, source = split_of.setdefault(copy, (row.split, row.source))
        if split != row.split:
            raise DatasetError(
                f"{source} ({split}) and {row.source} ({row.split}) are copies of one photograph in different splits "
                "(data leakage); preprocess the photographs of both as one data set"
            )
