"""Grading by workers of Ray on this machine, compared with one process; a worker killed; the run killed and resumed.

    python benchmarks/engine.py FOLDER [FOLDER ...] [--count 2000] [--workers 2] [--model NAME]

COUNT photographs, links to those of the folders, which are repeated where they are fewer, are graded by the command
line in processes of their own: by one process of WORKERS threads; by WORKERS workers of one thread; so, and a worker is
killed once the first parts are written; and so, and the process group of the run is killed when three parts are
written, and the command is started again with --resume. All files must be equal to the byte, and parts that were
finished before the kill must not be written again. The exit code is 1 if anything differs. Linux only.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import fundusgrade
from fundusgrade.grading.parts import PROVENANCE_FILE
from fundusgrade.photographs.sources import find_images

ACTOR = "MapWorker"
POLL_SECONDS = 0.05
END_SECONDS = 60.0


@dataclass(slots=True)
class Course:
    """What was measured, and what was wrong."""

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def start(self, name: str, words: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start `fundusgrade predict` into `NAME.csv`, in a process group of its own."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = str(Path(fundusgrade.__file__).resolve().parents[1])
        return subprocess.Popen(
            [sys.executable, "-m", "fundusgrade", "predict", "photographs", "--out", f"{name}.csv", *words],
            cwd=self.folder,
            env=environment,
            stdout=(self.folder / f"{name}.stdout").open("ab"),
            stderr=(self.folder / f"{name}.stderr").open("ab"),
            start_new_session=True,
        )

    def run(self, name: str, words: Sequence[str], meanwhile: Callable[[Path], None] = lambda parts: None) -> None:
        """Run to the end, and compare the file with that of the first run."""
        start, process = time.perf_counter(), self.start(name, words)
        meanwhile(self.folder / f"{name}.csv.parts")
        code = process.wait()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        if code not in (0, 3):
            self.problems.append(f"{name} ended with {code}: {(self.folder / f'{name}.stderr').read_text()[-800:]}")
        elif (self.folder / f"{name}.csv").read_bytes() != (self.folder / "process.csv").read_bytes():
            self.problems.append(f"{name}: its file differs from that of one process")
        if (self.folder / f"{name}.stdout").stat().st_size:
            self.problems.append(f"{name} wrote to standard output")


def parts_in(folder: Path) -> dict[str, int]:
    """When each finished part was written, in nanoseconds."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("part-*.parquet")}


def wait_for_parts(folder: Path, number: int) -> None:
    """Wait until so many parts are finished."""
    end = time.monotonic() + 600
    while len(parts_in(folder)) < number:
        if time.monotonic() > end:
            raise SystemExit(f"{folder} has no {number} parts after ten minutes")
        time.sleep(POLL_SECONDS)


def processes(text: str) -> list[int]:
    """The processes of this machine whose command line holds a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text in path.read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def kill_a_worker(before: set[int], course: Course) -> Callable[[Path], None]:
    """What kills one worker of this run, once two parts are written; `before` are workers of other runs."""

    def kill(folder: Path) -> None:
        wait_for_parts(folder, 2)
        victims = sorted(set(processes(ACTOR)) - before)
        if not victims:
            course.problems.append("no worker was found that could be killed")
            return
        os.kill(victims[0], signal.SIGKILL)
        print(f"killed worker {victims[0]} of {len(victims)}, after {len(parts_in(folder))} parts", flush=True)

    return kill


def kill_the_run(course: Course, name: str, words: Sequence[str], num_parts: int) -> None:
    """Kill the process group of a run after some parts, and resume it; finished parts must stay as they are."""
    workers = set(processes(ACTOR))
    start, process = time.perf_counter(), course.start(name, words)
    folder = course.folder / f"{name}.csv.parts"
    wait_for_parts(folder, num_parts)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    killed = time.monotonic()
    while set(processes(ACTOR)) - workers and time.monotonic() - killed < END_SECONDS:
        time.sleep(POLL_SECONDS)
    left = set(processes(ACTOR)) - workers
    if left:
        course.problems.append(f"{len(left)} workers still run {END_SECONDS:.0f} s after their run was killed")
    course.seconds[name] = time.perf_counter() - start
    before, after = parts_in(folder), {}
    num_finished = len(before) * json.loads((folder / PROVENANCE_FILE).read_text())["part_size"]

    def watch(parts: Path) -> None:
        while parts.exists() or not (course.folder / f"{name}.csv").exists():
            after.update(parts_in(parts))
            time.sleep(POLL_SECONDS)

    course.run(name, [*words, "--resume"], watch)
    rewritten = [part for part in before if after.get(part, before[part]) != before[part]]
    print(f"killed the run after {len(before)} parts; {len(rewritten)} of them were written again", flush=True)
    if rewritten:
        course.problems.append(f"{name}: finished parts were graded again: {', '.join(rewritten)}")
    if (num_kept := _num_kept(course, name)) < num_finished:
        course.problems.append(f"{name} kept {num_kept} rows of {num_finished} that were finished")


def _num_kept(course: Course, name: str) -> int:
    """The rows that the second start said it kept."""
    lines = (course.folder / f"{name}.stderr").read_text().splitlines()
    said = [line for line in lines if line.startswith("resuming after ")]
    return int(said[-1].split()[2]) if said else 0


def link_photographs(folders: Sequence[Path], count: int, target: Path) -> None:
    """Links to so many photographs, each under a name of its own."""
    target.mkdir()
    found = find_images(folders)
    for number, photograph in enumerate(itertools.islice(itertools.cycle(found), count)):
        (target / f"{number:06d}{photograph.path.suffix}").symlink_to(photograph.path.absolute())


def main() -> int:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--model")
    arguments = parser.parse_args()
    model = [] if arguments.model is None else ["--model", arguments.model]
    engine = [*model, "--engine", "ray", "--workers", "1"]
    with tempfile.TemporaryDirectory() as folder:
        course = Course(Path(folder))
        link_photographs(arguments.folders, arguments.count, course.folder / "photographs")
        course.run("process", [*model, "--workers", str(arguments.workers)])
        course.run("ray", engine)
        course.run("worker killed", engine, kill_a_worker(set(processes(ACTOR)), course))
        kill_the_run(course, "run killed", engine, num_parts=3)
        for name, seconds in course.seconds.items():
            rate = arguments.count / seconds
            print(f"{name:14s} {seconds:7.1f} s {rate:7.1f} photographs/s, {seconds / course.seconds['process']:.2f} x")
    print(f"problems: {len(course.problems)}", *course.problems, sep="\n  ")
    return 1 if course.problems else 0


if __name__ == "__main__":
    sys.exit(main())
