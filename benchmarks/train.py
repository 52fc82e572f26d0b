"""The cost of loading and augmentation: the real training loop beside the same steps on one batch that stays in memory.

    python benchmarks/train.py DATASET                       # by name or folder, prepared before
    python benchmarks/train.py DATASET --arch cnn --device cuda --batch-size 128 --steps 20
    python benchmarks/train.py FIRST+SECOND --degrade        # two data sets together, half of the images degraded

Both take turns in one process, in short blocks; printed is the median rate of each, and the median of the ratios of
neighboring blocks with its 95 % bootstrap interval. Weights are random, nothing is downloaded. Degraded images are made
before anything is timed, as they are in all but the first epochs of a run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch

from fundusgrade.data.concatenation import open_dataset
from fundusgrade.data.pixel_cache import write_pixel_cache
from fundusgrade.networks.device import DeviceChoice, choose_device
from fundusgrade.options import DeviceName, Precision
from fundusgrade.training.batches import Batch, load_splits, training_batches
from fundusgrade.training.loop import train_step
from fundusgrade.training.options import TrainOptions
from fundusgrade.training.state import start_run

ARCHS = ["cnn", "tf_efficientnet_lite0", "resnet50", "vit_small_patch14_dinov2"]


def main() -> None:
    """Measure each architecture and print a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--arch", action="append", default=None)
    parser.add_argument("--device", type=DeviceName, default=DeviceName.AUTO)
    parser.add_argument("--precision", type=Precision, default=Precision.AUTO)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3, help="steps of a block")
    parser.add_argument("--blocks", type=int, default=9, help="blocks of each kind")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--degrade", action="store_true")
    chosen = parser.parse_args()
    choice = choose_device(chosen.device, chosen.precision)
    choice = replace(choice, compiled=chosen.compile)
    print(f"{choice.describe()}; {torch.get_num_threads()} threads; batches of {chosen.batch_size}")
    print("arch                        loop images/s  step images/s  ratio (95 %)")
    for arch in chosen.arch or ARCHS:
        options = TrainOptions(arch=arch, pretrained=False, batch_size=chosen.batch_size, degrade=chosen.degrade)
        loop, step = measure(chosen.data, options.filled(), choice, chosen.steps, chosen.blocks)
        low, high = interval(loop / step)
        print(
            f"{arch:26s}  {np.median(loop):13.1f}  {np.median(step):13.1f}  "
            f"{np.median(loop / step):.3f} ({low:.3f} to {high:.3f})"
        )


def measure(
    data: str, options: TrainOptions, choice: DeviceChoice, num_steps: int, num_blocks: int
) -> tuple[np.ndarray, np.ndarray]:
    """Images per second of each block of the loop, and of each block of bare steps."""
    dataset = open_dataset([data])
    write_pixel_cache(dataset)
    torch.manual_seed(0)
    run = start_run(dataset, options, choice, resume=False)
    images, _ = load_splits(dataset, options, choice, run.network.spec.rows, folder=dataset.directory)
    if images.degraded is not None:
        for part in torch.split(torch.arange(len(images)), options.batch_size):
            images.degraded[part]
    run.network.train()

    def endless() -> Iterator[Batch]:
        for epoch in range(1, 10**6):
            yield from training_batches(images, options.batch_size, seed=0, epoch=epoch, device=choice.device)

    batches = endless()
    kept = next(batches)

    def rate(next_batch: Callable[[], Batch]) -> float:
        synchronize(choice)
        started = time.perf_counter()
        for step in range(1, num_steps + 1):
            train_step(run, next_batch(), options, choice, step)
        synchronize(choice)
        return num_steps * len(kept.grades) / (time.perf_counter() - started)

    rate(lambda: kept)  # warm-up
    rates = []
    for block in range(num_blocks):
        kinds = [lambda: next(batches), lambda: kept]
        order = (0, 1) if block % 2 == 0 else (1, 0)
        pair = {kind: rate(kinds[kind]) for kind in order}
        rates.append((pair[0], pair[1]))
    loop, step = np.array(rates).T
    return loop, step


def interval(ratios: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    resamples = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(resamples, axis=1), [2.5, 97.5])
    return float(low), float(high)


def synchronize(choice: DeviceChoice) -> None:
    """Wait until a GPU has finished its work."""
    if choice.device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
