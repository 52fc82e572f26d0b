"""What limits grading on this machine: preparing photographs, copying them to the device, or the network.

    python benchmarks/gpu.py FOLDER [FOLDER ...] [--device cuda] [--batch 8 64 256] [--seconds 2]

Runs on any machine; without a GPU the network runs on the CPU, and nothing is copied. Measured are, each alone:

    preparing   from a file to the preprocessed image: one thread, then as many as grading uses
    copying     batches uint8 to the device, from ordinary and from page-locked memory (CUDA only); as float32 it
                would be four times as many bytes
    network     a batch in page-locked memory to outputs on the CPU, by batch size and precision; on CUDA also with
                torch.compile and as a CUDA graph, if asked for by --compile and --graphs

and grading end to end, as `fundusgrade predict --runtime pytorch` does it. Then it is said which part is the slowest,
how near grading comes to it, and how many cores would keep the network busy.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.predict import is_gradable
from fundusgrade import store
from fundusgrade.errors import DeviceError
from fundusgrade.grading.grader import Grader
from fundusgrade.networks.checkpoint import load_checkpoint
from fundusgrade.networks.device import DeviceChoice, choose_device
from fundusgrade.networks.inference import to_memory_format
from fundusgrade.networks.runtime import Pixels
from fundusgrade.networks.tensors import pinned, scale_pixels
from fundusgrade.networks.torch_runtime import TorchRuntime
from fundusgrade.options import DeviceName, Precision, RuntimeName
from fundusgrade.photographs.loading import load_photograph
from fundusgrade.photographs.recipe import PreprocessRecipe
from fundusgrade.photographs.sources import PhotographSource, find_images

GB = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Photographs per second of one part of grading, alone."""

    part: str
    rate: float


def rate(call: Callable[[], object], num_images: int, seconds: float) -> float:
    """Images per second of a call that takes `num_images`, repeated for so long; the first call is not counted."""
    call()
    synchronize()
    started, calls = time.perf_counter(), 0
    while not calls or time.perf_counter() - started < seconds:
        call()
        calls += 1
    synchronize()
    return calls * num_images / (time.perf_counter() - started)


def synchronize() -> None:
    """Wait until a GPU has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def preparing_rate(found: Sequence[PhotographSource], recipe: PreprocessRecipe, num_threads: int) -> float:
    """Photographs per second of so many threads, each with one core."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(num_threads) as pool:
        started = time.perf_counter()
        for _ in pool.map(lambda each: load_photograph(each.path, recipe), found):
            pass
        seconds = time.perf_counter() - started
    cv2.setNumThreads(before)
    return len(found) / seconds


def copying_rates(pixels: Pixels, device: torch.device, seconds: float) -> Iterator[tuple[str, float]]:
    """Images per second of copies to a GPU, from both kinds of memory."""
    ordinary = torch.from_numpy(pixels)
    locked = pinned(ordinary, device)
    yield "ordinary memory", rate(lambda: ordinary.to(device), len(pixels), seconds)
    yield "page-locked memory", rate(lambda: locked.to(device, non_blocking=True), len(pixels), seconds)


