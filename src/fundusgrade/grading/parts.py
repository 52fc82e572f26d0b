"""Rows in parts: a folder, here or at a URL, with a Parquet file for each run of photographs of the list.

    part-000000.parquet   the rows of the first photographs, in order; written at once, or not at all
    part-000001.parquet   of those that follow
    _provenance.json      what determines the rows, how many photographs a part has, and which there are
    _attempts-000002      how often a part was begun that is not finished

The photographs of a part depend only on their positions in the list, and a part holds whole batches, so that its rows
are the same whoever grades it, and however often. A part that exists is finished: it is neither graded nor written
again. Programs that read a folder of Parquet files leave out names that begin with an underscore.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from fundusgrade.errors import StoreError
from fundusgrade.files import hash_text
from fundusgrade.grades import Prediction, Ungraded
from fundusgrade.grading.counts import CountedRow, RowCounts
from fundusgrade.grading.folders import ResultFolder
from fundusgrade.grading.parquet import check_parquet, parquet_content, parquet_rows
from fundusgrade.grading.reader import matching_rows
from fundusgrade.grading.resume import ResumeRequest, check_same_provenance
from fundusgrade.grading.rows import RowFormat, WrittenRow, columns_of, json_line, row_of
from fundusgrade.photographs.archives import Member
from fundusgrade.photographs.sources import PhotographSource

PROVENANCE_FILE = "_provenance.json"
MAX_PART_SIZE = 1024
"""Photographs of a part: what a worker that is killed may lose, and what is in memory at a time."""
_PARTS_PER_WORKER = 4
_PART_NAME = re.compile(r"part-(\d{6,})\.parquet")
_ATTEMPTS_NAME = re.compile(r"_attempts-\d{6,}")
_THREADS = 16
_PART_SIZE = "part_size"
_REMEDY = "remove this part to grade it again, or start over with --overwrite instead of --resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The photographs of one part, in order, and its number from 0."""

    number: int
    photographs: Sequence[PhotographSource]

    @property
    def names(self) -> list[str]:
        """The names of its photographs, as they stand in its rows."""
        return [photograph.name for photograph in self.photographs]

    def to_json(self) -> str:
        """The part as text, for a worker."""
        values = [asdict(photograph) | {"path": str(photograph.path)} for photograph in self.photographs]
        return json.dumps({"number": self.number, "photographs": values})

    @classmethod
    def from_json(cls, text: str) -> Part:
        """The part that `to_json` wrote."""
        values = json.loads(text)
        photographs = [
            PhotographSource(**{
                **each, "path": Path(each["path"]), "member": each["member"] and Member(**each["member"])
            })
            for each in values["photographs"]
        ]  # fmt: skip
        return cls(number=values["number"], photographs=photographs)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsRequest:
    """The photographs and the provenance of their rows; whether rows have ranges of grades; and the size of a part.

    The size is that of a new run: a run that is resumed keeps its own.
    """

    photographs: Sequence[PhotographSource]
    rows: ResumeRequest
    with_ranges: bool
    part_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunParts:
    """A folder whose provenance is written: its parts in order, which are finished, and the counts of their rows."""

    folder: ResultFolder
    parts: Sequence[Part]
    finished: frozenset[int]
    counts: RowCounts

    @property
    def remaining(self) -> list[Part]:
        """The parts that are to be graded."""
        return [part for part in self.parts if part.number not in self.finished]

    @property
    def num_kept(self) -> int:
        """The number of photographs that need not be graded."""
        return self.counts.num_rows

    def rows(self) -> Iterator[WrittenRow]:
        """All rows in the order of the photographs. Raises StoreError where a part is missing or of others."""
        for part in self.parts:
            rows = finished_rows_of(self.folder, part)
            if rows is None:
                raise StoreError(f"{self.folder.place_of(part_name(part.number))} is missing; run again with --resume")
            yield from rows


def part_name(number: int) -> str:
    """The file of a part."""
    return f"part-{number:06d}.parquet"


def attempts_name(number: int) -> str:
    """The file that counts how often a part was begun."""
    return f"_attempts-{number:06d}"


def choose_part_size(num_photographs: int, batch_size: int, num_workers: int) -> int:
    """Photographs of a part: whole batches, several parts for each worker so that all end at about the same time."""
    wanted = min(MAX_PART_SIZE, math.ceil(num_photographs / (_PARTS_PER_WORKER * num_workers)))
    return batch_size * max(1, math.ceil(wanted / batch_size))


