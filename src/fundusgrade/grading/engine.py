"""Photographs graded in parts, by this process or by the workers of an engine, into a folder or a file.

results/     the parts themselves (`grading/parts.py`)
out.csv      out.csv.parts/ until all are finished; then one file, in the order of the photographs
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path

from fundusgrade.errors import StoreError
from fundusgrade.files import file_lock
from fundusgrade.grading.counts import CountedRow, RowCounts
from fundusgrade.grading.folders import LocalFolder, ResultFolder, result_folder
from fundusgrade.grading.grader import Grader
from fundusgrade.grading.parts import (
    BegunParts,
    Part,
    PartsRequest,
    begin_parts,
    check_parts,
    choose_part_size,
    remove_parts,
    write_part,
)
from fundusgrade.grading.reader import matching_rows, read_rows
from fundusgrade.grading.resume import ResumeRequest, RowProvenance, check_same_provenance, provenance_name
from fundusgrade.grading.row_files import in_format, write_rows
from fundusgrade.grading.rows import RowFormat, columns_of, row_format
from fundusgrade.grading.workers import GradedPart, GradingJob, SentModel
from fundusgrade.options import DeviceName, Engine
from fundusgrade.outputs import MARK_KEY
from fundusgrade.photographs import remote
from fundusgrade.photographs.sources import PhotographSource

_PARTS = ".parts"
_OF_DEVICES = ("device", "runtime", "precision", "batch_size")
_REMEDY = "rerun with the same photographs, or start over with --overwrite instead of --resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsOutput:
    """Where a run writes: a folder of parts, or with a `file` the name of a file in the folder `parent`."""

    parts: ResultFolder
    parent: ResultFolder
    file: str | None

    @classmethod
    def of(cls, place: Path) -> PartsOutput:
        """The output at a path or URL: a file, if its name ends in a format of rows, else a folder.

        Raises StoreError for a file that is in no folder or bucket.
        """
        text = remote.url_of(place) or str(place)
        if Path(text).suffix.lower() not in tuple(RowFormat):
            return cls(parts=result_folder(text), parent=result_folder(text), file=None)
        parent, name = os.path.split(text)
        if parent.endswith(":"):
            raise StoreError(
                f"cannot write {text}: name a file in a bucket or folder, such as {parent}//results/{name}"
            )
        return cls(parts=result_folder(f"{text}{_PARTS}"), parent=result_folder(parent or "."), file=name)

    def __str__(self) -> str:
        return str(self.parts) if self.file is None else self.parent.place_of(self.file)

    @property
    def local_file(self) -> Path | None:
        """The file of all rows on this machine, if that is asked for."""
        return self.parent.path / self.file if self.file and isinstance(self.parent, LocalFolder) else None

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Raise StoreError where something is there that may not be replaced; called before anything is computed."""
        check_parts(self.parts, resume=resume, overwrite=overwrite)
        if self.file is None or self.local_file is not None:  # which `check_outputs` checks
            return
        names = self.parent.names()
        if self.file not in names:
            return
        beside = self.parent.read(provenance_name(self.file)) or b""
        if MARK_KEY not in beside:
            raise StoreError(
                f"cannot write {self}: the file that is there was not written by fundusgrade, as no "
                f"{provenance_name(self.file)} beside it says so, and is never replaced; name another file"
            )
        if not (resume or overwrite):
            raise StoreError(
                f"cannot write {self}: the file exists; add --overwrite to replace it, or name another file"
            )

    def write_settings(self, text: str) -> None:
        """Write the settings of the run beside the rows. Raises StoreError."""
        name = "_config.yaml" if self.file is None else f"{self.file}.config.yaml"
        self.parent.write(name, text.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What grades: this process where `engine` is None, else its workers.

    `address` is that of a cluster, None for one on this machine; `num_threads` are the threads of each worker, chosen
    where it is None; `device` is what the user asked for.
    """

    engine: Engine | None = None
    address: str | None = None
    num_threads: int | None = None
    device: DeviceName = DeviceName.AUTO


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsRun:
    """A run: the photographs, what loads the model at a path into a grader, that grader here, and where rows go.

    `load` takes the path of a model, and the keywords `num_workers` and `batch_size`; it is sent to the workers.
    """

    photographs: Sequence[PhotographSource]
    model: Path
    load: Callable[..., Grader]
    grader: Grader
    output: PartsOutput
    options: EngineOptions = field(default_factory=EngineOptions)
    resume: bool = False
    overwrite: bool = False

    @property
    def with_ranges(self) -> bool:
        """Whether rows end with ranges of grades."""
        return self.grader.coverage is not None

    def request(self, provenance: RowProvenance, num_workers: int) -> PartsRequest:
        """What is asked of the folder of parts."""
        names = [photograph.name for photograph in self.photographs]
        rows = ResumeRequest(names=names, provenance=provenance, resume=self.resume, overwrite=self.overwrite)
        size = choose_part_size(len(names), provenance.batch_size, num_workers)
        return PartsRequest(photographs=self.photographs, rows=rows, with_ranges=self.with_ranges, part_size=size)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsOutcome:
    """Counts of all rows, how many parts were begun again, and P(referable DR) of graded photographs.

    The last only for a model that tests for drift.
    `was_finished` says that an earlier run had written all.
    """

    counts: RowCounts
    file: Path | None = None
    """The file of all rows, if they are in one on this machine."""
    num_repeated: int = 0
    was_finished: bool = False
    scores: Sequence[float] = ()


Listener = Callable[[int, int], None]
"""Receives the number of photographs that are done, and of all."""


def grade_in_parts(run: PartsRun, on_begin: Callable[[str, int], None], on_progress: Listener) -> PartsOutcome:
    """Grade photographs in parts, and gather these in one file if that is asked for.

    `on_begin` receives what grades, in words, and the number of photographs that an earlier run has graded. Raises
    StoreError where the output cannot be written, or holds rows of other photographs, models or options; EngineError.
    """
    with _locked(run.output):
        finished = _finished_file(run)
        if finished is not None:
            return PartsOutcome(counts=finished, file=run.output.local_file, was_finished=True)
        if run.options.engine is None:
            request = run.request(run.grader.provenance(), num_workers=1)
            begun = begin_parts(run.output.parts, request)
            on_begin("this process", begun.num_kept)
            return _follow(run, request, begun, _grade_here(run, begun), on_progress)
        return _grade_on_ray(run, on_begin, on_progress)


def _grade_here(run: PartsRun, begun: BegunParts) -> Iterator[GradedPart]:
    """Grade what remains in this process. Photographs of the next part are read while the last of a part are graded."""
    remaining = begun.remaining
    results = run.grader.grade_all([photograph for part in remaining for photograph in part.photographs])
    for part in remaining:
        rows = islice(results, len(part.photographs))
        yield GradedPart(counts=write_part(begun.folder, part, rows, with_ranges=run.with_ranges))


def _grade_on_ray(run: PartsRun, on_begin: Callable[[str, int], None], on_progress: Listener) -> PartsOutcome:
    from fundusgrade.grading.ray_engine import plan_workers, probe, ray_cluster, run_on_ray

    with ray_cluster(run.options.address) as nodes:
        has_gpus = run.options.device is not DeviceName.CPU and any(node.num_gpus for node in nodes)
        plan = plan_workers(nodes, num_cpus=run.options.num_threads, with_gpus=has_gpus)
        local = [each.path.absolute() for each in run.photographs if each.url is None]
        job = GradingJob(
            model=SentModel.of(run.model),
            load=run.load,
            num_threads=plan.num_cpus,
            folder=_absolute(run.output.parts),
            with_ranges=run.with_ranges,
            provenance=run.grader.provenance(),
            witness=next((path for path in local if path.is_file()), None),
        )
        if has_gpus:
            job = probe(job, plan)
        request = run.request(job.provenance, plan.num_workers)
        begun = begin_parts(job.folder, request)
        on_begin(f"Ray, {plan.describe()}", begun.num_kept)
        remaining = [_absolute_part(part) for part in begun.remaining]
        graded = run_on_ray(job, remaining, plan) if remaining else iter(())
        return _follow(run, request, begun, graded, on_progress)


def _follow(
    run: PartsRun, request: PartsRequest, begun: BegunParts, graded: Iterator[GradedPart], on_progress: Listener
) -> PartsOutcome:
    """Count parts as they are graded, then gather them."""
    counts, num_repeated = begun.counts, 0
    try:
        for each in graded:
            counts.add_all(each.counts)
            num_repeated += each.num_attempts > 1
            on_progress(counts.num_rows, len(run.photographs))
    except BaseException as error:
        error.add_note(
            f"The parts finished so far ({counts.num_rows} rows) are in {begun.folder}. Resume with --resume."
        )
        raise
    wants_scores = run.grader.description.local_calibration is not None
    scores = (
        [json.loads(row.line)["referable_probability"] for row in begun.rows() if row.is_graded] if wants_scores else []
    )
    if run.output.file is not None:
        _gather(run.output, run.output.file, request, begun)
    return PartsOutcome(counts=counts, file=run.output.local_file, num_repeated=num_repeated, scores=scores)


def _gather(output: PartsOutput, file: str, request: PartsRequest, begun: BegunParts) -> None:
    """Write one file of all rows, with its provenance, and remove the parts."""
    stored_as = row_format(Path(file))
    provenance = json.dumps(asdict(request.rows.provenance), indent=2)
    output.parent.write(provenance_name(file), f"{provenance}\n".encode())
    with output.parent.written(file) as path:
        rows = (in_format(row, stored_as) for row in begun.rows())
        write_rows(rows, path, columns_of(with_ranges=request.with_ranges))
    remove_parts(begun.folder)
    begun.folder.remove_if_empty()


def _finished_file(run: PartsRun) -> RowCounts | None:
    """Counts of the rows of a file that is resumed although it is complete; None where there is work to do."""
    output = run.output
    if not run.resume or output.file is None or output.parts.names():
        return None
    provenance = output.parent.read(provenance_name(output.file))
    if provenance is None or output.file not in output.parent.names():
        return None
    expected = asdict(run.grader.provenance())
    if run.options.engine is not None:  # the workers had devices that this machine may not have
        expected = {name: value for name, value in expected.items() if name not in _OF_DEVICES}
    check_same_provenance(provenance.decode("utf-8", "replace"), expected, str(output), provenance_name(output.file))
    names = [photograph.name for photograph in run.photographs]
    with output.parent.copied(output.file) as path:
        rows = matching_rows(read_rows(path), names, str(output), row_format(path), complete=True, remedy=_REMEDY)
        return RowCounts(map(CountedRow.of, rows))


def _locked(output: PartsOutput) -> contextlib.AbstractContextManager[None]:
    """The lock of a local output for one run at a time. At a URL two runs write the same parts, and no other."""
    if not isinstance(output.parts, LocalFolder):
        return contextlib.nullcontext()
    return file_lock(output.parts.path if output.file is None else Path(str(output)), wait=False)


def _absolute(folder: ResultFolder) -> ResultFolder:
    return LocalFolder(path=folder.path.absolute()) if isinstance(folder, LocalFolder) else folder


def _absolute_part(part: Part) -> Part:
    """The part with absolute paths: workers do not run in the folder of this process."""
    return replace(
        part,
        photographs=[each if each.url else replace(each, path=each.path.absolute()) for each in part.photographs],
    )
