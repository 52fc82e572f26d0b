"""The cost of grading as the number of photographs grows: time and memory per photograph of every step.

    python benchmarks/growth.py --photographs 100 1000 10000 100000

Photographs are links to a few small drawn eyes in folders of 1,000, and the network is a small one with random weights,
so that what is measured is everything around the network. Each step is a process of its own, as a user starts it:

    list      finding the photographs and what the command reads, in order
    predict   rows of all photographs
    finished  predict --resume where everything is written already
    resumed   predict --resume after a run that stopped at 99 %
    merge     the rows of four shards into one file
    patients  the same with one row per patient

Printed are microseconds of processor time per photograph, beyond those of a run on one photograph, and the largest
resident memory of the process in MB. Processor time is that of all cores, and nearly the same on a busy machine; with
--elapsed the clock's time is printed instead. Where a column is flat, a photograph costs the same in any number.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fundusgrade.files import HOME_VARIABLE
from fundusgrade.grading.resume import provenance_file
from fundusgrade.grading.shards import Shard
from fundusgrade.grading.writer import partial_file

NUM_EYES = 20
PER_FOLDER = 1000
NUM_SHARDS = 4
LIST = (
    "import sys; from pathlib import Path; "
    "from fundusgrade.commands.options.photographs import find_photographs, input_files; "
    "input_files(find_photographs([Path(sys.argv[1])]))"
)
COMMAND = (sys.executable, "-m", "fundusgrade")
STEPS = ("list", "predict", "finished", "resumed", "merge", "patients")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a process took."""

    processor_seconds: float
    elapsed_seconds: float
    memory_mb: float

    def seconds(self, *, elapsed: bool) -> float:
        """Of one of the two clocks."""
        return self.elapsed_seconds if elapsed else self.processor_seconds


def run(*command: str) -> Cost:
    """Run a process to its end; one that grades nothing or fails ends the benchmark."""
    started = time.perf_counter()
    null = os.open(os.devnull, os.O_WRONLY)
    to_null = [(os.POSIX_SPAWN_DUP2, null, 1)] + ([] if "-v" in sys.argv else [(os.POSIX_SPAWN_DUP2, null, 2)])
    process = os.posix_spawn(command[0], command, os.environ, file_actions=to_null)
    _, status, usage = os.wait4(process, 0)
    os.close(null)
    assert os.waitstatus_to_exitcode(status) == 0, f"{command} failed"
    return Cost(
        processor_seconds=usage.ru_utime + usage.ru_stime,
        elapsed_seconds=time.perf_counter() - started,
        memory_mb=usage.ru_maxrss / 1024,
    )


def prepare(folder: Path) -> None:
    """Draw eyes and make a model, in a process of its own.

    A process begins with the largest memory of the one that starts it, which must therefore not load PyTorch.
    """
    from tests.models_for_tests import install_model, save_photographs

    install_model("tiny")
    save_photographs(folder / "eyes", range(NUM_EYES))


def link_photographs(eyes: Sequence[Path], folder: Path, count: int) -> None:
    """As many photographs as asked for, in folders."""
    for number in range(count):
        parent = folder / f"{number // PER_FOLDER:05d}"
        if number % PER_FOLDER == 0:
            parent.mkdir(parents=True)
        os.link(eyes[number % len(eyes)], parent / f"patient{number // 2:07d}_{'left' if number % 2 else 'right'}.png")


def stop_at(out: Path, fraction: float) -> None:
    """Leave what a run leaves that was killed at a fraction of its rows."""
    lines = out.read_bytes().splitlines(keepends=True)
    partial_file(out).write_bytes(b"".join(lines[: 1 + int(fraction * (len(lines) - 1))]))
    provenance_file(out).rename(provenance_file(partial_file(out)))
    out.unlink()


def split_rows(out: Path) -> None:
    """The same rows as the files of several shards."""
    header, *lines = out.read_bytes().splitlines(keepends=True)
    for number in range(1, NUM_SHARDS + 1):
        shard = Shard(number=number, count=NUM_SHARDS)
        shard.file(out).write_bytes(b"".join([header, *shard.select(lines)]))
        shutil.copy(provenance_file(out), provenance_file(shard.file(out)))


def measure(eyes: Sequence[Path], folder: Path, count: int) -> dict[str, Cost]:
    """The costs of all steps on so many photographs."""
    photographs, out = folder / "photographs", folder / "rows.csv"
    link_photographs(eyes, photographs, count)
    predict = (*COMMAND, "predict", str(photographs), "--csv", str(out), "--model", "tiny", "-q")
    merge = (*COMMAND, "merge", str(photographs), "--csv", str(out), "--overwrite", "-q")
    costs = {"list": run(sys.executable, "-c", LIST, str(photographs)), "predict": run(*predict)}
    rows = out.read_bytes()
    costs["finished"] = run(*predict, "--resume")
    stop_at(out, 0.99)
    costs["resumed"] = run(*predict, "--resume")
    assert out.read_bytes() == rows, "a resumed run ends with the same rows"
    split_rows(out)
    costs["merge"] = run(*merge)
    assert out.read_bytes() == rows, "merged rows are those of one run"
    by_patient = ("--by-patient", str(folder / "patients.csv"), "--patient-pattern", r"patient(?P<patient>\d+)")
    costs["patients"] = run(*merge, *by_patient)
    return costs


def main() -> None:
    """Measure each number of photographs and print a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, nargs="+", default=[100, 1000, 10_000, 100_000])
    parser.add_argument("--folder", type=Path, default=None, help="where photographs are linked and removed again")
    parser.add_argument("--elapsed", action="store_true", help="print the clock's time, not the processor's")
    parser.add_argument("--prepare", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("-v", action="store_true", help="show what the commands say")
    chosen = parser.parse_args()
    if chosen.prepare is not None:
        prepare(chosen.prepare)
        return
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)
        os.environ[HOME_VARIABLE] = str(folder / "home")
        run(sys.executable, __file__, "--prepare", str(folder))
        eyes = sorted((folder / "eyes").iterdir())
        measure(eyes, folder / "first", 1)  # the model is converted for a faster runtime, once
        one = measure(eyes, folder / "one", 1)
        seconds = {step: cost.seconds(elapsed=chosen.elapsed) for step, cost in one.items()}
        clock = "elapsed" if chosen.elapsed else "processor"
        print(f"one photograph, {clock} seconds: " + ", ".join(f"{step} {seconds[step]:.2f}" for step in STEPS))
        print(f"{clock} microseconds per photograph beyond that, and MB of memory")
        print("photographs  " + "  ".join(f"{step:>16s}" for step in STEPS))
        for count in chosen.photographs:
            costs = measure(eyes, folder / str(count), count)
            cells = [
                f"{(costs[step].seconds(elapsed=chosen.elapsed) - seconds[step]) / count * 1e6:10.0f} "
                f"{costs[step].memory_mb:5.0f}"
                for step in STEPS
            ]
            print(f"{count:11d}  " + "  ".join(cells), flush=True)
            shutil.rmtree(folder / str(count))


if __name__ == "__main__":
    main()
