"""A list of photographs split into shards for several processes, and the files of all shards merged into one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fundusgrade.errors import StoreError
from fundusgrade.grades import COLUMNS
from fundusgrade.grading.reader import file_columns, matching_rows, read_rows
from fundusgrade.grading.resume import provenance_text
from fundusgrade.grading.row_files import write_rows
from fundusgrade.grading.rows import WrittenRow, row_format

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Shard `number` (from 1) of `count`: every `count`th entry of a list, so that all shards take equally long."""

    number: int
    count: int

    def select(self, items: Sequence[T]) -> list[T]:
        """The entries of this shard, in order."""
        return list(items[self.number - 1 :: self.count])

    def file(self, path: Path) -> Path:
        """The file of this shard's rows: `out.csv` becomes `out.2-of-4.csv`."""
        return path.with_name(f"{path.stem}.{self.number}-of-{self.count}{path.suffix}")


def parse_shard(text: str) -> Shard:
    """Read "2/4". Raises StoreError for anything that does not name a shard."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    number, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise StoreError(f"--shard {text}: expected i/n with i from 1 to n, such as 2/4 for the second of four shards")
    return Shard(number=number, count=count)


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun started this process beside others."""
    return "TORCHELASTIC_RUN_ID" in environment and int(environment["WORLD_SIZE"]) > 1


def merge_shards(path: Path, names: Sequence[str]) -> int:
    """Merge the files of all shards of `path` in the order of `names`; returns the number of ungraded photographs.

    Raises StoreError where a shard or a row is missing or duplicate, or of another photograph or model; then nothing is
    written.
    """
    shards = find_shards(path)
    if len({provenance_text(shard.file(path)) for shard in shards}) > 1:
        raise StoreError(
            f"the shards of {path} were written by different models or with different options, as the .json files "
            "beside them show; grade all shards with the same model and options"
        )
    rows = [_shard_rows(shard, path, names) for shard in shards]
    return write_rows(_interleaved(rows, len(names), path), path, _columns(shards, path))


def find_shards(path: Path) -> list[Shard]:
    """The shards of `path`, from the files beside it. Raises StoreError where they are not all shards of one run."""
    pattern = re.compile(re.escape(path.stem) + r"\.(\d+)-of-(\d+)" + re.escape(path.suffix))
    matches = [match for file in path.parent.glob("*") if (match := pattern.fullmatch(file.name))]
    counts = sorted({int(match[2]) for match in matches})
    if len(counts) != 1:
        listed = ", ".join(sorted(match[0] for match in matches)) or "none"
        raise StoreError(
            f"the shards of {path} are {listed}; expected {path.stem}.1-of-N{path.suffix} to N-of-N for a single N, as "
            "`fundusgrade predict --shard` writes them"
        )
    shards = [Shard(number=number, count=counts[0]) for number in range(1, counts[0] + 1)]
    missing = [str(shard.file(path)) for shard in shards if not shard.file(path).is_file()]
    if missing:
        raise StoreError(f"shards are missing: {', '.join(missing)}; finish them with `predict --shard ... --resume`")
    return shards


def _shard_rows(shard: Shard, path: Path, names: Sequence[str]) -> Iterator[WrittenRow]:
    """The rows of a shard, each checked against its photograph's name. Raises StoreError as `merge_shards`."""
    file = shard.file(path)
    remedy = "merge with the photographs that were graded, or grade this shard again"
    return matching_rows(read_rows(file), shard.select(names), file, row_format(path), complete=True, remedy=remedy)


def _interleaved(shards: Sequence[Iterator[WrittenRow]], num_rows: int, path: Path) -> Iterator[WrittenRow]:
    """The rows of all shards in the order of the photographs. Raises StoreError where two models graded them."""
    model = None
    for index in range(num_rows):
        row = next(shards[index % len(shards)])
        if model not in (None, row.model):
            raise StoreError(
                f"the shards of {path} were graded by {model} and by {row.model}; grade all with the same model"
            )
        model = row.model
        yield row
    for shard in shards:
        next(shard, None)  # raises where a shard has more rows than photographs


def _columns(shards: Sequence[Shard], path: Path) -> tuple[str, ...]:
    """The columns that the rows of all shards have. Raises StoreError where they differ."""
    columns = {file_columns(shard.file(path)) for shard in shards} - {None}
    if len(columns) > 1:
        raise StoreError(
            f"the shards of {path} have different columns: some were graded with --coverage, or by another version of "
            "fundusgrade, others not; grade all in the same way"
        )
    return columns.pop() or COLUMNS if columns else COLUMNS
