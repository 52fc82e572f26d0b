"""Damage photographs in every way that their formats allow, and check that each is graded or refused with a reason.

    python benchmarks/fuzz.py [PHOTOGRAPH OR FOLDER ...] [--count 10000] [--seed 0] [--workers 2] [--findings fuzz]
                              [--engine ray]

Each mutant (tests/mutations.py) is written to disk and loaded by a worker process along the path that grading takes,
with a limit of processor time and of address space. Of those that pass, one in twenty is graded by the shipped model.
Anything else than a preprocessed image or a reason (another exception, a warning, a signal, a hang) is a finding: it is
printed, its file is kept, and the exit code is 1. What libraries of codecs write to stderr is counted, but no finding.
With --engine ray one in twenty, loaded or refused, is graded by two workers of Ray and by one process too, whose rows
must be equal. Without photographs the samples of docs/samples are used. A number given to --only reproduces one mutant.
Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # stacks of threads are address space
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fundusgrade.errors import UngradableError
from fundusgrade.photographs.images import read_image
from fundusgrade.photographs.loading import load_photograph
from fundusgrade.photographs.pixels import NO_MEMORY
from fundusgrade.photographs.recipe import PreprocessRecipe
from fundusgrade.photographs.sources import find_images
from tests.mutations import mutant, originals_of

SAMPLES = Path(__file__).resolve().parent.parent / "docs" / "samples"
LIMIT_SECONDS = 10.0
HANG_SECONDS = 100.0
LIMIT_BYTES = 2 * 1024**3
LARGE_PIXELS = 4_000_000
GRADE_EVERY = 20
SUFFIXES = {"jpeg": ".jpg", "dicom": ".dcm", "bare": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a mutant: "loaded", "refused" (both as they should be), or a finding, with its text and cost."""

    kind: str
    detail: str
    seconds: float
    peak_bytes: int = 0
    is_noisy: bool = False

    @property
    def is_finding(self) -> bool:
        return self.kind not in ("loaded", "refused")


@dataclass(slots=True)
class Tally:
    """Counts of outcomes by format, the costliest mutants and all findings."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")
    largest: tuple[int, str] = (0, "")
    num_noisy: int = 0
    findings: list[str] = field(default_factory=list)

    def add(self, name: str, outcome: Outcome) -> None:
        self.counts[_format(name), outcome.kind] += 1
        self.num_noisy += outcome.is_noisy
        self.slowest = max(self.slowest, (outcome.seconds, name))
        self.largest = max(self.largest, (outcome.peak_bytes, name))
        if outcome.is_finding:
            self.findings.append(f"{outcome.kind}: {name}: {outcome.detail}")
            print(self.findings[-1], flush=True)


def _format(name: str) -> str:
    return name.split("-")[1].split("_")[0]


def _suffix(name: str) -> str:
    return SUFFIXES.get(_format(name), f".{_format(name)}")


def load_here(path: Path) -> Outcome:
    """Load one file in this process; returns the outcome and its cost."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak of resident memory begins anew
    # Processor time, because load on the machine is no finding.
    before, start = _status_bytes("VmRSS"), time.process_time()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            # A file may hold several photographs, or none.
            loaded = [load_photograph(found, PreprocessRecipe()) for found in find_images([path])]
            kind, detail = "loaded" if loaded else "refused", ""
        except UngradableError as error:
            kind, detail = "memory" if str(error) == NO_MEMORY else "refused", str(error)
        except BaseException as error:
            kind, detail = "exception", repr(error)
    if warned:
        kind, detail = "warning", str(warned[0].message)
    peak = max(0, _status_bytes("VmHWM") - before)
    return Outcome(kind=kind, detail=detail, seconds=time.process_time() - start, peak_bytes=peak)


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(key)


def _work(connection: Connection, stderr: Path) -> None:
    """A worker: limited, and what its libraries write to stderr goes to a file. No PyTorch is imported here."""
    assert "torch" not in sys.modules, "its address space would say nothing of ours"
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while (path := connection.recv()) is not None:
        connection.send(load_here(path))


class Worker:
    """A process that loads files, and is started again where one of them ended it."""

    def __init__(self, folder: Path) -> None:
        self._stderr = folder / "stderr"
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, self._stderr), daemon=True)
        self._process.start()
        theirs.close()

    def load_photograph(self, path: Path) -> Outcome:
        start = time.perf_counter()
        self._stderr.write_bytes(b"")
        outcome = self._answer(path, start)
        return replace(outcome, is_noisy=self._stderr.stat().st_size > 0)

    def _answer(self, path: Path, start: float) -> Outcome:
        with contextlib.suppress(EOFError, ConnectionError):
            self._connection.send(path)
            if self._connection.poll(HANG_SECONDS):
                outcome: Outcome = self._connection.recv()
                return replace(outcome, kind="slow") if outcome.seconds > LIMIT_SECONDS else outcome
        was_alive = self._process.is_alive()
        self._process.kill()
        self._process.join()
        kind, detail = ("hang", "") if was_alive else ("signal", f"exit code {self._process.exitcode}")
        self._start()
        return Outcome(kind=kind, detail=detail, seconds=time.perf_counter() - start)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self._process.join()


