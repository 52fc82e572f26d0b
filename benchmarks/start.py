"""Seconds from the shell to the first result, measured as whole processes.

    python benchmarks/start.py [PHOTOGRAPH] [--model NAME] [--runs 5] [--processor]

Processes take turns, after a round that warms caches, converts the model where it has to be, and is not counted.
Printed are medians with their range, of the clock, or of processor time, which a busy machine changes less, with
--processor; and how many times as long a command takes as importing what it needs at least.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TYPER_PROGRAM = "import typer; app = typer.Typer(); app.command()(lambda name: None); app(['--help'])"
"""The smallest help page that Typer prints with Rich, whose parts it imports only then."""
SAMPLE = Path(__file__).resolve().parent.parent / "docs" / "samples" / "healthy_eye.jpg"


def commands(photograph: Path, model: list[str], out: Path) -> dict[str, list[str]]:
    """The arguments of Python for each process."""
    grade = ["-m", "fundusgrade", "predict", str(photograph), *model]
    return {
        "import typer, rich": ["-c", "import typer, rich"],
        "a Typer program's --help": ["-c", TYPER_PROGRAM],
        "fundusgrade --help": ["-m", "fundusgrade", "--help"],
        "import torch": ["-c", "import torch"],
        "predict, PyTorch": [*grade, "--runtime", "pytorch"],
        "explain": ["-m", "fundusgrade", "explain", str(photograph), "--out", str(out), "--overwrite", *model],
        "import openvino": ["-c", "import openvino"],
        "predict, OpenVINO": [*grade, "--runtime", "openvino"],
        "import onnxruntime": ["-c", "import onnxruntime"],
        "predict, ONNX Runtime": [*grade, "--runtime", "onnxruntime"],
    }


RELATIVE_TO = {
    "fundusgrade --help": ("import typer, rich", "a Typer program's --help"),
    "predict, PyTorch": ("import torch",),
    "explain": ("import openvino", "import torch"),
    "predict, OpenVINO": ("import openvino",),
    "predict, ONNX Runtime": ("import onnxruntime",),
}


def seconds_of(arguments: list[str], *, of_processor: bool) -> float | None:
    """How long a process takes; None where it fails, as where a package is missing."""
    before, started = os.times(), time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
    elapsed, after = time.perf_counter() - started, os.times()
    if done.returncode:
        return None
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return used if of_processor else elapsed


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photograph", type=Path, nargs="?", default=SAMPLE)
    parser.add_argument("--model", default=None, help="name or path")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--processor", action="store_true", help="processor time instead of the clock's")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        named = [] if chosen.model is None else ["--model", chosen.model]
        programs = commands(chosen.photograph, named, Path(folder) / "heat.png")
        times: dict[str, list[float]] = {name: [] for name in programs}
        for number in range(chosen.runs + 1):
            for name, arguments in programs.items():
                seconds = seconds_of(arguments, of_processor=chosen.processor)
                if number and seconds is not None:
                    times[name].append(seconds)
    report(times, chosen.runs)


def report(times: dict[str, list[float]], num_runs: int) -> None:
    """A line for each process."""
    medians = {name: statistics.median(own) for name, own in times.items() if len(own) == num_runs}
    for name, own in times.items():
        if name not in medians:
            print(f"{name:24s} failed")
            continue
        bases = [base for base in RELATIVE_TO.get(name, ()) if base in medians]
        ratios = ", ".join(f"{medians[name] / medians[base]:.2f} times {base!r}" for base in bases)
        print(f"{name:24s} {medians[name]:6.2f} s ({min(own):.2f} to {max(own):.2f})  {ratios}".rstrip())


if __name__ == "__main__":
    main()
