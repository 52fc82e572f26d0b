"""Photographs graded per second, compared with timm's inference program, a plain loop, and upper bounds.

    python benchmarks/predict.py FOLDER [FOLDER ...] [--model NAME] [--runtime NAME] [--count 200] [--rounds 5]

All programs take turns in one process and grade the same files with the same weights and the same preprocessing. Where
the folders have fewer than COUNT photographs, those of --fill-from are added, enlarged to the size of a camera's and
saved as JPEG; without that option, photographs are graded several times. The first round warms caches and is not
counted. Ours runs as `predict` does by itself, in the fastest runtime that is installed, or in those of --runtime.
Shares are of the slower of its two parts, preparing and the network, on the same cores. "timm" is its ImageDataset and
loader with two worker processes and its network in float32, as in its inference program; "plain loop" reads,
preprocesses and grades one photograph after the other.
"""

from __future__ import annotations

import argparse
import functools
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

from fundusgrade.errors import UngradableError
from fundusgrade.grades import Prediction
from fundusgrade.grading.concurrency import worker_pools
from fundusgrade.grading.datasets import load_for_figures
from fundusgrade.grading.grader import Grader
from fundusgrade.grading.writer import PredictionWriter
from fundusgrade.metrics.classification import decide_grades, quadratic_weighted_kappa
from fundusgrade.networks.inference import to_probabilities
from fundusgrade.networks.runtime import Pixels
from fundusgrade.networks.tensors import scale_pixels, to_pixels
from fundusgrade.options import DeviceName, Precision, RuntimeName
from fundusgrade.photographs.images import read_image
from fundusgrade.photographs.loading import MIN_DECODED_PX, load_photograph, load_pixels
from fundusgrade.photographs.recipe import PreprocessRecipe
from fundusgrade.photographs.sources import PhotographSource, find_images

CAMERA_PX = 3500
TIMM_WORKERS = 2
TIMM_BATCH = 32
LOAD = "load and preprocess only"


@dataclass(frozen=True, slots=True)
class AsTensor:
    """A PIL image as the network's input (3, S, S), preprocessed as in fundusgrade from all its pixels."""

    recipe: PreprocessRecipe

    def __call__(self, image: Image.Image) -> Tensor:
        """One photograph."""
        prepared = load_pixels(np.asarray(image.convert("RGB")), self.recipe).preprocessed
        return scale_pixels(to_pixels(prepared.image))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--model", action="append", help="name or path; several, such as exported graphs, take turns")
    runtimes = [name.value for name in RuntimeName]
    parser.add_argument("--runtime", action="append", choices=runtimes, help="several take turns (default: auto)")
    parser.add_argument("--original", default=None, help="the weights that timm and the plain loop run")
    parser.add_argument("--fill-from", type=Path, help="folder of smaller photographs")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        own = find_images(chosen.folders)
        missing = 11 * (chosen.count - len(own)) // 10 if chosen.fill_from else 0  # a few may show no retina
        enlarge(find_images([chosen.fill_from])[:missing] if missing > 0 else [], Path(folder))
        gradable = [each for each in [*own, *find_images([Path(folder)])] if is_gradable(each)]
        found = list(itertools.islice(itertools.cycle(gradable), chosen.count))
        measure([PhotographSource(path=each.path, name=f"{number:05d}") for number, each in enumerate(found)], chosen)


def is_gradable(found: PhotographSource) -> bool:
    """Whether a photograph can be graded; the programs that are compared stop at one that cannot."""
    try:
        load_photograph(found.path, PreprocessRecipe())
    except UngradableError:
        return False
    return True


def enlarge(found: Sequence[PhotographSource], folder: Path) -> None:
    """The same photographs enlarged to the size of a camera's."""
    for number, each in enumerate(found):
        with Image.open(each.path) as image:
            larger = image.convert("RGB").resize((CAMERA_PX, CAMERA_PX), Image.Resampling.BICUBIC)
            larger.save(folder / f"{number:05d}.jpg", quality=92)


