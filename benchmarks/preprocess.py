"""The time to preprocess a photograph, compared with other programs, on one core and the same photographs.

    python benchmarks/preprocess.py FOLDER [FOLDER ...] [--drive DRIVE] [--size 512] [--repeats 3]
    python benchmarks/preprocess.py FOLDER --stages --size 288     # ours only, stage by stage, as in grading

The two peers are timed where they are installed: pip install retinalysis-fundusprep fundus-image-toolbox. Every program
gets the same decoded photographs; the median over repeats is summed over the photographs. The kernel is the form of
Ben Graham's method most often copied: crop by brightness, blur at the photograph's own size, then reduce.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.errors import UngradableError
from fundusgrade.photographs.artifacts import lacks_blue, measure_artifacts
from fundusgrade.photographs.field_of_view import find_field_of_view
from fundusgrade.photographs.images import read_image, read_photograph
from fundusgrade.photographs.loading import load_photograph, load_pixels, num_pixels_needed
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.preprocess import preprocess_by_recipes
from fundusgrade.photographs.quality import MEASURING_RECIPE, Disc, measure_disc
from fundusgrade.photographs.recipe import PreprocessRecipe
from fundusgrade.photographs.sources import find_images

Program = Callable[[Image], Any]


def kernel(photograph: Image, size_px: int) -> Image:
    """Ben Graham's contrast with the blur at full size."""
    rows = np.flatnonzero((photograph.max(axis=2) > 7).any(axis=1))
    columns = np.flatnonzero((photograph.max(axis=2) > 7).any(axis=0))
    cropped = photograph[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    blurred = cv2.GaussianBlur(cropped, (0, 0), cropped.shape[1] / 60)
    contrast = cv2.addWeighted(cropped, 4, blurred, -4, 128)
    return np.asarray(cv2.resize(contrast, (size_px, size_px), interpolation=cv2.INTER_AREA), np.uint8)


def peers(size_px: int) -> dict[str, Program]:
    """Whole preprocessing by each peer that is installed."""
    found: dict[str, Program] = {}
    with contextlib.suppress(ImportError):
        from rtnls_fundusprep.preprocessor import FundusPreprocessor

        found["retinalysis-fundusprep"] = FundusPreprocessor(square_size=size_px, contrast_enhance=True)
    with contextlib.suppress(ImportError):
        from fundus_image_toolbox import crop

        found["fundus-image-toolbox (crop only)"] = lambda photograph: crop(photograph, size=size_px)
    return found


def seconds(call: Callable[[], object], repeats: int) -> float:
    """The median time of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure_folder(folder: Path, size_px: int, repeats: int) -> None:
    """Print milliseconds a photograph for each program, and the ratios that matter."""
    recipe = PreprocessRecipe(size_px=size_px)
    paths = [found.path for found in find_images([folder])]
    programs: dict[str, Program] = {
        "ours": lambda photograph: load_pixels(photograph, recipe),
        **peers(size_px),
        "full-size-blur kernel": lambda photograph: kernel(photograph, size_px),
    }
    totals = dict.fromkeys(("decoding in full", "ours with decoding", *programs), 0.0)
    for path in paths:
        photograph = read_image(path)
        totals["decoding in full"] += seconds(lambda path=path: read_image(path), repeats)
        totals["ours with decoding"] += seconds(lambda path=path: load_photograph(path, recipe), repeats)
        for name, program in programs.items():
            once = 1 if name == "full-size-blur kernel" else repeats
            totals[name] += seconds(lambda program=program, photograph=photograph: program(photograph), once)
    height, width = photograph.shape[:2]
    print(f"\n{folder.parent.name}: {len(paths)} photographs, e.g. {width} x {height}, to {size_px} px")
    for name, total in totals.items():
        print(f"  {name:34s} {1000 * total / len(paths):8.1f} ms   {total / totals['ours']:7.2f} x ours")
    print(f"  ours with decoding / decoding in full: {totals['ours with decoding'] / totals['decoding in full']:.2f}")


def stages_of(path: Path, recipe: PreprocessRecipe) -> dict[str, Callable[[], object]]:
    """The steps of `load_photograph`, each with the results of those before it."""
    read = functools.partial(read_photograph, path, at_least_px=num_pixels_needed(recipe))
    photograph = read().image
    field_of_view = find_field_of_view(photograph)
    recipes = [MEASURING_RECIPE, recipe]
    measured, _ = preprocess_by_recipes(photograph, field_of_view, recipes)
    disc = Disc.of(measured)
    return {
        "reading and decoding": read,
        "finding the field of view": lambda: find_field_of_view(photograph),
        "the network's image and the measured disc": lambda: preprocess_by_recipes(photograph, field_of_view, recipes),
        "quality": lambda: measure_disc(Disc.of(measured)),
        "artifacts": lambda: (measure_artifacts(photograph, disc), lacks_blue(disc)),
        "all of it": lambda: load_photograph(path, recipe),
    }


def measure_stages(folder: Path, size_px: int, repeats: int) -> None:
    """Print milliseconds a photograph of each stage, the least of the repeats, and pages that the system had to map."""
    recipe = PreprocessRecipe(size_px=size_px)
    totals: dict[str, float] = {}
    num_measured, num_pages = 0, 0
    for path in [found.path for found in find_images([folder])]:
        try:
            stages = stages_of(path, recipe)
        except UngradableError:
            continue
        num_measured += 1
        pages_before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        load_photograph(path, recipe)
        num_pages += resource.getrusage(resource.RUSAGE_SELF).ru_minflt - pages_before
        for name, stage in stages.items():
            totals[name] = totals.get(name, 0.0) + min(processor_times(stage, repeats))
    print(f"\n{folder}: {num_measured} photographs, to {size_px} px; ms of processor time")
    for name, total in totals.items():
        print(f"  {name:44s} {1000 * total / num_measured:8.2f}")
    print(f"  pages mapped for a photograph: {num_pages / max(1, num_measured):.0f}")


def processor_times(call: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of processor time of a call, which hardly depend on what else the machine does."""
    times = []
    for _ in range(repeats):
        before = processor_seconds()
        call()
        times.append(processor_seconds() - before)
    return times


def processor_seconds() -> float:
    """Processor time of this process, the system's on its behalf included."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def masks_of(photograph: Image) -> dict[str, NDArray[np.bool_]]:
    """What each program finds to be retina, (H, W)."""
    height, width = photograph.shape[:2]
    masks = {"ours": find_field_of_view(photograph).mask(height=height, width=width)}
    with contextlib.suppress(ImportError):
        from rtnls_fundusprep.mask_extraction import get_cfi_bounds

        masks["retinalysis-fundusprep"] = get_cfi_bounds(photograph).make_binary_mask(shrink_ratio=0) > 0
    with contextlib.suppress(ImportError):
        from fundus_image_toolbox.circle_crop.eyeq_preprocess import get_mask

        masks["fundus-image-toolbox"] = np.asarray(get_mask(photograph)[0]) > 0
    return masks


def compare_on_drive(folder: Path) -> None:
    """Print the overlap of each program's retina with DRIVE's masks."""
    overlaps: dict[str, list[float]] = {}
    for path in sorted((folder / "images").iterdir()):
        [truth_path] = (folder / "fov_masks").glob(f"{path.stem.split('_')[0]}*")
        truth = read_image(truth_path).max(axis=2) > 127
        for name, mask in masks_of(read_image(path)).items():
            overlaps.setdefault(name, []).append(float((mask & truth).sum() / (mask | truth).sum()))
    print("\nDRIVE, overlap (IoU) with the true field of view")
    for name, values in overlaps.items():
        print(f"  {name:34s} mean {np.mean(values):.4f}, worst {np.min(values):.4f}")


def main() -> None:
    """Parse the command line and print all measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--drive", type=Path, help="folder with images/ and fov_masks/")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--stages", action="store_true", help="the time of each stage of ours, and no other program")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    warnings.simplefilter("ignore")
    measure = measure_stages if arguments.stages else measure_folder
    for folder in arguments.folders:
        measure(folder, arguments.size, arguments.repeats)
    if arguments.drive is not None:
        compare_on_drive(arguments.drive)


if __name__ == "__main__":
    main()
