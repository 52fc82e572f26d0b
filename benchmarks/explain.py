"""The cost of explanations: time compared with grading one 12-megapixel photograph, and memory over many in a row.

    python benchmarks/explain.py                 # both, the shipped model
    python benchmarks/explain.py --model NAME --count 100

Times are medians of alternating runs in one process, and of whole commands; the photograph is drawn.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from fundusgrade.explanation.explainer import explain_photograph
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.grading.grader import Grader
from fundusgrade.options import Attribution
from fundusgrade.reports.explanation_pages import draw_figure

SAMPLES = Path(__file__).resolve().parent.parent / "docs" / "samples"
WIDTH, HEIGHT = 4288, 2848
WARM_UP = 50


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None)
    parser.add_argument("--count", type=int, default=500, help="explanations in a row; 0 for none")
    parser.add_argument("--repeats", type=int, default=7)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photograph = draw_photograph(Path(folder) / "eye.jpg")
        grader = Grader.load(chosen.model)
        print(f"{grader.name}; {grader.arithmetic.describe()}; {WIDTH} x {HEIGHT} JPEG")
        compare_calls(grader, photograph, chosen.repeats)
        compare_commands(chosen.model, photograph, max(3, chosen.repeats // 2))
        if chosen.count:
            watch_memory(grader, Path(folder), chosen.count)


def draw_photograph(path: Path) -> Path:
    """The drawn severe eye on a wide black sensor."""
    eye = cv2.imread(str(SAMPLES / "drawn_severe.jpg"))
    canvas = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    left = (WIDTH - HEIGHT) // 2
    canvas[:, left : left + HEIGHT] = cv2.resize(eye, (HEIGHT, HEIGHT), interpolation=cv2.INTER_CUBIC)
    Image.fromarray(canvas[..., ::-1]).save(path, quality=92)
    return path


def compare_calls(grader: Grader, path: Path, repeats: int) -> None:
    """In one process that has imported everything."""
    calls: dict[str, Callable[[], object]] = {"grading twice": lambda: [grader.grade(path) for _ in range(2)]}
    both = (Attribution.GRAD_CAM, Attribution.INTEGRATED_GRADIENTS)
    for methods in ((both[0],), (both[1],), both):
        options, name = [ExplainOptions(method=method) for method in methods], " and ".join(methods)
        calls[f"{name}, as shown"] = lambda options=options: explain_photograph(
            path, [grader], options, at_least_px=1200
        )
        calls[f"{name}, every pixel"] = lambda options=options: explain_photograph(path, [grader], options)
    explained = explain_photograph(path, [grader], [ExplainOptions(method=method) for method in both], at_least_px=1200)
    calls["the figure of both, without explaining"] = lambda: draw_figure(explained, path.with_suffix(".png"), None)
    report("one process, everything imported", calls, repeats)


def compare_commands(model: str | None, path: Path, repeats: int) -> None:
    """Whole commands, imports included."""
    named = ["--model", model] if model else []
    figure = str(path.with_suffix(".png"))

    def run(*words: str) -> None:
        subprocess.run([sys.executable, "-m", "fundusgrade", *words, *named], check=True, capture_output=True)

    calls: dict[str, Callable[[], object]] = {
        "grading twice": lambda: [run("predict", str(path)) for _ in range(2)],
        "both maps": lambda: run("explain", str(path), "--overwrite", "--out", figure),
        "integrated-gradients": lambda: run(
            "explain", str(path), "--overwrite", "--out", figure, "--method", "integrated-gradients"
        ),
        "grad-cam": lambda: run("explain", str(path), "--overwrite", "--out", figure, "--method", "grad-cam"),
    }
    report("whole commands, figure included", calls, repeats)


def report(title: str, calls: dict[str, Callable[[], object]], repeats: int) -> None:
    """Time the calls in alternation; print medians with ratios to the first, and medians of processor time.

    The processor time hardly depends on what else the machine does.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    busy: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            started, started_busy = time.perf_counter(), processor_seconds()
            call()
            if repeat:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
                busy[name].append(processor_seconds() - started_busy)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    first = next(iter(medians.values()))
    print(f"\n{title}")
    for name, median in medians.items():
        processor = statistics.median(busy[name])
        print(f"  {name:52s} {1000 * median:7.0f} ms {median / first:5.2f} x; processor {1000 * processor:6.0f} ms")


def processor_seconds() -> float:
    """Processor time of this process and of its finished children."""
    return sum(resource.getrusage(who).ru_utime for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def watch_memory(grader: Grader, folder: Path, count: int) -> None:
    """Explain and draw many photographs in a row; the memory of the process must not grow after the first ones."""
    paths = sorted(SAMPLES.glob("*.jpg"))
    held: list[int] = []
    for number in range(count):
        path = paths[number % len(paths)]
        draw_figure(explain_photograph(path, [grader], [ExplainOptions()], at_least_px=1200), folder / "heat.jpg", None)
        held.append(resident_bytes())
    num_warm_up = min(WARM_UP, count - 1)
    after = held[num_warm_up:]
    grown = (max(after) - after[0]) / 1e6
    print(f"\n{count} explanations in a row with figures: {after[0] / 1e6:.0f} MB after {num_warm_up},")
    print(f"  {after[-1] / 1e6:.0f} MB at the end, {grown:+.0f} MB at most")


def resident_bytes() -> int:
    """Resident memory of this process, as Linux reports it."""
    fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * 4096


if __name__ == "__main__":
    main()
