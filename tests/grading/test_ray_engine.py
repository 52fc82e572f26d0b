"""Photographs graded by the workers of Ray: the rows of one process, whatever dies on the way."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fundusgrade.errors import EngineError
from fundusgrade.grades import Prediction, Ungraded
from fundusgrade.grading.engine import EngineOptions, PartsOutcome, PartsOutput, PartsRun, grade_in_parts
from fundusgrade.grading.grader import Grader
from fundusgrade.grading.parts import part_name
from fundusgrade.grading.ray_engine import NodeResources, plan_workers
from fundusgrade.options import Engine
from fundusgrade.photographs.inputs import Photograph
from fundusgrade.photographs.sources import find_images
from tests.command_line import ENVIRONMENT
from tests.grading.runs_in_parts import BATCH, run_of_eyes
from tests.storage import BUCKET, s3_server

NUM_EYES = 24
WAIT_SECONDS = 120
RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_AUTH_MODE": "disabled"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Ray on this machine with two cores, and an S3 server that its workers see."""
    ray = pytest.importorskip("ray", reason="--engine ray needs ray[data]")
    pytest.importorskip("pyarrow", reason="parts are Parquet files")
    with warnings.catch_warnings(), s3_server(), tempfile.TemporaryDirectory(prefix="ray") as folder:
        warnings.simplefilter("ignore")  # Ray leaves files open
        os.environ.update(RAY)  # until the server ends
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, object_store_memory=200_000_000, log_to_driver=False,
            _temp_dir=folder,
        )  # fmt: skip
        yield ray
        ray.shutdown()


@pytest.fixture
def run(tmp_path: Path) -> PartsRun:
    """Eyes, one of them broken, to be graded by two workers of one thread each."""
    return run_of_eyes(tmp_path, NUM_EYES, "out.csv", EngineOptions(engine=Engine.RAY, num_threads=1))