def originals_from(paths: Sequence[Path]) -> dict[str, bytes]:
    """Photographs in every format; of very large ones the file as it is, and a PNG, or making mutants would be slow."""
    originals: dict[str, bytes] = {}
    for number, found in enumerate(find_images(paths)):
        image = read_image(found.path)
        if image.shape[0] * image.shape[1] > LARGE_PIXELS:
            originals[f"jpeg_large{number}"] = found.path.read_bytes()
        else:
            originals |= {f"{kind}_{number}": data for kind, data in originals_of(image).items()}
    return originals


def fuzz(
    originals: Mapping[str, bytes], seed: int, numbers: Iterator[int], num_workers: int, findings: Path
) -> tuple[Tally, dict[str, bytes], dict[str, bytes]]:
    """Load every mutant; returns the outcomes, some of those that were loaded, and some of those that were refused."""
    tally, passed, refused, lock = Tally(), {}, {}, threading.Lock()

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            worker = Worker(Path(folder))
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    break
                name, data = mutant(originals, seed, number)
                path = Path(folder, f"mutant{_suffix(name)}")
                path.write_bytes(data)
                outcome = worker.load_photograph(path)
                with lock:
                    tally.add(name, outcome)
                    if outcome.is_finding:
                        (findings / f"{name[:150]}{path.suffix}").write_bytes(data)
                    elif outcome.kind == "loaded" and number % GRADE_EVERY == 0:
                        passed[name] = data
                    elif number % GRADE_EVERY == 0:
                        refused[name] = data
            worker.close()

    findings.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(num_workers) as pool:
        for running in [pool.submit(work) for _ in range(num_workers)]:
            running.result()
    return tally, passed, refused


def grade(passed: Mapping[str, bytes], tally: Tally) -> int:
    """Grade mutants that were loaded by the shipped model; returns how many have a grade."""
    from fundusgrade.grades import Prediction
    from fundusgrade.grading.grader import Grader

    grader, num_graded = Grader.load(), 0
    with tempfile.TemporaryDirectory() as folder:
        for name, data in passed.items():
            path = Path(folder, f"mutant{_suffix(name)}")
            path.write_bytes(data)
            results = list(grader.grade_all(find_images([path])))
            if all(isinstance(each, Prediction) and abs(sum(each.probabilities) - 1) < 1e-3 for each in results):
                num_graded += 1
            else:
                tally.findings.append(f"loaded, but not graded: {name}: {results}")
    return num_graded


def grade_by_ray(mutants: Mapping[str, bytes], tally: Tally) -> int:
    """Grade mutants by two workers of Ray and by one process, and compare the rows; returns their number."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "mutants")
        place.mkdir()
        for number, (name, data) in enumerate(mutants.items()):
            (place / f"{number:05d}{_suffix(name)}").write_bytes(data)
        files = []
        for options in ([], ["--engine", "ray", "--workers", "1"]):
            files.append(Path(folder, f"{len(options)}.csv"))
            words = ["-m", "fundusgrade", "predict", str(place), "--csv", str(files[-1]), *options]
            done = subprocess.run([sys.executable, *words], capture_output=True)
            if done.returncode not in (0, 3):
                tally.findings.append(
                    f"predict {' '.join(options)} ended with {done.returncode}: {done.stderr[-800:]!r}"
                )
                return 0
        if files[0].read_bytes() != files[1].read_bytes():
            tally.findings.append("the rows of Ray's workers differ from those of one process")
        return len(files[1].read_bytes().splitlines()) - 1


def report(tally: Tally) -> None:
    """Print outcomes by format, and the most expensive mutants."""
    kinds = sorted({kind for _, kind in tally.counts}, key=lambda kind: (kind not in ("loaded", "refused"), kind))
    print(f"\n{'':8s}" + "".join(f"{kind:>12s}" for kind in kinds))
    for form in sorted({form for form, _ in tally.counts}):
        print(f"{form:8s}" + "".join(f"{tally.counts[form, kind]:12d}" for kind in kinds))
    print(f"{'all':8s}" + "".join(f"{sum(n for (_, k), n in tally.counts.items() if k == kind):12d}" for kind in kinds))
    print(f"\nslowest: {tally.slowest[0]:.2f} s, {tally.slowest[1]}")
    print(f"files that made a library write to stderr: {tally.num_noisy}")
    print(f"largest: {tally.largest[0] / 1e6:.0f} MB of resident memory more than before, {tally.largest[1]}")


def main() -> int:
    """Parse the command line, fuzz, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path, nargs="*", default=sorted(SAMPLES.glob("*.jpg")))
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--only", type=int)
    parser.add_argument("--engine", choices=["ray"])
    arguments = parser.parse_args()
    originals = originals_from(arguments.photographs)
    numbers = iter(range(arguments.count) if arguments.only is None else [arguments.only])
    tally, passed, refused = fuzz(originals, arguments.seed, numbers, arguments.workers, arguments.findings)
    report(tally)
    print(f"graded by the shipped model: {grade(passed, tally)} of {len(passed)} that were tried")
    if arguments.engine:
        print(f"rows of two workers of Ray: {grade_by_ray({**passed, **refused}, tally)}")
    print(f"findings: {len(tally.findings)}", *tally.findings, sep="\n  ")
    return 1 if tally.findings else 0


if __name__ == "__main__":
    sys.exit(main())
