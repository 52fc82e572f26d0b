"""A list of photographs dealt to many processes, and their files put together again."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fundusgrade.errors import StoreError
from fundusgrade.files import open_atomically
from fundusgrade.grading import parquet
from fundusgrade.grading.rows import RowFormat, WrittenRow, csv_header, name_in_row, row_format
from fundusgrade.grading.writer import made_by, read_rows

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The `number`th of `count` parts of a list, from 1: every `count`th entry, so that parts take equally long."""

    number: int
    count: int

    def of(self, items: Sequence[T]) -> list[T]:
        """The entries of this part, in order."""
        return list(items[self.number - 1 :: self.count])

    def file(self, path: Path) -> Path:
        """Where this part's rows go: `out.csv` becomes `out.2-of-4.csv`."""
        return path.with_name(f"{path.stem}.{self.number}-of-{self.count}{path.suffix}")


def parse_shard(text: str) -> Shard:
    """Read "2/4". Raises StoreError for anything that is no part of a whole."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    number, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise StoreError(f"--shard {text}: expected i/n with i from 1 to n, such as 2/4 for the second of four parts")
    return Shard(number=number, count=count)


def shard_of_launcher(environment: Mapping[str, str] = os.environ) -> Shard | None:
    """This process's part where torchrun started it beside others; None elsewhere."""
    if "TORCHELASTIC_RUN_ID" not in environment or int(environment["WORLD_SIZE"]) == 1:
        return None
    return Shard(number=int(environment["RANK"]) + 1, count=int(environment["WORLD_SIZE"]))


def merge_shards(path: Path, names: Sequence[str]) -> int:
    """Put the files of all parts of `path` together in the order of `names`; returns how many could not be graded.

    Raises StoreError where a part or a row is missing, twice, or of another photograph or model; then nothing is
    written.
    """
    shards = find_shards(path)
    if len({made_by(shard.file(path)) for shard in shards}) > 1:
        raise StoreError(
            f"the parts of {path} were not made alike, as the .json beside them say; grade all by one model"
        )
    parts = [_checked(read_rows(shard.file(path)), shard, path, names) for shard in shards]
    return _write(_in_turn(parts, len(names), path), path, with_ranges=_with_ranges(shards, path))


def find_shards(path: Path) -> list[Shard]:
    """The parts of `path`, whose files lie beside it. Raises StoreError where they are not all parts of one whole."""
    pattern = re.compile(re.escape(path.stem) + r"\.(\d+)-of-(\d+)" + re.escape(path.suffix))
    found = [match for each in path.parent.glob("*") if (match := pattern.fullmatch(each.name))]
    counts = sorted({int(match[2]) for match in found})
    if len(counts) != 1:
        listed = ", ".join(sorted(match[0] for match in found)) or "none"
        raise StoreError(
            f"the parts of {path} are {listed}; expected {path.stem}.1-of-N{path.suffix} to N-of-N of one N, as "
            "`fundusgrade predict --shard` writes them"
        )
    shards = [Shard(number=number, count=counts[0]) for number in range(1, counts[0] + 1)]
    missing = [str(shard.file(path)) for shard in shards if not shard.file(path).is_file()]
    if missing:
        raise StoreError(f"parts are missing: {', '.join(missing)}; let those jobs end (`--resume` goes on with them)")
    return shards


def _checked(rows: Iterator[WrittenRow], shard: Shard, path: Path, names: Sequence[str]) -> Iterator[WrittenRow]:
    """A part's rows, as long as they are those of its photographs."""
    file, place, expected = shard.file(path), 0, shard.of(names)
    for row in rows:
        name = expected[place] if place < len(expected) else None
        if name is None or row.image != name_in_row(name, row_format(path)):
            raise StoreError(
                f"row {place + 1} of {file} is about {row.image!r}, expected {name or 'no more rows'!r}; grade this "
                "part again, and merge with the photographs that it was made from"
            )
        place += 1
        yield row
    if place < len(expected):
        raise StoreError(f"{file} ends after {place} of {len(expected)} rows; grade this part again")


def _in_turn(parts: Sequence[Iterator[WrittenRow]], count: int, path: Path) -> Iterator[WrittenRow]:
    """The rows of all parts in the order of the whole, all by one model."""
    model = None
    for place in range(count):
        row = next(parts[place % len(parts)])
        if model not in (None, row.model):
            raise StoreError(f"the parts of {path} were graded by {model} and by {row.model}; grade all by one")
        model = row.model
        yield row
    for part in parts:
        next(part, None)  # each says itself what it has too much


def _write(rows: Iterator[WrittenRow], path: Path, *, with_ranges: bool) -> int:
    """Write rows in the format of `path`, whole or not at all; returns how many are not graded."""
    chosen, num_ungraded = row_format(path), 0

    def lines() -> Iterator[bytes]:
        nonlocal num_ungraded
        for row in rows:
            num_ungraded += not row.is_graded
            yield row.line

    if chosen is RowFormat.PARQUET:
        parquet.write_parquet(lines(), path, with_ranges=with_ranges)
        return num_ungraded
    with open_atomically(path) as file:
        file.write(csv_header(with_ranges=with_ranges) if chosen is RowFormat.CSV else b"")
        file.writelines(lines())
    return num_ungraded


def _with_ranges(shards: Sequence[Shard], path: Path) -> bool:
    """Whether the parts have ranges of grades, all alike. Raises StoreError where they differ."""
    found = {_has_ranges(shard.file(path)) for shard in shards} - {None}
    if len(found) > 1:
        raise StoreError(f"some parts of {path} were graded with --coverage, others not; grade all alike")
    return True in found


def _has_ranges(file: Path) -> bool | None:
    """None where there is no row to tell by."""
    if row_format(file) is RowFormat.CSV:
        with file.open("rb") as stream:
            return stream.readline() == csv_header(with_ranges=True)
    first = next(read_rows(file), None)
    return None if first is None else b'"grade_low"' in first.line
