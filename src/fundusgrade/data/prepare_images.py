"""Photographs -> preprocessed images on disk: in parallel, and only where something has changed.

Each finished photograph is a line of `records.jsonl`; a later run reuses every line whose photograph (by its
content hash) and recipe are unchanged.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TextIO

import cv2

from fundusgrade.data.acquisition import Acquisition, measure_acquisition
from fundusgrade.data.descriptors import (
    DESCRIPTOR_RECIPE,
    Descriptor,
    describe_detail,
    descriptor_path,
    write_descriptor,
)
from fundusgrade.data.fingerprints import fingerprint, is_fingerprint
from fundusgrade.data.samples import Sample
from fundusgrade.errors import DatasetError, StoreError, UngradableError
from fundusgrade.files import HOME_VARIABLE, hash_file, make_folder
from fundusgrade.photographs.images import write_image
from fundusgrade.photographs.loading import LoadedPhotograph, load_photograph
from fundusgrade.photographs.preprocess import image_to_store, preprocess
from fundusgrade.photographs.quality import Quality
from fundusgrade.photographs.recipe import PreprocessRecipe
from fundusgrade.text import error_text

RECORDS_FILE = "records.jsonl"
IMAGES_FOLDER = "pictures"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The result of preprocessing one photograph: an image, or the reason why there is none. It holds no labels."""

    source: str
    """Path of the photograph, below the folder that the data set is made from."""
    recipe: str
    """Key of the recipe."""
    sha256: str
    """Hash of the photograph's file, in hexadecimal; empty where it could not be read."""
    image: str
    """Path of the image, below the data set's folder; empty where there is none."""
    fingerprint: str | None
    """Perceptual fingerprint, in hexadecimal; the descriptor that it is made from is stored beside the image."""
    error: str | None
    """Why there is no image."""
    quality: Quality | None
    acquisition: Acquisition | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    sample: Sample
    image: str
    directory: Path
    recipe: PreprocessRecipe


def prepare_photographs(
    samples: Sequence[Sample],
    directory: Path,
    recipe: PreprocessRecipe,
    *,
    num_workers: int,
    on_progress: Callable[[int, int], None],
) -> list[Record]:
    """Preprocess the photographs that an earlier run has not, into images below `directory`.

    Returns one record per source, in the order of samples. Raises StoreError where images cannot be
    written, DatasetError where a worker process is killed.
    """
    tasks = _tasks(samples, directory, recipe)
    earlier = {record.source: record for record in _read_records(directory / RECORDS_FILE)}
    remaining, records = _split_finished(tasks, earlier)
    on_progress(len(records), len(tasks))
    with _open_journal(directory / RECORDS_FILE) as journal:
        for record in _run(remaining, num_workers):
            records[record.source] = record
            _append(journal, record)
            on_progress(len(records), len(tasks))
    return [records[task.sample.source] for task in tasks]


