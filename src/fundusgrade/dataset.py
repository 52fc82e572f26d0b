"""Labeled photographs -> a prepared data set: canonical pictures, a manifest with leak-safe splits, an overview.

Preparing is incremental. Each finished photograph is a line of `records.jsonl`; a later run takes over every line whose
photograph (by content hash) and recipe are unchanged. The manifest and `dataset.json` are written last, atomically.
"""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from fundusgrade import __version__, store
from fundusgrade.errors import DatasetError, UngradableError
from fundusgrade.grades import Grade
from fundusgrade.images import hash_file, read_image, write_image
from fundusgrade.labels import Sample, Samples
from fundusgrade.preprocess import Method, PreprocessRecipe, preprocess_photograph
from fundusgrade.splits import (
    NUM_FOLDS,
    SPLIT_FRACTIONS,
    Grouping,
    Identity,
    fingerprint,
    group_photographs,
    split_groups,
)

MANIFEST_FILE = "manifest.csv"
RECORDS_FILE = "records.jsonl"
PICTURES_FOLDER = "pictures"
OVERVIEW_FILE = "overview.png"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRow:
    """One photograph of a data set. `image` is its picture below the data set's folder, empty where `error` says why.

    `group` ties copies and a patient's photographs; `conflict` marks copies that carry different grades.
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


MANIFEST_COLUMNS = tuple(ManifestRow.__dataclass_fields__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedDataset:
    """A finished data set on disk; `hash` is that of its manifest."""

    directory: Path
    name: str
    recipe: PreprocessRecipe
    seed: int
    hash: str
    rows: tuple[ManifestRow, ...]

    def graded_rows(self, split: str | None = None) -> tuple[ManifestRow, ...]:
        """Rows with a picture and a grade, of one split or of all ("all" or None)."""
        usable = (row for row in self.rows if row.error is None and row.grade is not None)
        return tuple(row for row in usable if split in (None, "all", row.split))


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What preparing one photograph gave: a picture, or the reason why there is none."""

    source: str
    recipe: str
    sha256: str
    image: str
    fingerprint: str | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    sample: Sample
    image: str
    directory: Path
    recipe: PreprocessRecipe


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
    directory.mkdir(parents=True, exist_ok=True)
    known = {record.source: record for record in _read_records(directory / RECORDS_FILE)}
    tasks = _tasks(found.samples, directory, recipe)
    todo, records = _sort_out(tasks, known)
    on_progress(len(records), len(tasks))
    with (directory / RECORDS_FILE).open("a", encoding="utf-8") as journal:
        for record in _run(todo, num_workers or os.cpu_count() or 1):
            records[record.source] = record
            journal.write(json.dumps(asdict(record)) + "\n")
            journal.flush()
            on_progress(len(records), len(tasks))
    return _finish(directory, found, [records[task.sample.source] for task in tasks], recipe, seed)


def load_dataset(directory: Path) -> PreparedDataset:
    """Read a prepared data set. Raises DatasetError where its files are missing or damaged."""
    try:
        described = json.loads((directory / store.DATASET_FILE).read_text(encoding="utf-8"))
        text = (directory / MANIFEST_FILE).read_text(encoding="utf-8")
        rows = tuple(_row_from_cells(cells) for cells in csv.DictReader(io.StringIO(text)))
        recipe = described["recipe"]
        return PreparedDataset(
            directory=directory,
            name=described["name"],
            recipe=PreprocessRecipe(**{**recipe, "method": Method(recipe["method"])}),
            seed=described["seed"],
            hash=store.hash_text(text),
            rows=rows,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"the data set in {directory} cannot be read ({error}); make it again with `fundusgrade preprocess`"
        ) from error


def _refuse_other_recipe(directory: Path, recipe: PreprocessRecipe) -> None:
    if (directory / store.DATASET_FILE).is_file():
        present = load_dataset(directory).recipe
        if present != recipe:
            raise DatasetError(
                f"the data set {directory.name!r} was made with {present.method.value} at {present.size_px} px, asked "
                f"for is {recipe.method.value} at {recipe.size_px} px; give the new one a --name of its own"
            )


