"""Memory of training as the number of photographs grows: two data sets together, with --degrade.

    python benchmarks/training_memory.py --photographs 1000 9000 35000
    python benchmarks/training_memory.py --photographs 35000 --arch tf_efficientnet_lite0 --steps 200

Photographs are hard links to a few drawn eyes; everything else is as with as many different ones: manifests, pixel
caches, degraded images, one epoch of training, validation and calibration. Each number is measured in a process of its
own, whose anonymous memory (RssAnon: what the system cannot drop and read again) is looked at 20 times a second.
Printed are its highest value beside what the pixels of all images would take, and the rate of training. With
--steps an epoch ends early, and there is no validation. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.draw_labeled_eyes import draw
from fundusgrade import files, store
from fundusgrade.data.concatenation import open_dataset
from fundusgrade.data.dataset import FORMAT_VERSION, PreparedDataset, load_dataset
from fundusgrade.data.fingerprints import FINGERPRINT_BYTES
from fundusgrade.data.labels import find_samples
from fundusgrade.data.manifest import write_manifest
from fundusgrade.data.pixel_cache import write_pixel_cache
from fundusgrade.data.prepare import prepare_dataset
from fundusgrade.networks.device import choose_device
from fundusgrade.options import DeviceName, Precision
from fundusgrade.photographs.images import write_image
from fundusgrade.photographs.recipe import PreprocessRecipe
from fundusgrade.training.history import EpochRecord
from fundusgrade.training.loop import train
from fundusgrade.training.options import TrainOptions

NUM_EYES = 40
NAMES = ("first", "second")
SECONDS_BETWEEN_LOOKS = 0.05
MB = 1e6


class AnonymousMemory(threading.Thread):
    """Looks at this process's anonymous memory; `highest` is in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.highest = 0

    def run(self) -> None:
        """Look until the process ends."""
        while True:
            self.highest = max(self.highest, anonymous_bytes())
            time.sleep(SECONDS_BETWEEN_LOOKS)


def anonymous_bytes() -> int:
    """RssAnon of this process."""
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None, "Linux says so"
    return int(found[1]) * 1024


class Watch:
    """Ends an epoch after some steps, as Ctrl-C does, and measures the rate from the tenth on."""

    def __init__(self, max_steps: int | None) -> None:
        self._max_steps = max_steps
        self._started = (0, 0.0)
        self.rate = 0.0

    def batch_done(self, epoch: int, step: int, num_steps: int, num_images: int) -> None:
        """Count."""
        if step == 10:
            self._started = (num_images, time.perf_counter())
        elif step > 10:
            self.rate = (num_images - self._started[0]) / (time.perf_counter() - self._started[1])
        if step == self._max_steps:
            raise KeyboardInterrupt

    def epoch_done(self, record: EpochRecord, is_best: bool) -> None:
        """Nothing."""


def prepared_eyes(folder: Path, size_px: int) -> PreparedDataset:
    """A few drawn eyes, prepared as any photographs are."""
    rng = np.random.default_rng(0)
    for number in range(NUM_EYES):
        (folder / str(number % 5)).mkdir(parents=True, exist_ok=True)
        write_image(folder / str(number % 5) / f"eye{number}.png", draw(number % 5, rng))
    recipe = PreprocessRecipe(size_px=size_px)
    return prepare_dataset(find_samples([folder]), name="drawn", recipe=recipe, num_workers=1)


def repeat(few: PreparedDataset, name: str, count: int) -> None:
    """A data set of `count` different photographs, as far as anyone but a person who looks can tell."""
    folder, root = few.directory.with_name(name), few.directory.with_name(f"{name}-photographs")
    (folder / "pictures").mkdir(parents=True)
    root.mkdir()
    rows = []
    for number in range(count):
        row = few.rows[number % len(few.rows)]
        image, source = f"pictures/{number:06d}.png", f"{number:06d}.png"
        os.link(few.directory / row.image, folder / image)
        os.link(few.photograph_path(row), root / source)
        split = "validation" if number % 6 == 0 else "train"
        hashed, fingerprint = files.hash_text(f"{name} {number}"), secrets.token_hex(FINGERPRINT_BYTES)
        changes = {"image": image, "source": source, "split": split, "group": number, "sha256": hashed}
        rows.append(replace(row, **changes, fingerprint=fingerprint, conflict=False))
    write_manifest(folder, rows)
    described = {"format": FORMAT_VERSION, "name": name, "recipe": asdict(few.recipe), "seed": 0, "root": str(root)}
    files.write_atomically(folder / store.DATASET_FILE, json.dumps(described))
    load_dataset(folder)


def measure_one(chosen: argparse.Namespace) -> None:
    """Train in this process, and print its figures as JSON."""
    memory, watch = AnonymousMemory(), Watch(chosen.steps)
    memory.start()
    started = time.perf_counter()
    options = TrainOptions(
        arch=chosen.arch, pretrained=False, epochs=1, warmup_epochs=0, degrade=True, batch_size=chosen.batch_size
    )
    dataset = open_dataset(NAMES)
    joined = time.perf_counter()
    write_pixel_cache(dataset)
    cached, before = time.perf_counter(), memory.highest
    choice = choose_device(DeviceName.CPU, chosen.precision)
    with tempfile.TemporaryDirectory(dir=dataset.directory) as folder:
        train(dataset, options, choice, Path(folder), observer=watch)
    figures = {
        "highest": memory.highest,
        "before": before,
        "rate": watch.rate,
        "join": joined - started,
        "cache": cached - joined,
        "training": time.perf_counter() - cached,
        "pixels": len(dataset.rows) * 3 * dataset.recipe.size_px**2,
    }
    print(json.dumps(figures))


def measure(count: int, chosen: argparse.Namespace) -> dict[str, float]:
    """Make the data sets, and train on them in a process of its own."""
    with tempfile.TemporaryDirectory(dir=chosen.folder) as home:
        os.environ[files.HOME_VARIABLE] = home
        few = prepared_eyes(Path(home) / "photographs", chosen.size)
        for name, half in zip(NAMES, (count - count // 2, count // 2), strict=True):
            repeat(few, name, half)
        command = [sys.executable, __file__, "--child", *sys.argv[1:]]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return figures


def main() -> None:
    """Measure each number of photographs and print a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, nargs="+", default=[1000, 9000, 35000])
    parser.add_argument("--arch", default="cnn")
    parser.add_argument("--size", type=int, default=288)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--precision", type=Precision, default=Precision.AUTO)
    parser.add_argument("--steps", type=int, default=None, help="end the epoch after so many; default: a whole epoch")
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="where data sets are made and removed again")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        measure_one(chosen)
        return
    print(f"{chosen.arch}, {chosen.size} px, batches of {chosen.batch_size}, two data sets together, --degrade")
    print("photographs  pixels MB  anonymous MB: before training, highest  images/s  seconds: join, cache, train")
    for count in chosen.photographs:
        found = measure(count, chosen)
        print(
            f"{count:11d}  {found['pixels'] / MB:9.0f}  {found['before'] / MB:29.0f}  {found['highest'] / MB:7.0f}  "
            f"{found['rate']:8.1f}  {found['join']:13.1f}  {found['cache']:5.1f}  {found['training']:5.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
