"""Parts graded by the workers of a Ray cluster: a pool of actors of Ray Data, each with a grader that is loaded once.

Ray sends the actors the names of photographs, and they read, grade and write the rows themselves: neither pixels nor
rows pass through Ray. An actor that dies is started again, elsewhere if need be, and its part is graded again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fundusgrade.errors import EngineError, FundusgradeError
from fundusgrade.grading.concurrency import MAX_WORKERS
from fundusgrade.grading.counts import RowCounts
from fundusgrade.grading.parts import Part
from fundusgrade.grading.workers import GradedPart, GradingJob, PartGrader
from fundusgrade.terminal import Verbosity, verbosity
from fundusgrade.text import error_text

LOCAL = "local"
"""The address of a cluster that is started for this run, on this machine."""
_CORES_PER_WORKER = 4  # one process per core would hold the network once per core
_OBJECT_STORE_BYTES = 256 * 1024**2  # the model and names; pixels do not pass through it


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """How many workers a cluster runs, and the cores and GPUs of each; a worker has as many threads as cores."""

    num_workers: int
    num_cpus: int
    num_gpus: int

    def describe(self) -> str:
        """One line for people."""
        cores = "1 core" if self.num_cpus == 1 else f"{self.num_cpus} cores"
        gpus = " and a GPU" if self.num_gpus else ""
        return f"{self.num_workers} {'worker' if self.num_workers == 1 else 'workers'} of {cores}{gpus}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeResources:
    """Cores and GPUs of one machine of a cluster."""

    num_cpus: int
    num_gpus: int


def plan_workers(nodes: Sequence[NodeResources], *, num_cpus: int | None, with_gpus: bool) -> WorkerPlan:
    """The workers that fit the machines of a cluster: one for each GPU, else one for some of the cores.

    `num_cpus` are the cores of a worker, chosen where it is None. Raises EngineError where none fits.
    """
    usable = (
        [node for node in nodes if node.num_gpus > 0] if with_gpus else [node for node in nodes if node.num_cpus > 0]
    )
    if not usable:
        raise EngineError(f"the cluster has no machine with {'GPUs' if with_gpus else 'cores'} for workers")
    if with_gpus:
        cores = num_cpus or min(MAX_WORKERS, max(1, min(node.num_cpus // node.num_gpus for node in usable)))
        num_workers = sum(min(node.num_gpus, node.num_cpus // cores) for node in usable)
    else:
        cores = num_cpus or min(_CORES_PER_WORKER, *(node.num_cpus for node in usable))
        num_workers = sum(node.num_cpus // cores for node in usable)
    if num_workers == 0:
        raise EngineError(f"no machine of the cluster has the {cores} cores that --workers asks for each worker")
    return WorkerPlan(num_workers=num_workers, num_cpus=cores, num_gpus=int(with_gpus))


@contextlib.contextmanager
def ray_cluster(address: str | None) -> Iterator[list[NodeResources]]:
    """Connect to a cluster, or start one on this machine, for the block; one that the program has begun is used.

    Yields its machines. Raises EngineError where Ray is missing or the cluster cannot be reached.
    """
    ray = _ray()
    is_begun = ray.is_initialized()
    if not is_begun:
        _start(ray, address or LOCAL)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where Ray prints what happens to its workers
            yield [
                NodeResources(
                    num_cpus=int(node["Resources"].get("CPU", 0)), num_gpus=int(node["Resources"].get("GPU", 0))
                )
                for node in ray.nodes()
                if node["Alive"]
            ]
    finally:
        if not is_begun:
            ray.shutdown()


def run_on_ray(job: GradingJob, parts: Sequence[Part], plan: WorkerPlan) -> Iterator[GradedPart]:
    """Grade parts by the workers of the cluster; yields each part when its rows are written, in any order.

    Raises EngineError where a worker differs from what was expected, or a part fails again and again; finished parts
    stay.
    """
    ray = _ray()
    contents = ray.put(job.model.contents())  # while this name holds it, workers that are started again find it
    with _data_context():
        rows = (
            ray.data.from_items([{"part": part.to_json()} for part in parts], override_num_blocks=len(parts))
            .map_batches(
                _RayWorker,
                fn_constructor_kwargs={"job": job, "contents": [contents]},
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(
                    min_size=1, initial_size=plan.num_workers, max_size=plan.num_workers
                ),
                num_cpus=plan.num_cpus,
                num_gpus=plan.num_gpus,
            )
            .iter_rows()
        )
        try:
            for row in rows:
                if row["problem"]:
                    raise EngineError(row["problem"])
                yield GradedPart(counts=RowCounts.from_json(row["counts"]), num_attempts=int(row["attempts"]))
        except FundusgradeError:
            raise
        except Exception as error:  # of Ray, or of a worker within one of Ray
            raise EngineError(f"the workers of Ray failed: {_cause(error)}; run again with --resume") from error


def probe(job: GradingJob, plan: WorkerPlan) -> GradingJob:
    """The same job with the provenance of the rows that a worker writes, as its device may be none of this machine."""
    ray = _ray()
    task = ray.remote(num_cpus=plan.num_cpus, num_gpus=plan.num_gpus)(_provenance_there)
    return replace(job, provenance=ray.get(task.remote(job, ray.put(job.model.contents()))))


class _RayWorker:
    """A worker as Ray Data calls it. What is wrong with it is an answer: Ray would start it again and again."""

    def __init__(self, job: GradingJob, contents: Sequence[Any]) -> None:
        self._problem = ""
        try:
            self._grader = PartGrader(job, lambda: _fetch(contents[0]))
        except FundusgradeError as error:
            self._problem = str(error)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[object]]:
        graded = GradedPart(counts=RowCounts())
        try:
            if not self._problem:
                graded = self._grader.grade(Part.from_json(str(batch["part"][0])))
        except EngineError as error:
            self._problem = str(error)
        return {"problem": [self._problem], "counts": [graded.counts.to_json()], "attempts": [graded.num_attempts]}


def _provenance_there(job: GradingJob, contents: Mapping[str, bytes]) -> object:
    grader = job.load(str(job.model.place(lambda: contents)), num_workers=job.num_threads)
    return grader.provenance()


def _fetch(contents: Any) -> Mapping[str, bytes]:
    fetched: Mapping[str, bytes] = _ray().get(contents)
    return fetched


def _start(ray: Any, address: str) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or Ray reports to its makers over the network
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    is_verbose = verbosity() is Verbosity.VERBOSE
    if not is_verbose:
        # Ray Data itself causes an error message of Ray about the arguments of its actors.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    only_local = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES} if address == LOCAL else {}
    try:
        ray.init(
            address=address, log_to_driver=is_verbose, logging_level="info" if is_verbose else "error", **only_local
        )
    except Exception as error:  # ConnectionError, ValueError, RuntimeError, of its own
        raise EngineError(
            f"--address {address}: Ray cannot connect: {error_text(error)}; give the address of a cluster, such as "
            "auto on one of its machines or ray://HOST:10001, or leave it out to use this machine"
        ) from error


@contextlib.contextmanager
def _data_context() -> Iterator[None]:
    """Ray Data's settings for the block: its messages for those who ask for details, and another try after any error.

    How often a part is tried is limited by `PartGrader`: Ray Data restarts actors and retries their tasks without end.
    """
    context, log = _ray().data.DataContext.get_current(), logging.getLogger("ray.data")
    before = (context.enable_progress_bars, context.print_on_execution_start, context.actor_task_retry_on_errors)
    level, is_verbose = log.level, verbosity() is Verbosity.VERBOSE
    context.enable_progress_bars = context.print_on_execution_start = is_verbose
    context.actor_task_retry_on_errors = True
    log.setLevel(logging.INFO if is_verbose else logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars, context.print_on_execution_start, context.actor_task_retry_on_errors = before
        log.setLevel(level)


def _cause(error: BaseException) -> str:
    """The reason of a failure, which Ray wraps in errors of its own."""
    while True:
        inner = getattr(error, "cause", None) or error.__cause__
        if not isinstance(inner, BaseException):
            return error_text(error)
        error = inner


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise EngineError(
            "--engine ray needs Ray, which is not installed; run: pip install 'fundusgrade[ray]'"
        ) from error
    return ray
