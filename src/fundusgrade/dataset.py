"""Labeled photographs -> a prepared data set: canonical pictures, a manifest with leak-safe splits, an overview.

The manifest and `dataset.json` are written last, atomically, when all pictures are there.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fundusgrade import __version__, store
from fundusgrade.errors import DatasetError
from fundusgrade.grades import Grade
from fundusgrade.images import write_image
from fundusgrade.labels import Sample, Samples, path_of_source
from fundusgrade.overview import Section, draw_overview
from fundusgrade.preparing import Record, prepare_photographs
from fundusgrade.preprocess import PreprocessRecipe
from fundusgrade.quality import Quality
from fundusgrade.splits import (
    FOLD_FRACTIONS,
    NUM_FOLDS,
    SPLIT_FRACTIONS,
    Grouping,
    Identity,
    deal_folds,
    group_photographs,
    split_groups,
)

MANIFEST_FILE = "manifest.csv"
OVERVIEW_FILE = "overview.png"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRow:
    """One photograph of a data set. `image` is its picture below the data set's folder, empty where `error` says why.

    `source` is the photograph's name, below the data set's `root`. `group` ties copies and a patient's photographs;
    `conflict` marks copies that carry different grades. `origin` names the data set where several were joined.
    """

    image: str
    source: str
    grade: Grade | None
    split: str | None
    fold: int | None
    group: int
    patient: str | None
    eye: str | None
    site: str | None
    error: str | None
    conflict: bool
    sha256: str
    fingerprint: str | None
    quality: Quality | None = None
    origin: str | None = None


_NOT_COLUMNS = ("quality", "origin")
_QUALITY_COLUMNS = tuple(Quality.__dataclass_fields__)
MANIFEST_COLUMNS = (
    *(name for name in ManifestRow.__dataclass_fields__ if name not in _NOT_COLUMNS),
    *("gradable", "quality_reasons"),
    *_QUALITY_COLUMNS,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedDataset:
    """A finished data set on disk; `hash` is that of its manifest, `root` the folder that its photographs came from.

    `parts` are the data sets that were joined to this one, none of an ordinary one.
    """

    directory: Path
    name: str
    recipe: PreprocessRecipe
    seed: int
    hash: str
    rows: tuple[ManifestRow, ...]
    root: Path | None = None
    parts: tuple[PreparedDataset, ...] = ()

    def photograph_path(self, row: ManifestRow) -> Path:
        """Where the photograph of a row lies. Raises DatasetError where the data set does not say so."""
        for part in self.parts:
            if part.name == row.origin:
                return part.photograph_path(replace(row, source=row.source.removeprefix(f"{part.name}/")))
        if self.root is None:
            raise DatasetError(
                f"the data set {self.name!r} does not say where its photographs are; run `fundusgrade preprocess` again"
            )
        return path_of_source(self.root, row.source)

    def graded_rows(self, split: str | None = None) -> tuple[ManifestRow, ...]:
        """Rows with a picture and a grade, of one split or of all ("all" or None)."""
        usable = (row for row in self.rows if row.error is None and row.grade is not None)
        return tuple(row for row in usable if split in (None, "all", row.split))

    def with_fold(self, fold: int, num_folds: int = NUM_FOLDS) -> PreparedDataset:
        """The same data set with fold 1..num_folds as its test split, and an eighth of the rest to validate on.

        Folds never separate what belongs together; those of the manifest are used where there are as many. Raises
        DatasetError for a fold that does not exist.
        """
        if not 1 <= fold <= num_folds or num_folds < 2:
            raise DatasetError(f"there is no fold {fold} of {num_folds}; expected 1 to {num_folds}, of at least 2")
        rows = self.graded_rows()
        folds = deal_folds([row.group for row in rows], [_grade_of(row) for row in rows], num_folds, self.seed)
        rest = [row for row, number in zip(rows, folds, strict=True) if number != fold - 1]
        parts = split_groups(
            [row.group for row in rest], [_grade_of(row) for row in rest], FOLD_FRACTIONS, self.seed + 1 + fold
        )
        is_validation = {row.source for row, part in zip(rest, parts, strict=True) if part == 1}
        in_fold = {row.source for row, number in zip(rows, folds, strict=True) if number == fold - 1}
        splits = {
            row.source: "test" if row.source in in_fold else "validation" if row.source in is_validation else "train"
            for row in rows
        }
        return replace(self, rows=tuple(replace(row, split=splits.get(row.source)) for row in self.rows))


def _grade_of(row: ManifestRow) -> Grade:
    assert row.grade is not None, "only graded rows are dealt"
    return row.grade


def prepare_dataset(
    found: Samples,
    *,
    name: str,
    recipe: PreprocessRecipe,
    seed: int = 0,
    num_workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> PreparedDataset:
    """Prepare all photographs in parallel, resume what an earlier run left, and write manifest and overview.

    Unreadable photographs become rows with a reason. Raises DatasetError where a data set of this name was made with
    another recipe.
    """
    directory = store.dataset_directory(name)
    _refuse_other_recipe(directory, recipe)
    records = prepare_photographs(
        found.samples, directory, recipe, num_workers=num_workers or os.cpu_count() or 1, on_progress=on_progress
    )
    return _finish(directory, found, records, recipe, seed)


def load_dataset(directory: Path) -> PreparedDataset:
    """Read a prepared data set. Raises DatasetError where its files are missing or damaged."""
    try:
        described = json.loads((directory / store.DATASET_FILE).read_text(encoding="utf-8"))
        text = (directory / MANIFEST_FILE).read_text(encoding="utf-8")
        rows = _rows_from_text(text)
        return PreparedDataset(
            directory=directory,
            name=described["name"],
            recipe=PreprocessRecipe.from_json(described["recipe"]),
            seed=described["seed"],
            hash=store.hash_text(text),
            rows=rows,
            root=Path(described["root"]) if described.get("root") else None,
        )
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DatasetError(
            f"the data set in {directory} cannot be read ({error!r}); make it again with `fundusgrade preprocess`"
        ) from error


def _refuse_other_recipe(directory: Path, recipe: PreprocessRecipe) -> None:
    """A description that is missing or damaged refuses nothing: its data set has to be made again."""
    try:
        described = json.loads((directory / store.DATASET_FILE).read_text(encoding="utf-8"))
        present = PreprocessRecipe.from_json(described["recipe"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    if present != recipe:
        raise DatasetError(
            f"the data set {directory.name!r} was made with {present.describe()}, asked for is {recipe.describe()}; "
            "give the new one a --name of its own"
        )


def _finish(
    directory: Path, found: Samples, records: Sequence[Record], recipe: PreprocessRecipe, seed: int
) -> PreparedDataset:
    samples = {sample.source: sample for sample in found.samples}
    rows, grouping = _manifest_rows([samples[record.source] for record in records], records, seed)
    manifest = manifest_text(rows)
    prepared = PreparedDataset(
        directory=directory,
        name=directory.name,
        recipe=recipe,
        seed=seed,
        hash=store.hash_text(manifest),
        rows=rows,
        root=found.root,
    )
    store.write_atomically(directory / MANIFEST_FILE, manifest)
    write_image(directory / OVERVIEW_FILE, draw_overview(_overview_sections(prepared)))
    store.write_atomically(directory / store.DATASET_FILE, _description(prepared, found, grouping))
    return prepared


def _manifest_rows(
    samples: Sequence[Sample], records: Sequence[Record], seed: int
) -> tuple[tuple[ManifestRow, ...], Grouping]:
    identities = [
        Identity(sha256=record.sha256 or f"missing {i}", fingerprint=record.fingerprint, patient=sample.patient)
        for i, (sample, record) in enumerate(zip(samples, records, strict=True))
    ]
    grouping = group_photographs(identities)
    grades_of_copies: dict[int, set[Grade]] = {}
    for sample, copy in zip(samples, grouping.copies, strict=True):
        grades_of_copies.setdefault(copy, set()).update([] if sample.grade is None else [sample.grade])
    errors = [record.error or sample.error for sample, record in zip(samples, records, strict=True)]
    usable = [i for i, error in enumerate(errors) if error is None and samples[i].grade is not None]
    split, fold = _deal(usable, samples, grouping, seed)
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
        )
        for i, (sample, record) in enumerate(zip(samples, records, strict=True))
    )
    return rows, grouping


def _deal(
    usable: Sequence[int], samples: Sequence[Sample], grouping: Grouping, seed: int
) -> tuple[dict[int, str], dict[int, int]]:
    """Split name and fold number of every usable photograph."""
    if not usable:
        return {}, {}
    groups = [grouping.groups[i] for i in usable]
    grades = [grade for i in usable if (grade := samples[i].grade) is not None]
    parts = split_groups(groups, grades, tuple(SPLIT_FRACTIONS.values()), seed)
    folds = deal_folds(groups, grades, NUM_FOLDS, seed)
    names = tuple(SPLIT_FRACTIONS)
    return {i: names[part] for i, part in zip(usable, parts, strict=True)}, dict(zip(usable, folds, strict=True))


def manifest_text(rows: Sequence[ManifestRow]) -> str:
    """The manifest as CSV with a header; what is not known is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(MANIFEST_COLUMNS)
    for row in rows:
        cells = [getattr(row, column) for column in ManifestRow.__dataclass_fields__ if column not in _NOT_COLUMNS]
        labels = ["" if cell is None else int(cell) if isinstance(cell, int) else cell for cell in cells]
        writer.writerow([*labels, *_quality_cells(row.quality)])
    return out.getvalue()


