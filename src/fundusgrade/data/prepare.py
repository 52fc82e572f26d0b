"""Prepare a data set: preprocessed images, leak-safe splits, a manifest and a contact sheet."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from fundusgrade import __version__, store
from fundusgrade.data.acquisition import cluster_acquisitions
from fundusgrade.data.contact_sheet import CONTACT_SHEET_FILE, Section, draw_contact_sheet
from fundusgrade.data.dataset import FORMAT_VERSION, PreparedDataset
from fundusgrade.data.descriptors import descriptor_path
from fundusgrade.data.duplicates import Grouping, Identity, group_photographs
from fundusgrade.data.manifest import ManifestRow, read_manifest, write_manifest
from fundusgrade.data.prepare_images import Record, prepare_photographs
from fundusgrade.data.samples import RawDataset, Sample
from fundusgrade.data.splits import SPLIT_FRACTIONS, assign_folds, split_groups
from fundusgrade.errors import DatasetError
from fundusgrade.files import now, write_atomically
from fundusgrade.grades import Grade
from fundusgrade.options import NUM_FOLDS
from fundusgrade.photographs.images import write_image
from fundusgrade.photographs.recipe import PreprocessRecipe


def prepare_dataset(
    raw: RawDataset,
    *,
    name: str,
    recipe: PreprocessRecipe,
    seed: int = 0,
    num_workers: int | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> PreparedDataset:
    """Preprocess all photographs in parallel, assign splits and folds, and write manifest and contact sheet.

    An earlier run that was interrupted is resumed. Photographs that cannot be used become rows with the reason. Splits
    are by patient and duplicate group, to prevent leakage. Raises DatasetError where a data set of this name was
    preprocessed with another recipe, or without `overwrite` from other photographs, and where no photograph can be
    used; then no folder is left.
    """
    directory = store.dataset_directory(name)
    _refuse_other_recipe(directory, recipe)
    if not overwrite:
        _refuse_other_photographs(directory, raw)
    records = prepare_photographs(
        raw.samples, directory, recipe, num_workers=num_workers or os.cpu_count() or 1, on_progress=on_progress
    )
    _refuse_nothing_usable(directory, raw, records)
    return _finish(directory, raw, records, recipe, seed)


def _refuse_nothing_usable(directory: Path, raw: RawDataset, records: Sequence[Record]) -> None:
    """Raise DatasetError where every photograph has a reason against it; a new folder holds nothing then, and goes."""
    reasons = Counter(record.error or sample.error for sample, record in zip(raw.samples, records, strict=True))
    if None in reasons or not reasons:
        return
    if not (directory / store.DATASET_FILE).is_file():
        shutil.rmtree(directory, ignore_errors=True)
    named = "; ".join(f"{count}: {reason}" for reason, count in reasons.most_common(3))
    raise DatasetError(f"none of {len(records)} photographs can be prepared, so there is no data set ({named})")


def _refuse_other_recipe(directory: Path, recipe: PreprocessRecipe) -> None:
    """Raise DatasetError where the folder holds a data set of another recipe; a damaged description is ignored."""
    try:
        described = json.loads((directory / store.DATASET_FILE).read_text(encoding="utf-8"))
        present = PreprocessRecipe.from_json(described["recipe"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    if present != recipe:
        raise DatasetError(
            f"the data set {directory.name!r} was made with {present.describe()}, not with {recipe.describe()}; "
            "choose another --name"
        )


def _refuse_other_photographs(directory: Path, raw: RawDataset) -> None:
    """Raise DatasetError where the folder holds a data set that shares no photograph with this one."""
    try:
        described = json.loads((directory / store.DATASET_FILE).read_text(encoding="utf-8"))
        root = described["root"] or ""
        present = {os.path.normpath(Path(root, row.source)) for row in read_manifest(directory).rows}
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return
    found = {os.path.normpath(Path(raw.root or "", sample.source)) for sample in raw.samples}
    if present and present.isdisjoint(found):
        raise DatasetError(
            f"the data set {directory.name!r} was made of {len(present)} other photographs, in {root}; "
            "choose another --name, or add --overwrite to replace it"
        )


def _finish(
    directory: Path, raw: RawDataset, records: Sequence[Record], recipe: PreprocessRecipe, seed: int
) -> PreparedDataset:
    samples = {sample.source: sample for sample in raw.samples}
    rows, grouping = _manifest_rows(directory, [samples[record.source] for record in records], records, seed)
    manifest = write_manifest(directory, rows)
    prepared = PreparedDataset(
        directory=directory,
        name=directory.name,
        recipe=recipe,
        seed=seed,
        hash=manifest.hash,
        rows=manifest.rows,
        root=raw.root,
    )
    write_image(directory / CONTACT_SHEET_FILE, draw_contact_sheet(_contact_sheet_sections(prepared)))
    write_atomically(directory / store.DATASET_FILE, _description(prepared, raw, grouping))
    return prepared


def _manifest_rows(
    directory: Path, samples: Sequence[Sample], records: Sequence[Record], seed: int
) -> tuple[tuple[ManifestRow, ...], Grouping]:
    grouping = group_photographs(_identities(directory, samples, records))
    grades_of_copies: dict[int, set[Grade]] = {}
    for sample, copy in zip(samples, grouping.copies, strict=True):
        grades_of_copies.setdefault(copy, set()).update([] if sample.grade is None else [sample.grade])
    errors = [record.error or sample.error for sample, record in zip(samples, records, strict=True)]
    usable = [i for i, error in enumerate(errors) if error is None and samples[i].grade is not None]
    split, fold = _assign_splits(usable, samples, grouping, seed)
    clusters = cluster_acquisitions([record.acquisition for record in records])
    rows = tuple(
        ManifestRow(
            image=record.image if errors[i] is None else "",
            source=sample.source,
            grade=sample.grade,
            split=split.get(i),
            fold=fold.get(i),
            group=grouping.groups[i],
            patient=sample.patient,
            eye=sample.eye,
            site=sample.site,
            error=errors[i],
            conflict=len(grades_of_copies[grouping.copies[i]]) > 1,
            sha256=record.sha256,
            fingerprint=record.fingerprint,
            quality=record.quality,
            acquisition=clusters[i],
        )
        for i, (sample, record) in enumerate(zip(samples, records, strict=True))
    )
    return rows, grouping


def _identities(directory: Path, samples: Sequence[Sample], records: Sequence[Record]) -> list[Identity]:
    return [
        Identity(
            sha256=record.sha256 or f"missing {i}",
            fingerprint=record.fingerprint,
            descriptor=descriptor_path(directory / record.image) if record.image else None,
            patient=sample.patient,
        )
        for i, (sample, record) in enumerate(zip(samples, records, strict=True))
    ]


def _assign_splits(
    usable: Sequence[int], samples: Sequence[Sample], grouping: Grouping, seed: int
) -> tuple[dict[int, str], dict[int, int]]:
    """The split and the fold of each usable photograph, by its index."""
    if not usable:
        return {}, {}
    groups = [grouping.groups[i] for i in usable]
    grades = [grade for i in usable if (grade := samples[i].grade) is not None]
    parts = split_groups(groups, grades, tuple(SPLIT_FRACTIONS.values()), seed)
    folds = assign_folds(groups, grades, NUM_FOLDS, seed)
    names = tuple(SPLIT_FRACTIONS)
    return {i: names[part] for i, part in zip(usable, parts, strict=True)}, dict(zip(usable, folds, strict=True))


def _description(prepared: PreparedDataset, raw: RawDataset, grouping: Grouping) -> str:
    rows = prepared.rows
    conflicting = [row for row in rows if row.conflict]
    clusters = [row.acquisition for row in rows]
    described = {
        "format": FORMAT_VERSION,
        "name": prepared.name,
        "created": now(),
        "fundusgrade": __version__,
        "layout": raw.layout,
        "root": None if raw.root is None else raw.root.as_posix(),
        "recipe": asdict(prepared.recipe),
        "recipe_key": prepared.recipe.key,
        "seed": prepared.seed,
        "hash": prepared.hash,
        "num_photographs": len(rows),
        "num_ungraded": sum(row.error is not None for row in rows),
        "num_flagged": sum(row.quality is not None and not row.quality.gradable for row in rows),
        "num_unlabeled_left_out": raw.num_unlabeled_left_out,
        "num_per_grade": {str(int(g)): sum(row.grade == g for row in rows) for g in Grade},
        "num_per_split": dict(sorted(Counter(row.split for row in rows if row.split).items())),
        "num_exact_duplicate_groups": grouping.num_exact_groups,
        "num_exact_duplicate_photographs": grouping.num_exact_photographs,
        "num_duplicate_groups": grouping.num_copy_groups,
        "num_duplicate_photographs": grouping.num_copy_photographs,
        "num_conflicting_photographs": len(conflicting),
        "num_per_acquisition": [count for _, count in sorted(Counter(filter(None, clusters)).items())],
    }
    return json.dumps(described, indent=2) + "\n"


def _contact_sheet_sections(dataset: PreparedDataset) -> list[Section]:
    """One section for each grade, and one for photographs without a grade."""
    titles = {grade: "without grade" if grade is None else f"{int(grade)} {grade.label}" for grade in (*Grade, None)}
    shown = [row for row in dataset.rows if row.error is None]
    return [
        Section(title=title, images=tuple(dataset.directory / row.image for row in shown if row.grade == grade))
        for grade, title in titles.items()
    ]