def _read_records(path: Path) -> Iterator[Record]:
    """All complete lines; one that was cut short when the process was killed is ignored."""
    if not path.is_file():
        return
    for line in path.read_bytes().splitlines():
        try:
            fields = json.loads(line)
            quality, acquisition = fields.pop("quality"), fields.pop("acquisition")
            yield Record(
                **fields,
                quality=None if quality is None else Quality(**quality),
                acquisition=None if acquisition is None else Acquisition(**acquisition),
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            continue


def _open_journal(path: Path) -> TextIO:
    """Open the records to append to. An incomplete last line is ended, or the next record would become part of it.

    Records are appended, not written atomically: each must be on disk as soon as its image is, whatever comes after.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_cut = path.is_file() and not path.read_bytes().endswith(b"\n")
        journal = path.open("a", encoding="utf-8")
        journal.write("\n" if is_cut else "")
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error_text(error)}; set {HOME_VARIABLE} to a writable folder"
        ) from error
    return journal


def _append(journal: TextIO, record: Record) -> None:
    try:
        journal.write(json.dumps(asdict(record)) + "\n")
        journal.flush()
    except OSError as error:
        with contextlib.suppress(OSError):  # closing writes what is buffered, which fails once more on a full disk
            journal.close()
        raise StoreError(
            f"cannot write {journal.name}: {error_text(error)}; free disk space, and run the same command again"
        ) from error


def _tasks(samples: Sequence[Sample], directory: Path, recipe: PreprocessRecipe) -> list[_Task]:
    """One task per photograph; of several rows about one photograph the last one counts."""
    unique = {sample.source: sample for sample in samples}
    images = _image_names([source for source, sample in unique.items() if sample.path is not None])
    return [
        _Task(sample=sample, image=images.get(source, ""), directory=directory, recipe=recipe)
        for source, sample in unique.items()
    ]


def _image_names(sources: Sequence[str]) -> dict[str, str]:
    """Path of each photograph's image: the photograph's own, made unique where two differ only in suffix or case."""
    parts = {source: [part for part in PurePosixPath(source).parts if part.strip("/.")] for source in sources}
    places = {source: PurePosixPath(IMAGES_FOLDER, *parts[source]) for source in sources}
    num_with_stem = Counter(str(place.with_suffix("")).casefold() for place in places.values())
    names: dict[str, str] = {}
    taken: set[str] = set()
    for source, place in places.items():
        is_unique = num_with_stem[str(place.with_suffix("")).casefold()] == 1
        name = place.with_suffix(".png") if is_unique else place.with_name(f"{place.name}.png")
        number = 1
        while str(name).casefold() in taken:
            number += 1
            name = place.with_name(f"{place.name}-{number}.png")
        taken.add(str(name).casefold())
        names[source] = name.as_posix()
    return names


def _split_finished(tasks: Sequence[_Task], earlier: dict[str, Record]) -> tuple[list[_Task], dict[str, Record]]:
    """The photographs that are still to be preprocessed, and the records of the others."""
    remaining, records = [], {}
    for task in tasks:
        source, record = task.sample.source, earlier.get(task.sample.source)
        if task.sample.path is None:
            records[source] = _failed(task, task.sample.error or "the photograph is missing")
        elif record is not None and _is_current(task, record):
            records[source] = record
        else:
            remaining.append(task)
    return remaining, records


def _is_current(task: _Task, record: Record) -> bool:
    """Whether recipe, image and the photograph's content are unchanged; failures are retried."""
    if record.error is not None or record.recipe != task.recipe.key or record.image != task.image:
        return False
    path, image = task.sample.path, task.directory / task.image
    if record.fingerprint is not None and not (is_fingerprint(record.fingerprint) and descriptor_path(image).is_file()):
        return False  # of an earlier version, or not whole
    try:
        return path is not None and image.is_file() and hash_file(path) == record.sha256
    except OSError:
        return False


def _run(tasks: Sequence[_Task], num_workers: int) -> Iterator[Record]:
    """Preprocess photographs in worker processes, in order, with a bounded number in flight."""
    if num_workers <= 1 or len(tasks) < 8:
        yield from map(prepare_photograph, tasks)
        return
    context = multiprocessing.get_context("spawn")
    waiting = iter(tasks)
    try:
        with ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_worker) as pool:
            futures = [pool.submit(prepare_photograph, task) for task in islice(waiting, num_workers * 8)]
            while futures:
                yield futures.pop(0).result()
                futures += [pool.submit(prepare_photograph, task) for task in islice(waiting, 1)]
    except BrokenProcessPool as error:
        raise DatasetError(
            "a worker process ended abruptly, most often because memory ran out; run the same command again with fewer "
            "--workers: finished photographs are not repeated"
        ) from error


def _start_worker() -> None:
    """One thread per worker; a worker ends when its parent is killed."""
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
        loaded = load_photograph(path, task.recipe)
        acquisition = measure_acquisition(path, loaded)
    except UngradableError as error:
        return _failed(task, str(error), sha256)
    except OSError as error:
        return _failed(task, f"cannot be read: {error_text(error)}", sha256)
    image_path = task.directory / task.image
    make_folder(image_path.parent)
    write_image(image_path, image_to_store(loaded.photograph, loaded.preprocessed, task.recipe))
    descriptor = _descriptor(loaded)
    if descriptor is not None:
        write_descriptor(descriptor_path(image_path), descriptor)
    return Record(
        source=task.sample.source,
        recipe=task.recipe.key,
        sha256=sha256,
        image=task.image,
        fingerprint=None if descriptor is None else fingerprint(descriptor),
        error=None,
        quality=loaded.quality,
        acquisition=acquisition,
    )


def _descriptor(loaded: LoadedPhotograph) -> Descriptor | None:
    disc = preprocess(loaded.photograph, loaded.preprocessed.field_of_view, DESCRIPTOR_RECIPE)
    return describe_detail(disc.image, disc.mask)


def _failed(task: _Task, reason: str, sha256: str = "") -> Record:
    return Record(
        source=task.sample.source,
        recipe=task.recipe.key,
        sha256=sha256,
        image="",
        fingerprint=None,
        error=reason,
        quality=None,
        acquisition=None,
    )
