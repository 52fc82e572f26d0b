"""The commands `predict` and `merge`: many photographs become rows of a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fundusgrade.commands.options import EXIT_UNGRADED
from fundusgrade.errors import DatasetError, StoreError
from fundusgrade.options import DeviceName, Precision
from fundusgrade.terminal import counting, message

if TYPE_CHECKING:
    from fundusgrade.grading.grader import Grader
    from fundusgrade.grading.shards import Shard
    from fundusgrade.grading.writer import Job, PredictionWriter
    from fundusgrade.photographs.sources import FoundImage


_PHOTOGRAPHS = "Photographs, folders and .zip archives of them."
_LIST = "Text file that names photographs or folders, one a line."


def predict(
    photographs: Annotated[list[Path] | None, typer.Argument(help=_PHOTOGRAPHS)] = None,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", "--out", help="File to write: .csv, .jsonl or .parquet; CSV to standard output if none."),
    ] = None,
    list_file: Annotated[Path | None, typer.Option("--list", help=_LIST)] = None,
    model: Annotated[str | None, typer.Option(help="Model, by name or path; the shipped one if not given.")] = None,
    device: Annotated[DeviceName, typer.Option(help="Where to compute.")] = DeviceName.AUTO,
    precision: Annotated[Precision, typer.Option(help="Number format of the network's arithmetic.")] = Precision.AUTO,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Photographs at a time; chosen if not given.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads; chosen for this machine if not given.")] = None,
    require_gradable: Annotated[
        bool, typer.Option("--require-gradable", help="Withhold the grade of photographs of doubtful quality.")
    ] = False,
    tta: Annotated[
        bool, typer.Option("--tta", help="Grade each photograph mirrored too: slower, a little better.")
    ] = False,
    coverage: Annotated[
        float | None, typer.Option(min=0.5, max=0.99, help="Add grade_low,grade_high: hold the true grade so often.")
    ] = None,
    shard: Annotated[str | None, typer.Option(help="Grade part i of n only (2/4), into FILE.2-of-4.csv.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a run into this file was stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Give up the rows of a run that was stopped.")] = False,
) -> None:
    """Grade photographs. One that cannot be graded is a row with the reason, and the exit code is 3."""
    from fundusgrade.grading.grader import Grader
    from fundusgrade.grading.writer import PredictionWriter

    part = _part(shard, csv, resume=resume)
    out = part.file(csv) if part and csv else csv
    found = _find(photographs or [], list_file)
    grader = Grader.load(
        model,
        device=device,
        precision=precision,
        batch_size=batch_size,
        num_workers=workers,
        require_gradable=require_gradable,
        tta=tta,
        coverage=coverage,
    )
    message(f"model {grader.name}; {grader.choice.describe()}")
    message(grader.concurrency.describe())
    chosen = part.of(found) if part else found
    job = _job(grader, chosen, resume=resume, overwrite=overwrite)
    with PredictionWriter(out, with_ranges=coverage is not None, job=job) as writer:
        _grade_into(writer, grader, chosen)
    _report(writer, out)
    # A launcher takes any other exit code for a crash, and ends the other parts; `merge` says how many are not graded.
    if writer.num_ungraded and (shard is not None or part is None):
        raise typer.Exit(EXIT_UNGRADED)


def merge(
    csv: Annotated[Path, typer.Option("--csv", "--out", help="File to write, named as for the parts.")],
    photographs: Annotated[list[Path] | None, typer.Argument(help=f"{_PHOTOGRAPHS} The same as for predict.")] = None,
    list_file: Annotated[Path | None, typer.Option("--list", help=_LIST)] = None,
) -> None:
    """Put the files of `predict --shard` together, in order, after checking that nothing is missing or twice."""
    from fundusgrade.grading.shards import merge_shards

    names = [found.name for found in _find(photographs or [], list_file)]
    num_ungraded = merge_shards(csv, names)
    message(f"{len(names)} rows, {num_ungraded} of them ungraded, in {csv}")
    if num_ungraded:
        raise typer.Exit(EXIT_UNGRADED)


def _part(shard: str | None, csv: Path | None, *, resume: bool) -> Shard | None:
    from fundusgrade.grading.shards import parse_shard, shard_of_launcher

    part = parse_shard(shard) if shard is not None else shard_of_launcher()
    if csv is None and (part is not None or resume):
        raise typer.BadParameter("parts, and runs to resume, need a file: name one with --csv")
    return part


def _find(photographs: Sequence[Path], list_file: Path | None) -> list[FoundImage]:
    from fundusgrade.photographs.sources import PHOTOGRAPH_SUFFIXES, find_images

    listed = _read_list(list_file) if list_file is not None else []
    if not photographs and list_file is None:
        raise typer.BadParameter("name photographs, folders of them, or a --list")
    found = find_images([*photographs, *listed])
    if not found:
        where = ", ".join(map(str, [*photographs, *([list_file] if list_file else [])]))
        looked_for = ", ".join(sorted(PHOTOGRAPH_SUFFIXES))
        raise DatasetError(f"no photographs in {where}; looked for {looked_for}, also in .zip")
    return found


def _read_list(path: Path) -> list[Path]:
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
    except OSError as error:
        raise StoreError(f"--list {path}: {error.strerror or error}; expected a text file of paths") from error
    return [Path(line.removesuffix("\r")) for line in lines if line.strip()]


def _job(grader: Grader, found: Sequence[FoundImage], *, resume: bool, overwrite: bool) -> Job:
    from fundusgrade.grading.writer import Job

    made_by = asdict(grader.provenance())
    names = [each.name for each in found]
    return Job(
        names=names, made_by=made_by, batch_size=grader.concurrency.batch_size, resume=resume, overwrite=overwrite
    )


def _grade_into(writer: PredictionWriter, grader: Grader, found: Sequence[FoundImage]) -> None:
    """Grade what has no row yet."""
    rows_on_screen = writer.path is None and sys.stdout.isatty()  # a bar would run into them
    if writer.num_kept and not writer.was_finished:
        message(f"going on after {writer.num_kept} rows")
    with counting("grading", hidden=rows_on_screen) as on_progress:
        for done, result in enumerate(grader.grade_all(found[writer.num_kept :]), start=writer.num_kept + 1):
            writer.write(result)
            on_progress(done, len(found))


def _report(writer: PredictionWriter, out: Path | None) -> None:
    if writer.was_finished:
        message("all rows are there already, made alike; leave --resume out to grade again")
    where = f" in {out}" if out else ""
    doubtful = f"; {writer.num_doubtful} of those graded are of doubtful quality" if writer.num_doubtful else ""
    message(f"{writer.num_graded} graded, {writer.num_ungraded} not{where}{doubtful}")