def network_ways(
    runtime: TorchRuntime, pixels: Pixels, *, compiled: bool, graphs: bool
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Ways to compute a batch, the one that grading uses first."""
    yield "", lambda: runtime.run(pixels, with_features=False)
    on_cuda = runtime.choice.device.type == "cuda"
    images = scale_pixels(torch.from_numpy(pixels).to(runtime.choice.device).permute(0, 3, 1, 2))
    images = to_memory_format(runtime.network, images)
    if compiled:
        network = torch.compile(runtime.network.outputs)
        yield " compiled, without copies", lambda: _outputs(network, images, runtime.choice)
    if graphs and on_cuda:
        yield " CUDA graph, without copies", _graph(runtime, images).replay


@torch.inference_mode()
def _outputs(network: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, choice: DeviceChoice) -> object:
    with choice.autocast():
        return network(images)


def _graph(runtime: TorchRuntime, images: torch.Tensor) -> torch.cuda.CUDAGraph:
    """The computation of a batch, captured after three runs, as PyTorch's documentation asks for."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            _outputs(runtime.network.outputs, images, runtime.choice)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _outputs(runtime.network.outputs, images, runtime.choice)
    return graph


def measure_network(path: Path, prepared: Sequence[Pixels], chosen: argparse.Namespace) -> float:
    """Print a row for each precision and batch size; returns the highest rate of the way that grading uses."""
    highest = 0.0
    for precision in (Precision.FLOAT32, Precision.BFLOAT16):
        try:
            choice = choose_device(chosen.device, precision)
        except DeviceError as error:
            print(f"network, {precision.value}: not measured ({error})")
            continue
        runtime = TorchRuntime(load_checkpoint(path).network, choice)
        for batch_size in chosen.batch:
            pixels = np.stack(list(itertools.islice(itertools.cycle(prepared), batch_size)))
            for way, call in network_ways(runtime, pixels, compiled=chosen.compile, graphs=chosen.graphs):
                found = rate(call, batch_size, chosen.seconds)
                print(f"network, {precision.value}, batches of {batch_size:3d}{way:28s} {found:9.1f} photographs/s")
                highest = highest if way else max(highest, found)
    return highest


def end_to_end_rate(grader: Grader, found: Sequence[PhotographSource]) -> float:
    """Photographs per second of grading."""
    started = time.perf_counter()
    for _ in grader.grade_all(found):
        pass
    return len(found) / (time.perf_counter() - started)


def report(limits: Sequence[Limit], end_to_end: float, one_core: float, *, on_cpu: bool) -> None:
    """Which part limits, how near grading comes to it, and what the network would need.

    On a CPU all parts use the same cores: together they take as long as one after the other.
    """
    slowest = min(limits, key=lambda limit: limit.rate)
    network = next(limit.rate for limit in limits if limit.part == "network")
    if on_cpu:
        together = 1 / sum(1 / limit.rate for limit in limits)
        print(f"preparing and network on the same cores {together:9.1f} photographs/s")
        print(f"grading, end to end {end_to_end:9.1f} photographs/s: {end_to_end / together:.0%} of that")
        return
    print(
        f"grading, end to end {end_to_end:9.1f} photographs/s: {end_to_end / slowest.rate:.0%} of {slowest.part} alone"
    )
    print(f"{slowest.part} limits; {network / one_core:.1f} cores would prepare as many as the network takes")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--model", default=None, help="name or path")
    parser.add_argument("--device", type=DeviceName, default=DeviceName.AUTO)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--count", type=int, default=100, help="photographs to prepare and grade")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement of network and copies")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--graphs", action="store_true")
    chosen = parser.parse_args()
    gradable = [each for each in find_images(chosen.folders) if is_gradable(each)]
    found = list(itertools.islice(itertools.cycle(gradable), chosen.count))
    grader = Grader.load(chosen.model, device=chosen.device, runtime=RuntimeName.PYTORCH)
    num_threads, recipe = grader.concurrency.num_workers, grader.recipe
    print(f"{len(found)} photographs; {grader.name}; {grader.arithmetic.describe()}; {grader.concurrency.describe()}")
    one_core = preparing_rate(found, recipe, 1)
    limits = [Limit(part="preparing", rate=preparing_rate(found, recipe, num_threads))]
    print(f"preparing, one core {one_core:9.1f} photographs/s; {num_threads} threads {limits[0].rate:9.1f}")
    prepared = [load_photograph(each.path, recipe).preprocessed.image for each in gradable[:8]]
    device = torch.device(grader.arithmetic.device)
    if device.type == "cuda":
        batch = np.stack(list(itertools.islice(itertools.cycle(prepared), max(chosen.batch))))
        for memory, copied in copying_rates(batch, device, chosen.seconds):
            print(f"copying, {memory:20s} {copied:9.1f} photographs/s, {copied * prepared[0].nbytes / GB:.1f} GB/s")
        limits.append(Limit(part="copying", rate=copied))
    limits.append(Limit(part="network", rate=measure_network(store.resolve_model(chosen.model), prepared, chosen)))
    report(limits, end_to_end_rate(grader, found), one_core, on_cpu=device.type == "cpu")


if __name__ == "__main__":
    main()