def _quality_cells(quality: Quality | None) -> list[str]:
    if quality is None:
        return [""] * (2 + len(_QUALITY_COLUMNS))
    measured = [f"{getattr(quality, name):.4f}" for name in _QUALITY_COLUMNS]
    return [str(int(quality.gradable)), "; ".join(quality.reasons), *measured]


def _rows_from_text(text: str) -> tuple[ManifestRow, ...]:
    reader = csv.DictReader(io.StringIO(text))
    missing = set(MANIFEST_COLUMNS) - set(reader.fieldnames or ())
    if missing:
        raise ValueError(f"its manifest lacks the columns {', '.join(sorted(missing))}")
    return tuple(_row_from_cells(cells) for cells in reader)


def _row_from_cells(cells: dict[str, str]) -> ManifestRow:
    return ManifestRow(
        image=cells["image"],
        source=cells["source"],
        grade=Grade(int(cells["grade"])) if cells["grade"] else None,
        split=cells["split"] or None,
        fold=int(cells["fold"]) if cells["fold"] else None,
        group=int(cells["group"]),
        patient=cells["patient"] or None,
        eye=cells["eye"] or None,
        site=cells["site"] or None,
        error=cells["error"] or None,
        conflict=cells["conflict"] == "1",
        sha256=cells["sha256"],
        fingerprint=cells["fingerprint"] or None,
        quality=Quality(**{name: float(cells[name]) for name in _QUALITY_COLUMNS}) if cells["gradable"] else None,
    )