def grade(run: PartsRun) -> PartsOutcome:
    """Run; what Ray warns of in this process is not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return grade_in_parts(run, lambda what, num_kept: None, lambda done, total: None)


def of_one_process(run: PartsRun, path: Path) -> bytes:
    """The file that this process writes."""
    grade(replace(run, options=EngineOptions(), output=PartsOutput.of(path)))
    return path.read_bytes()


class DyingGrader(Grader):
    """Raises an error, and later ends its process, each in the middle of a part and once: marker files say so."""

    folder: Path

    def grade_all(self, photographs: Iterable[Photograph], **options: Any) -> Iterator[Prediction | Ungraded]:
        raised, died = self.folder / "raised", self.folder / "died"
        for number, result in enumerate(super().grade_all(photographs, **options)):
            if number == BATCH and not raised.exists():
                raised.touch()
                raise RuntimeError("the connection was lost")
            if number == BATCH and not died.exists():
                died.touch()
                os._exit(1)
            yield result


def load_dying(path: str, *, folder: Path, load: Any, **options: Any) -> Grader:
    """What loads such a grader in a worker."""
    grader: Grader = load(path, **options)
    grader.__class__ = DyingGrader
    grader.folder = folder  # type: ignore[attr-defined]
    return grader


@pytest.mark.filterwarnings("ignore")
def test_two_workers_that_fail_and_die_in_the_middle_write_the_rows_of_one_process(
    cluster: Any, run: PartsRun, tmp_path: Path
) -> None:
    outcome = grade(replace(run, load=functools.partial(load_dying, folder=tmp_path, load=run.load)))
    assert (tmp_path / "raised").exists() and (tmp_path / "died").exists() and outcome.num_repeated >= 1
    assert (outcome.counts.num_rows, outcome.counts.num_ungraded) == (NUM_EYES, 1)
    assert (tmp_path / "out.csv").read_bytes() == of_one_process(run, tmp_path / "one.csv")


@pytest.mark.filterwarnings("ignore")
def test_workers_read_from_and_write_to_s3(cluster: Any, run: PartsRun, tmp_path: Path) -> None:
    import s3fs

    storage = s3fs.S3FileSystem()
    storage.put(str(tmp_path / "eyes"), f"{BUCKET}/eyes", recursive=True)
    output = PartsOutput.of(Path(f"s3://{BUCKET}/results"))
    found = find_images([f"s3://{BUCKET}/eyes"])
    assert [each.name for each in found] == [f"s3://{BUCKET}/eyes/eye{number:02d}.png" for number in range(NUM_EYES)]
    grade(replace(run, photographs=found, output=output))
    assert output.parts.names() == ["_provenance.json", *map(part_name, range(NUM_EYES // 4))]
    one_file = PartsOutput.of(Path(f"s3://{BUCKET}/files/out.csv"))
    grade(replace(run, photographs=found, output=one_file, options=EngineOptions()))
    assert one_file.parent.names() == ["out.csv", "out.csv.json"]
    written = one_file.parent.read("out.csv") or b""
    here = of_one_process(run, tmp_path / "one.csv").decode()
    rows = list(csv.DictReader(io.StringIO(written.decode())))
    assert [{**row, "image": row["image"].replace(f"s3://{BUCKET}", str(tmp_path))} for row in rows] == list(
        csv.DictReader(io.StringIO(here))
    )
    in_parts = [row.image for part in range(NUM_EYES // 4) for row in _rows_of(output, part)]
    assert in_parts == [row["image"] for row in rows]


def _rows_of(output: PartsOutput, number: int) -> Iterator[Any]:
    from fundusgrade.grading.parquet import parquet_rows

    return parquet_rows(io.BytesIO(output.parts.read(part_name(number)) or b""), number)


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_is_killed_is_resumed_and_grades_no_finished_part_again(
    cluster: Any, run: PartsRun, home: Path, tmp_path: Path
) -> None:
    """Killed with its process group once the first part is there, and continued by the cluster of this process."""
    if not hasattr(os, "killpg"):
        pytest.skip("process groups are of POSIX")
    folder, address = tmp_path / "out.csv.parts", cluster.get_runtime_context().gcs_address
    words = ["predict", "eyes", "--model", "tiny", "--out", "out.csv", "--engine", "ray", "--address", address]
    options = [
        "--workers",
        "1",
        "--batch-size",
        str(BATCH),
        "--device",
        "cpu",
        "--precision",
        "float32",
        "--runtime",
        "pytorch",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "fundusgrade", *words, *options],
        cwd=tmp_path,
        env={**ENVIRONMENT, **RAY, "FUNDUSGRADE_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    end = time.monotonic() + WAIT_SECONDS
    while not list(folder.glob("part-*")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    _, stderr = process.communicate()
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("part-*")}
    assert finished, stderr.decode()
    assert not (tmp_path / "out.csv").exists(), "it was to be killed in the middle"
    photographs = [replace(each, name=f"eyes/{each.path.name}") for each in run.photographs]
    kept: list[int] = []
    written: dict[Path, int] = {}

    def progressed(done: int, total: int) -> None:
        written.update({path: path.stat().st_mtime_ns for path in folder.glob("part-*")})

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        resumed = replace(run, photographs=photographs, resume=True)
        grade_in_parts(resumed, lambda what, num_kept: kept.append(num_kept), progressed)
    assert kept[0] >= 4 * len(finished)
    assert {path: written[path] for path in finished} == finished
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == [each.name for each in photographs]


def test_workers_fit_the_machines_of_a_cluster() -> None:
    small, large = NodeResources(num_cpus=2, num_gpus=0), NodeResources(num_cpus=16, num_gpus=0)
    gpus = NodeResources(num_cpus=32, num_gpus=4)
    plan = plan_workers([large, large], num_cpus=None, with_gpus=False)
    assert (plan.num_workers, plan.num_cpus, plan.num_gpus) == (8, 4, 0)
    assert plan_workers([small], num_cpus=1, with_gpus=False).describe() == "2 workers of 1 core"
    assert plan_workers([small, large], num_cpus=None, with_gpus=False).num_cpus == 2
    with_gpus = plan_workers([small, gpus], num_cpus=None, with_gpus=True)
    assert (with_gpus.num_workers, with_gpus.num_cpus, with_gpus.num_gpus) == (4, 8, 1)
    with pytest.raises(EngineError, match="has the 64 cores that --workers asks"):
        plan_workers([small, large], num_cpus=64, with_gpus=False)
    with pytest.raises(EngineError, match="no machine with GPUs"):
        plan_workers([small], num_cpus=None, with_gpus=True)
