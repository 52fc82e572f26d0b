"""Photographs graded in a second, beside timm's own way, a plain loop, and what bounds any program here.

    python benchmarks/predict.py FOLDER [FOLDER ...] [--model NAME] [--count 200] [--rounds 5]

All programs take turns in one process on the same files, each grading the same photographs by the same weights along
the same preprocessing. Where the folders hold fewer than COUNT, photographs of --fill-from, enlarged to the pixels of a
camera and saved as JPEG, fill up; without that, photographs are graded several times. The first round warms caches and
is not counted. "timm" is its ImageDataset and loader with two worker processes and its network in
float32, as its inference program runs; "plain loop" opens, prepares and grades one photograph after the other.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import ImageDataset, create_loader
from torch import Tensor

from fundusgrade.grades import Prediction
from fundusgrade.grading import Grader
from fundusgrade.images import FoundImage, find_images, read_image
from fundusgrade.intake import MIN_DECODED_PX, take_in, take_in_picture
from fundusgrade.metrics import decide_grades, quadratic_weighted_kappa
from fundusgrade.model import predict_outputs, scale_pixels, to_pixels, to_probabilities
from fundusgrade.options import DeviceName, Precision
from fundusgrade.pace import at_work
from fundusgrade.preprocess import PreprocessRecipe
from fundusgrade.writing import PredictionWriter

CAMERA_PX = 3500
TIMM_WORKERS = 2
TIMM_BATCH = 32


@dataclass(frozen=True, slots=True)
class AsTensor:
    """A PIL picture as the network's input (3, S, S), prepared like ours from all its pixels."""

    recipe: PreprocessRecipe

    def __call__(self, image: Image.Image) -> Tensor:
        """One photograph."""
        prepared = take_in_picture(np.asarray(image.convert("RGB")), self.recipe).prepared
        return scale_pixels(to_pixels(prepared.picture))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--model", default=None, help="name or path; an exported graph is compared by --original")
    parser.add_argument("--original", default=None, help="the weights that timm and the plain loop run, if not --model")
    parser.add_argument("--fill-from", type=Path, help="folder of smaller photographs")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        own = find_images(chosen.folders)
        missing = chosen.count - len(own) if chosen.fill_from else 0
        enlarge(find_images([chosen.fill_from])[:missing] if missing > 0 else [], Path(folder))
        found = list(itertools.islice(itertools.cycle([*own, *find_images([Path(folder)])]), chosen.count))
        measure([FoundImage(path=each.path, name=f"{number:05d}") for number, each in enumerate(found)], chosen)


def enlarge(found: Sequence[FoundImage], folder: Path) -> None:
    """The same photographs with the pixels of a camera."""
    for number, each in enumerate(found):
        with Image.open(each.path) as image:
            larger = image.convert("RGB").resize((CAMERA_PX, CAMERA_PX), Image.Resampling.BICUBIC)
            larger.save(folder / f"{number:05d}.jpg", quality=92)