def _read_records(path: Path) -> Iterator[Record]:
    """All whole lines; a line that a kill cut short is as if it had not been begun."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield Record(**json.loads(line))
        except (ValueError, TypeError):
            continue


def _tasks(samples: Sequence[Sample], directory: Path, recipe: PreprocessRecipe) -> list[_Task]:
    """One task a photograph. Pictures keep the photograph's name; its suffix stays where two differ in nothing else."""
    unique = {sample.source: sample for sample in samples}
    places = {source: PurePosixPath(*[part for part in PurePosixPath(source).parts if part not in ("/", "..")])
              for source in unique}  # fmt: skip
    num_with_stem = Counter(place.with_suffix("") for place in places.values() if place.name)
    tasks = []
    for source, sample in unique.items():
        place = places[source]
        alone = num_with_stem[place.with_suffix("")] == 1
        image = place.with_suffix(".png") if alone else place.with_name(place.name + ".png")
        tasks.append(
            _Task(sample=sample, image=f"{PICTURES_FOLDER}/{image.as_posix()}", directory=directory, recipe=recipe)
        )
    return tasks


def _sort_out(tasks: Sequence[_Task], known: dict[str, Record]) -> tuple[list[_Task], dict[str, Record]]:
    """Which photographs are still to be prepared, and the records of those that need no work."""
    todo, records = [], {}
    for task in tasks:
        source, record = task.sample.source, known.get(task.sample.source)
        if task.sample.path is None:
            records[source] = _failed(task, task.sample.error or "the photograph is missing")
        elif record is not None and _is_current(task, record):
            records[source] = record
        else:
            todo.append(task)
    return todo, records


def _is_current(task: _Task, record: Record) -> bool:
    """A record still holds if recipe, picture and the photograph's content are what they were; failures are retried."""
    if record.error is not None or record.recipe != task.recipe.key or record.image != task.image:
        return False
    path = task.sample.path
    return path is not None and (task.directory / task.image).is_file() and hash_file(path) == record.sha256


def _run(tasks: Sequence[_Task], num_workers: int) -> Iterator[Record]:
    """Prepare photographs in worker processes, in order, with a bounded number under way."""
    if num_workers <= 1 or len(tasks) < 8:
        yield from map(prepare_photograph, tasks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_worker) as pool:
        waiting = iter(tasks)
        futures = [pool.submit(prepare_photograph, task) for task in islice(waiting, num_workers * 8)]
        while futures:
            yield futures.pop(0).result()
            futures += [pool.submit(prepare_photograph, task) for task in islice(waiting, 1)]


def _start_worker() -> None:
    """One thread a worker, and no worker outlives a parent that was killed."""
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def prepare_photograph(task: _Task) -> Record:
    """Read, preprocess and write one photograph; runs in a worker process and never raises for a bad photograph."""
    path = task.sample.path
    assert path is not None, "only samples with a photograph are tasks"
    sha256 = ""
    try:
        sha256 = hash_file(path)
        prepared = preprocess_photograph(read_image(path), task.recipe)
    except UngradableError as error:
        return _failed(task, str(error), sha256)
    except OSError as error:
        return _failed(task, f"cannot be read: {error.strerror}", sha256)
    target = task.directory / task.image
    target.parent.mkdir(parents=True, exist_ok=True)
    write_image(target, prepared.picture)
    return Record(
        source=task.sample.source,
        recipe=task.recipe.key,
        sha256=sha256,
        image=task.image,
        fingerprint=fingerprint(prepared.picture, prepared.mask),
        error=task.sample.error,
    )


def _failed(task: _Task, reason: str, sha256: str = "") -> Record:
    return Record(
        source=task.sample.source, recipe=task.recipe.key, sha256=sha256, image="", fingerprint=None, error=reason
    )