def _description(prepared: PreparedDataset, found: Samples, grouping: Grouping) -> str:
    rows = prepared.rows
    conflicting = [row for row in rows if row.conflict]
    described = {
        "format": FORMAT_VERSION,
        "name": prepared.name,
        "created": store.now(),
        "fundusgrade": __version__,
        "layout": found.layout,
        "root": None if found.root is None else found.root.as_posix(),
        "recipe": asdict(prepared.recipe),
        "recipe_key": prepared.recipe.key,
        "seed": prepared.seed,
        "hash": prepared.hash,
        "num_photographs": len(rows),
        "num_ungraded": sum(row.error is not None for row in rows),
        "num_flagged": sum(row.quality is not None and not row.quality.gradable for row in rows),
        "num_unlabeled_left_out": found.num_unlabeled_left_out,
        "num_per_grade": {str(int(g)): sum(row.grade == g for row in rows) for g in Grade},
        "num_per_split": dict(sorted(Counter(row.split for row in rows if row.split).items())),
        "num_exact_duplicate_groups": grouping.num_exact_groups,
        "num_exact_duplicate_photographs": grouping.num_exact_photographs,
        "num_duplicate_groups": grouping.num_copy_groups,
        "num_duplicate_photographs": grouping.num_copy_photographs,
        "num_conflicting_photographs": len(conflicting),
    }
    return json.dumps(described, indent=2) + "\n"


def _overview_sections(dataset: PreparedDataset) -> list[Section]:
    """One for every grade, and one for photographs without."""
    titles = {grade: "without grade" if grade is None else f"{int(grade)} {grade.label}" for grade in (*Grade, None)}
    shown = [row for row in dataset.rows if row.error is None]
    return [
        Section(title=title, pictures=tuple(dataset.directory / row.image for row in shown if row.grade == grade))
        for grade, title in titles.items()
    ]