def begin_parts(folder: ResultFolder, request: PartsRequest) -> BegunParts:
    """Write the provenance of a new run, or check that of one that is resumed, and what it has finished.

    Raises StoreError where the folder has other files, or parts that are neither resumed nor overwritten, or that are
    not those of this run.
    """
    names = check_parts(folder, resume=request.rows.resume, overwrite=request.rows.overwrite)
    for name in filter(_ATTEMPTS_NAME.fullmatch, names):
        folder.remove(name)
    stored = folder.read(PROVENANCE_FILE) if PROVENANCE_FILE in names else None
    if stored is not None and request.rows.resume:
        return _resume(
            folder, request, stored, {int(match[1]) for name in names if (match := _PART_NAME.fullmatch(name))}
        )
    remove_parts(folder)
    return _begin_anew(folder, request)


def check_parts(folder: ResultFolder, *, resume: bool, overwrite: bool) -> list[str]:
    """The names of what is in the folder of a run.

    Raises StoreError where it is not of parts, where these are neither to be resumed nor overwritten, and without
    pyarrow.
    """
    check_parquet()
    names = folder.names()
    if names and PROVENANCE_FILE not in names:
        raise StoreError(
            f"{folder} is a folder that has other files ({names[0]}), and no {PROVENANCE_FILE}; name a new or an empty "
            "folder, or a file that ends in " + ", ".join(RowFormat)
        )
    if names and not (resume or overwrite):
        raise StoreError(
            f"{folder} has the parts of another run; resume it with --resume, or discard it with --overwrite"
        )
    return names


def remove_parts(folder: ResultFolder) -> None:
    """Remove the parts of a run and what is beside them, the provenance last. Raises StoreError."""
    names = [name for name in folder.names() if _PART_NAME.fullmatch(name) or _ATTEMPTS_NAME.fullmatch(name)]
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(folder.remove, names))
    if folder.read(PROVENANCE_FILE) is not None:
        folder.remove(PROVENANCE_FILE)


def write_part(
    folder: ResultFolder, part: Part, results: Iterable[Prediction | Ungraded], *, with_ranges: bool
) -> RowCounts:
    """Write the rows of a part, all or none; returns their counts. Raises StoreError."""
    counts, lines = RowCounts(), []
    for result in results:
        lines.append(json_line(row_of(result, with_ranges=with_ranges)))
        counts.add(CountedRow.of_result(result))
    assert len(lines) == len(part.photographs), "a row for each photograph"
    folder.write(part_name(part.number), parquet_content(lines, columns_of(with_ranges=with_ranges)))
    return counts


def finished_rows_of(folder: ResultFolder, part: Part) -> Iterator[WrittenRow] | None:
    """The rows of a part; None where it is not finished. Raises StoreError where they are not of its photographs."""
    content = folder.read(part_name(part.number))
    if content is None:
        return None
    place = folder.place_of(part_name(part.number))
    rows = parquet_rows(io.BytesIO(content), place)
    return matching_rows(rows, part.names, place, RowFormat.PARQUET, complete=True, remedy=_REMEDY)


def finished_counts(folder: ResultFolder, part: Part) -> RowCounts | None:
    """The counts of a part's rows; None where it is not finished. Raises as `finished_rows_of`."""
    rows = finished_rows_of(folder, part)
    return None if rows is None else RowCounts(CountedRow.of(row) for row in rows)


def _begin_anew(folder: ResultFolder, request: PartsRequest) -> BegunParts:
    values = {**_expected(request), _PART_SIZE: request.part_size}
    folder.write(PROVENANCE_FILE, f"{json.dumps(values, indent=2)}\n".encode())
    parts = _parts_of(request.photographs, request.part_size)
    return BegunParts(folder=folder, parts=parts, finished=frozenset(), counts=RowCounts())


def _resume(folder: ResultFolder, request: PartsRequest, stored: bytes, found: set[int]) -> BegunParts:
    text = stored.decode("utf-8", "replace")
    check_same_provenance(text, _expected(request), folder, PROVENANCE_FILE)
    parts = _parts_of(request.photographs, int(json.loads(text)[_PART_SIZE]))
    unexpected = sorted(found - {part.number for part in parts})
    if unexpected:
        raise StoreError(f"{folder.place_of(part_name(unexpected[0]))} is no part of this run; move it away")
    finished = [part for part in parts if part.number in found]
    counts = RowCounts()
    with ThreadPoolExecutor(_THREADS) as pool:
        for each in pool.map(lambda part: finished_counts(folder, part), finished):
            counts.add_all(each or RowCounts())
    return BegunParts(folder=folder, parts=parts, finished=frozenset(part.number for part in finished), counts=counts)


def _expected(request: PartsRequest) -> dict[str, object]:
    """What the provenance of the parts must say, whatever their size."""
    names = request.rows.names
    return {
        **asdict(request.rows.provenance),
        "columns": list(columns_of(with_ranges=request.with_ranges)),
        "num_photographs": len(names),
        "photographs_sha256": hash_text(json.dumps(list(names))),
    }


def _parts_of(photographs: Sequence[PhotographSource], size: int) -> list[Part]:
    return [
        Part(number=number, photographs=photographs[start : start + size])
        for number, start in enumerate(range(0, len(photographs), size))
    ]
