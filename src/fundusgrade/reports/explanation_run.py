"""Many photographs explained into a folder: by several workers, and resumed after an interruption.

    explanations.jsonl    what the figures were made with, then a line for each photograph

Each worker has its own copy of the networks and uses one core: methods of the CAM family hook into modules, and hooks
of several photographs at once would mix. Results do not depend on the number of workers.
"""

from __future__ import annotations

import json
import queue
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fundusgrade import __version__
from fundusgrade.errors import DatasetError, StoreError, UngradableError
from fundusgrade.explanation.sources import for_own_thread
from fundusgrade.files import make_folder
from fundusgrade.grading.concurrency import choose_concurrency, worker_pools
from fundusgrade.options import DeviceName
from fundusgrade.photographs.sources import PhotographSource
from fundusgrade.reports.explanation_files import FigureRequest, figure_files, write_figure
from fundusgrade.reports.explanation_index import IndexEntry, explained_entry, failed_entry, write_index
from fundusgrade.reports.explanation_pages import INDEX_FILE, JOURNAL_FILE, figure_names
from fundusgrade.reports.listings import coverage_line, prediction_line
from fundusgrade.reports.review_page import link_to_photograph
from fundusgrade.text import error_text, printable

_MADE_WITH = "made_with"


def write_figures(
    photographs: Sequence[PhotographSource],
    request: FigureRequest,
    folder: Path,
    command: str,
    *,
    num_workers: int | None = None,
    resume: bool = False,
) -> Generator[IndexEntry, None, None]:
    """Draw the figures of many photographs into a folder, then an index page of them; yields the entries in order.

    A photograph that cannot be explained is an entry with the reason. With `resume` the figures of an earlier run are
    kept that the folder still holds. The index page names the `command`, and is written also where the generator is
    closed early. Raises StoreError where nothing can be written, or an earlier run used other models or options.
    """
    kept = kept_entries(photographs, request, folder) if resume else {}
    entries: list[IndexEntry] = []
    make_folder(folder)
    try:
        with (folder / JOURNAL_FILE).open("w", encoding="utf-8") as journal:
            _append(journal, {"fundusgrade": __version__, _MADE_WITH: _made_with(request)})
            for entry in kept.values():
                _append(journal, asdict(entry))
            for entry in _entries(photographs, request, folder, kept, num_workers):
                entries.append(entry)
                if entry.figure not in kept:
                    _append(journal, asdict(entry))
                yield entry
    except OSError as error:
        raise StoreError(f"cannot write {folder / JOURNAL_FILE}: {error_text(error)}") from error
    finally:
        _write_index(entries, request, folder, command)


def kept_entries(
    photographs: Sequence[PhotographSource], request: FigureRequest, folder: Path
) -> dict[str, IndexEntry]:
    """The entries of an earlier run, by the path of the figure, whose files are all there; none where there was no run.

    Raises StoreError where they were made with other models or options.
    """
    try:
        lines = (folder / JOURNAL_FILE).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return {}
    head = _parsed(lines[0]) if lines else None
    if head is None or head.get(_MADE_WITH) != json.loads(json.dumps(_made_with(request))):
        raise StoreError(
            f"the figures in {folder} were made with other models or options: rerun with the same ones, or start over "
            "with --overwrite instead of --resume"
        )
    names = dict(zip(figure_names(photographs), (each.name for each in photographs), strict=True))
    kept = {}
    for line in lines[1:]:
        fields = _parsed(line)
        if fields is None or fields.get("reason") is not None or names.get(fields.get("figure", "")) != fields["name"]:
            continue
        entry = _entry_of_line(fields)
        if all(path.is_file() for path in figure_files(request, folder / entry.figure)):
            kept[entry.figure] = entry
    return kept


def _entry_of_line(fields: dict[str, Any]) -> IndexEntry:
    return IndexEntry(
        name=fields["name"],
        figure=fields["figure"],
        lines=tuple(fields["lines"]),
        rows=tuple(fields["rows"]),
        labels=tuple(fields["labels"]),
        pictures=tuple(fields["pictures"]),
        photograph=fields["photograph"],
    )


def _entries(
    photographs: Sequence[PhotographSource],
    request: FigureRequest,
    folder: Path,
    kept: dict[str, IndexEntry],
    num_workers: int | None,
) -> Iterator[IndexEntry]:
    """All entries in order; those that are not kept are made by workers, a few photographs ahead."""
    device, size_px = request.graders[0].arithmetic.device, max(grader.recipe.size_px for grader in request.graders)
    on_cpu = device == DeviceName.CPU
    concurrency = choose_concurrency(device, size_px=size_px, num_workers=num_workers or (None if on_cpu else 1))
    requests: queue.SimpleQueue[FigureRequest] = queue.SimpleQueue()
    for number in range(concurrency.num_workers):
        requests.put(request if number == 0 else _copy(request))

    def explain(photograph: PhotographSource, name: str) -> IndexEntry:
        own = requests.get()
        try:
            return _entry(photograph, name, own, folder)
        finally:
            requests.put(own)

    with worker_pools(concurrency, device) as pools:
        waiting: list[Future[IndexEntry] | IndexEntry] = []
        for photograph, name in zip(photographs, figure_names(photographs), strict=True):
            waiting.append(kept[name] if name in kept else pools.photographs.submit(explain, photograph, name))
            if len(waiting) > 2 * concurrency.num_workers:
                yield _result(waiting.pop(0))
        for each in waiting:
            yield _result(each)


def _result(each: Future[IndexEntry] | IndexEntry) -> IndexEntry:
    return each if isinstance(each, IndexEntry) else each.result()


def _copy(request: FigureRequest) -> FigureRequest:
    """The request with copies of PyTorch's networks: what is not changed is shared."""
    return replace(request, graders=[for_own_thread(grader, request.methods) for grader in request.graders])


def _entry(photograph: PhotographSource, name: str, request: FigureRequest, folder: Path) -> IndexEntry:
    make_folder((folder / name).parent)
    try:
        written = write_figure(photograph, request, folder / name)
    except (UngradableError, DatasetError) as error:
        return failed_entry(photograph, request.graders, str(error))
    return explained_entry(
        photograph.name,
        name,
        written.predictions,
        [*map(prediction_line, written.predictions), *written.gap_lines],
        written.pictures,
        link_to_photograph(photograph, folder / INDEX_FILE),
    )


def _made_with(request: FigureRequest) -> dict[str, Any]:
    """What decides the figures besides the photographs."""
    return {
        "models": [asdict(grader.provenance()) for grader in request.graders],
        "methods": [[method.describe(), method.target.name] for method in request.methods],
        "masks": None if request.masks is None else printable(str(request.masks.absolute())),
        "arrays": request.arrays,
        "scale": request.scale,
        "notes": request.notes,
    }


def _append(journal: Any, fields: dict[str, Any]) -> None:
    journal.write(printable(json.dumps(fields, ensure_ascii=False)) + "\n")
    journal.flush()


def _parsed(line: str) -> dict[str, Any] | None:
    """A line of the journal; None for one that was cut short."""
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None


def _write_index(entries: Sequence[IndexEntry], request: FigureRequest, folder: Path, command: str) -> None:
    notes = [
        coverage_line(grader.name, grader.known_coverage(), grader.coverage)
        for grader in request.graders
        if grader.coverage is not None
    ]
    write_index(folder / INDEX_FILE, entries, command=command, notes=notes, patients=request.patients)