def measure(found: Sequence[PhotographSource], chosen: argparse.Namespace) -> None:
    """Run all programs in turn, and print their times."""
    loaded = itertools.product(chosen.model or [None], map(RuntimeName, chosen.runtime or [RuntimeName.AUTO]))
    graders = {label_of(grader): grader for grader in (Grader.load(name, runtime=each) for name, each in loaded)}
    plain = load_for_figures(chosen.original, device=DeviceName.CPU, precision=Precision.FLOAT32)
    print(f"{len(found)} photographs; {next(iter(graders.values())).concurrency.describe()}")
    for grader in graders.values():
        print(f"{grader.name}; {grader.arithmetic.describe()}")
    programs = {**bounds_of(next(iter(graders.values())), found), **peers_of(plain, found)}
    for name, grader in graders.items():
        programs |= {f"ours, {name}": functools.partial(grade, grader, found)}
        programs |= {f"network only, {name}": functools.partial(run_network, grader, prepared_batches(grader, found))}
    grades: dict[str, Sequence[int]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for round_number in range(chosen.rounds + 1):
        for name, program in programs.items():
            start = time.perf_counter()
            grades[name] = program()
            if round_number:
                seconds[name].append(time.perf_counter() - start)
    report(seconds, grades, len(found), list(graders))


def label_of(grader: Grader) -> str:
    """The model and what computes it."""
    return f"{grader.name}, {grader.arithmetic.runtime} {grader.arithmetic.number_format}"


def bounds_of(grader: Grader, found: Sequence[PhotographSource]) -> dict[str, Callable[[], Sequence[int]]]:
    """Steps that every program needs, with as many threads as grading uses."""
    at_least_px = max(MIN_DECODED_PX, grader.recipe.size_px)
    calls: dict[str, Callable[[PhotographSource], object]] = {
        "decode only, full size": lambda each: read_image(each.path),
        "decode only, reduced size": lambda each: read_image(each.path, at_least_px=at_least_px),
        LOAD: lambda each: load_photograph(each.path, grader.recipe),
    }
    return {name: functools.partial(side_by_side, grader, found, call) for name, call in calls.items()}


def peers_of(plain: Grader, found: Sequence[PhotographSource]) -> dict[str, Callable[[], Sequence[int]]]:
    """Other ways to grade with the same weights in float32."""
    return {
        "timm": functools.partial(grade_by_timm, plain, found),
        "plain loop": functools.partial(grade_by_loop, plain, found),
    }


def prepared_batches(grader: Grader, found: Sequence[PhotographSource]) -> list[Pixels]:
    """As many preprocessed images as there are photographs, a few different ones repeated."""
    num = grader.concurrency.batch_size
    few = [load_photograph(each.path, grader.recipe).preprocessed.image for each in found[:num]]
    pixels = np.stack((few * num)[:num])
    return [pixels[: min(num, len(found) - start)] for start in range(0, len(found), num)]


def run_network(grader: Grader, batches: Sequence[Pixels]) -> list[int]:
    """Only the network, with as many threads as grading uses."""
    with_features = grader.checks is not None
    return side_by_side(grader, batches, lambda batch: grader.model.runtime.run(batch, with_features=with_features))


def grade(grader: Grader, found: Sequence[PhotographSource]) -> list[int]:
    """All of `fundusgrade predict` but its start: rows in a file."""
    grades = []
    with tempfile.TemporaryDirectory() as folder, PredictionWriter(Path(folder) / "out.csv") as writer:
        for result in grader.grade_all(found):
            writer.write(result)
            grades.append(int(result.grade) if isinstance(result, Prediction) else -1)
    return grades


@torch.inference_mode()
def grade_by_timm(grader: Grader, found: Sequence[PhotographSource]) -> list[int]:
    """Grade with timm's data set, loader and network."""
    with tempfile.TemporaryDirectory() as folder:
        for each in found:  # the names keep the order
            (Path(folder) / f"{each.name}{each.path.suffix}").symlink_to(each.path.resolve())
        size = (3, grader.recipe.size_px, grader.recipe.size_px)
        dataset = ImageDataset(folder)
        loader = create_loader(
            dataset, input_size=size, batch_size=TIMM_BATCH, use_prefetcher=False, num_workers=TIMM_WORKERS
        )
        dataset.transform = AsTensor(grader.recipe)
        return as_grades(grader, torch.cat([grader.pytorch.network.outputs(batch) for batch, _ in loader]))


@torch.inference_mode()
def grade_by_loop(grader: Grader, found: Sequence[PhotographSource]) -> list[int]:
    """One photograph after the other."""
    prepare, outputs = AsTensor(grader.recipe), []
    for each in found:
        with Image.open(each.path) as image:
            outputs.append(grader.pytorch.network.outputs(prepare(image)[None]))
    return as_grades(grader, torch.cat(outputs))


def as_grades(grader: Grader, outputs: Tensor) -> list[int]:
    """The head's outputs (N, n) as grades, by the model's decision rule."""
    probabilities = to_probabilities(grader.pytorch.network.spec, outputs)
    grades: list[int] = decide_grades(probabilities, grader.description.thresholds).tolist()
    return grades


def side_by_side(grader: Grader, items: Sequence[Any], call: Callable[[Any], object]) -> list[int]:
    """Call a function with every item, in the threads that grading uses."""
    with worker_pools(grader.concurrency, grader.arithmetic.device) as threads:
        for _ in threads.photographs.map(call, items):
            pass
    return []


def report(seconds: dict[str, list[float]], grades: dict[str, Sequence[int]], count: int, models: list[str]) -> None:
    """Print rates; and for each model its speed relative to the others and to the bounds, and their agreement."""
    for name, times in seconds.items():
        print(f"{name:48s} {count / statistics.median(times):8.1f} photographs/s")
    for model in models:
        own = seconds[f"ours, {model}"]
        print(model)
        for peer in ("timm", "plain loop"):
            ratios = [other / ours for other, ours in zip(seconds[peer], own, strict=True)]
            same = np.mean(np.array(grades[f"ours, {model}"]) == np.array(grades[peer]))
            kappa = quadratic_weighted_kappa(np.array(grades[f"ours, {model}"]), np.array(grades[peer]))
            print(
                f"  {statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f}) times as fast as {peer}; "
                f"kappa between the two {kappa:.4f}, same grade {same:.1%}"
            )
        for bound in (LOAD, "decode only, full size"):
            slower = [max(pair) for pair in zip(seconds[bound], seconds[f"network only, {model}"], strict=True)]
            shares = [each / ours for each, ours in zip(slower, own, strict=True)]
            print(f"  {_spread(shares)} of the slower bound, {bound} or network only")
        both = [load + network for load, network in zip(seconds[LOAD], seconds[f"network only, {model}"], strict=True)]
        shares = [each / ours for each, ours in zip(both, own, strict=True)]
        print(f"  {_spread(shares)} of {LOAD} and then network only, which share the cores of a CPU")


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0%} ({min(values):.0%} - {max(values):.0%})"


if __name__ == "__main__":
    main()