def measure(found: Sequence[FoundImage], chosen: argparse.Namespace) -> None:
    """Let all programs take turns, and print what they took."""
    ours = Grader.load(chosen.model)
    plain = Grader.load(chosen.original or chosen.model, device=DeviceName.CPU, precision=Precision.FLOAT32)
    print(f"{len(found)} photographs; {ours.name}; {ours.choice.describe()}; {ours.pace.describe()}")
    programs = programs_of(ours, plain, found)
    grades: dict[str, Sequence[int]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for round_number in range(chosen.rounds + 1):
        for name, program in programs.items():
            start = time.perf_counter()
            grades[name] = program()
            if round_number:
                seconds[name].append(time.perf_counter() - start)
    report(seconds, grades, len(found))


def programs_of(ours: Grader, plain: Grader, found: Sequence[FoundImage]) -> dict[str, Callable[[], Sequence[int]]]:
    """Every program by name; each returns the grades it gave, or nothing where it gives none."""
    pixels = torch.stack([to_pixels(take_in(each.path, ours.recipe).prepared.picture) for each in found[:32]])
    at_least_px = max(MIN_DECODED_PX, ours.recipe.size_px)
    batches = [pixels[start : start + ours.pace.batch_size] for start in range(0, 32, ours.pace.batch_size)]
    repeated = list(itertools.islice(itertools.cycle(batches), len(found) // ours.pace.batch_size))
    return {
        "ours": lambda: grade(ours, found),
        "timm": lambda: grade_by_timm(plain, found),
        "plain loop": lambda: grade_by_loop(plain, found),
        "decode only, in full": lambda: side_by_side(ours, found, lambda each: read_image(each.path)),
        "decode only, reduced": lambda: side_by_side(
            ours, found, lambda each: read_image(each.path, at_least_px=at_least_px)
        ),
        "make ready only": lambda: side_by_side(ours, found, lambda each: take_in(each.path, ours.recipe)),
        "network only": lambda: side_by_side(
            ours, repeated, lambda batch: predict_outputs(ours.network, batch, ours.choice, len(batch))
        ),
    }


def grade(grader: Grader, found: Sequence[FoundImage]) -> list[int]:
    """The whole of `fundusgrade predict` but its start: rows in a file."""
    grades = []
    with tempfile.TemporaryDirectory() as folder, PredictionWriter(Path(folder) / "out.csv") as writer:
        for result in grader.grade_all(found):
            writer.write(result)
            grades.append(int(result.grade) if isinstance(result, Prediction) else -1)
    return grades


@torch.inference_mode()
def grade_by_timm(grader: Grader, found: Sequence[FoundImage]) -> list[int]:
    """timm's data set, loader and network."""
    with tempfile.TemporaryDirectory() as folder:
        for each in found:  # the names keep the order
            (Path(folder) / f"{each.name}{each.path.suffix}").symlink_to(each.path.resolve())
        size = (3, grader.recipe.size_px, grader.recipe.size_px)
        dataset = ImageDataset(folder)
        loader = create_loader(
            dataset, input_size=size, batch_size=TIMM_BATCH, use_prefetcher=False, num_workers=TIMM_WORKERS
        )
        dataset.transform = AsTensor(grader.recipe)
        return as_grades(grader, torch.cat([grader.network.outputs(batch) for batch, _ in loader]))


@torch.inference_mode()
def grade_by_loop(grader: Grader, found: Sequence[FoundImage]) -> list[int]:
    """One photograph after the other."""
    prepare, outputs = AsTensor(grader.recipe), []
    for each in found:
        with Image.open(each.path) as image:
            outputs.append(grader.network.outputs(prepare(image)[None]))
    return as_grades(grader, torch.cat(outputs))


def as_grades(grader: Grader, outputs: Tensor) -> list[int]:
    """The head's outputs (N, n) as grades, decided like ours."""
    probabilities = to_probabilities(grader.network.spec, outputs)
    grades: list[int] = decide_grades(probabilities, grader.description.thresholds).tolist()
    return grades


def side_by_side(grader: Grader, items: Sequence[Any], call: Callable[[Any], object]) -> list[int]:
    """The same call for all, in the threads that grading uses."""
    with at_work(grader.pace, grader.choice) as threads:
        for _ in threads.photographs.map(call, items):
            pass
    return []


def report(seconds: dict[str, list[float]], grades: dict[str, Sequence[int]], count: int) -> None:
    """Rates, ratios to ours in the same round, and agreement."""
    print(f"{'':22s} photographs/s   ours is faster by (least - most)")
    for name, times in seconds.items():
        ratios = [other / own for other, own in zip(times, seconds["ours"], strict=True)]
        middle = statistics.median(ratios)
        rate = count / statistics.median(times)
        print(f"{name:22s} {rate:8.1f}        {middle:5.2f} x ({min(ratios):.2f} - {max(ratios):.2f})")
    for limits in (("make ready only", "network only"), ("decode only, in full", "network only")):
        shares = [
            max(of[name] for name in limits) / of["ours"]
            for of in ({name: times[i] for name, times in seconds.items()} for i in range(len(seconds["ours"])))
        ]
        print(f"share of the slower of {' and '.join(limits)}: {statistics.median(shares):.0%}")
    for name in ("timm", "plain loop"):
        same = np.mean(np.array(grades["ours"]) == np.array(grades[name]))
        kappa = quadratic_weighted_kappa(np.array(grades["ours"]), np.array(grades[name]))
        print(f"kappa between ours and {name}: {kappa:.4f}, same grade {same:.1%}")


if __name__ == "__main__":
    main()