def _finish(
    directory: Path, found: Samples, records: Sequence[Record], recipe: PreprocessRecipe, seed: int
) -> PreparedDataset:
    samples = {sample.source: sample for sample in found.samples}
    rows, grouping = _manifest_rows([samples[record.source] for record in records], records, seed)
    manifest = _manifest_text(rows)
    prepared = PreparedDataset(
        directory=directory, name=directory.name, recipe=recipe, seed=seed, hash=store.hash_text(manifest), rows=rows
    )
    store.write_atomically(directory / MANIFEST_FILE, manifest)
    write_image(directory / OVERVIEW_FILE, draw_overview(prepared))
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
    grades_of_copies: dict[int, set[Grade | None]] = {}
    for sample, copy in zip(samples, grouping.copies, strict=True):
        grades_of_copies.setdefault(copy, set()).add(sample.grade)
    usable = [i for i, record in enumerate(records) if record.error is None and samples[i].grade is not None]
    split, fold = _deal(usable, samples, grouping, seed)
    rows = tuple(
        ManifestRow(
            image=record.image if record.error is None else "",
            source=sample.source,
            grade=sample.grade,
            split=split.get(i),
            fold=fold.get(i),
            group=grouping.groups[i],
            patient=sample.patient,
            eye=sample.eye,
            site=sample.site,
            error=record.error,
            conflict=len(grades_of_copies[grouping.copies[i]]) > 1,
            sha256=record.sha256,
            fingerprint=record.fingerprint,
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
    folds = split_groups(groups, grades, (1 / NUM_FOLDS,) * NUM_FOLDS, seed + 1)
    names = tuple(SPLIT_FRACTIONS)
    return {i: names[part] for i, part in zip(usable, parts, strict=True)}, dict(zip(usable, folds, strict=True))


def _manifest_text(rows: Sequence[ManifestRow]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(MANIFEST_COLUMNS)
    for row in rows:
        cells = [getattr(row, column) for column in MANIFEST_COLUMNS]
        writer.writerow(["" if cell is None else int(cell) if isinstance(cell, int) else cell for cell in cells])
    return out.getvalue()


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
        "recipe": asdict(prepared.recipe),
        "recipe_key": prepared.recipe.key,
        "seed": prepared.seed,
        "hash": prepared.hash,
        "num_photographs": len(rows),
        "num_ungraded": sum(row.error is not None for row in rows),
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


def draw_overview(
    dataset: PreparedDataset, columns: int = 10, tile_px: int = 112
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A contact sheet (H, W, 3): two lines of pictures of every grade, spread over the data set; ungraded ones last."""
    by_grade = [[row for row in dataset.rows if row.error is None and row.grade == grade] for grade in (*Grade, None)]
    lines = []
    for grade, rows in zip((*Grade, None), by_grade, strict=True):
        if rows:
            step = max(1, len(rows) // (2 * columns))
            title = f"{int(grade)} {grade.label}" if grade is not None else "without grade"
            lines.append(_overview_lines(dataset.directory, rows[::step][: 2 * columns], title, columns, tile_px))
    if not lines:
        return np.full((tile_px, columns * tile_px, 3), 255, np.uint8)
    return np.concatenate(lines, axis=0)


def _overview_lines(
    directory: Path, rows: Sequence[ManifestRow], title: str, columns: int, tile_px: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    heading_px, num_lines = 22, -(-len(rows) // columns)
    sheet = np.full((heading_px + num_lines * tile_px, columns * tile_px, 3), 255, np.uint8)
    cv2.putText(sheet, title, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    for i, row in enumerate(rows):
        tile = cv2.resize(read_image(directory / row.image), (tile_px, tile_px), interpolation=cv2.INTER_AREA)
        top, left = heading_px + i // columns * tile_px, i % columns * tile_px
        sheet[top : top + tile_px, left : left + tile_px] = tile
    return sheet
