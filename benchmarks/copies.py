"""Are copies of photographs found, are others left alone, and how long does it take?

    python benchmarks/copies.py recall FOLDER ... [--photographs 500] [--seed 0]
    python benchmarks/copies.py pairs FOLDER [--labels FILE]
    python benchmarks/copies.py time FOLDER ... [--sizes 4375 8750 17500 35000]

`recall` takes photographs evenly from the folders, alters each in six ways, and prints the fraction of copies that are
recognized, as `preprocess` groups them and as `evaluate` finds a training photograph; copies in which no retina is
found are counted apart, for they are not used. `pairs` prints every pair of copies in a folder to look at; the label
file (columns `image`, `patient`) says whether they are of one patient. `time` measures the search among so many
fingerprints: those of the photographs, each in up to eight symmetries of the square, which makes other "eyes" of it.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from fundusgrade.data.descriptors import DESCRIPTOR_RECIPE, Descriptor, describe_detail, registered_correlation
from fundusgrade.data.duplicates import MIN_CORRELATION
from fundusgrade.data.fingerprints import (
    MIN_CANDIDATE_CORRELATION,
    estimate_correlation,
    find_candidates,
    fingerprint,
    fingerprint_table,
    registered_estimate,
)
from fundusgrade.errors import UngradableError
from fundusgrade.photographs.field_of_view import find_field_of_view
from fundusgrade.photographs.images import read_image
from fundusgrade.photographs.loading import load_pixels
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.sources import find_images

MIN_SIDE_PX = 112
MAX_SIDE_PX = 1024
"""Larger photographs are reduced first: altering them takes longer than finding them."""


# Alterations


def saved_as_jpeg(image: Image, quality: int) -> Image:
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), np.uint8)


def scaled(image: Image, factor_x: float, factor_y: float) -> Image:
    size = (round(image.shape[1] * factor_x), round(image.shape[0] * factor_y))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def recompressed(image: Image, rng: np.random.Generator) -> Image:
    """Saved as a JPEG of quality 40 to 90."""
    return saved_as_jpeg(image, int(rng.integers(40, 91)))


def resized(image: Image, rng: np.random.Generator) -> Image:
    """Reduced to 40 to 80 % of its size, not below 112 px, and saved as a JPEG of quality 70 to 95."""
    factor = max(rng.uniform(0.4, 0.8), min(1.0, MIN_SIDE_PX / min(image.shape[:2])))
    return saved_as_jpeg(scaled(image, factor, factor), int(rng.integers(70, 96)))


def cropped(image: Image, rng: np.random.Generator) -> Image:
    """Cropped to the disc, and in three of four cases into it.

    By 4 to 14 % of the radius above and below, or left and right, or by 8 to 28 % above.
    """
    fov = find_field_of_view(image)
    left, right = max(fov.left, fov.center_x - fov.radius_x), min(fov.right, fov.center_x + fov.radius_x)
    top, bottom = max(fov.top, fov.center_y - fov.radius_y), min(fov.bottom, fov.center_y + fov.radius_y)
    case, (first, second) = rng.integers(4), rng.uniform(0.04, 0.14, 2)
    if case == 0:
        top, bottom = top + first * fov.radius_y, bottom - second * fov.radius_y
    elif case == 1:
        left, right = left + first * fov.radius_x, right - second * fov.radius_x
    elif case == 2:
        top += 2 * first * fov.radius_y
    rows, columns = slice(max(0, round(top)), round(bottom) + 1), slice(max(0, round(left)), round(right) + 1)
    return saved_as_jpeg(np.ascontiguousarray(image[rows, columns]), int(rng.integers(70, 96)))


def squashed(image: Image, rng: np.random.Generator) -> Image:
    """Narrower or lower by 5 to 25 %."""
    factor = rng.uniform(0.75, 0.95)
    factors = (factor, 1.0) if rng.integers(2) else (1.0, factor)
    return saved_as_jpeg(scaled(image, *factors), int(rng.integers(70, 96)))


def relit(image: Image, rng: np.random.Generator) -> Image:
    """Gamma 0.7 to 1.4, each color 0.8 to 1.2 times as bright, and a gradient of the light of up to 30 % each way."""
    values = (image.astype(np.float32) / 255) ** rng.uniform(0.7, 1.4) * rng.uniform(0.8, 1.2, 3).astype(np.float32)
    y, x = np.meshgrid(np.linspace(-1, 1, image.shape[0]), np.linspace(-1, 1, image.shape[1]), indexing="ij")
    angle, strength = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.3)
    values *= (1 + strength * (math.cos(angle) * x + math.sin(angle) * y)).astype(np.float32)[..., None]
    return saved_as_jpeg((np.clip(values, 0, 1) * 255).astype(np.uint8), int(rng.integers(70, 96)))


def all_of_it(image: Image, rng: np.random.Generator) -> Image:
    """Cropped, squashed, re-lit and resized, saved as a JPEG after each."""
    return resized(relit(squashed(cropped(image, rng), rng), rng), rng)


ALTERATIONS: dict[str, Callable[[Image, np.random.Generator], Image]] = {
    "re-encoded": recompressed,
    "resized": resized,
    "cropped": cropped,
    "squashed": squashed,
    "re-lit": relit,
    "all of it": all_of_it,
}


# What is measured


def descriptor_of(image: Image) -> Descriptor | None:
    """The descriptor as `preprocess` makes it; None where there is no retina or no detail."""
    try:
        preprocessed = load_pixels(image, DESCRIPTOR_RECIPE).preprocessed
    except UngradableError:
        return None
    return describe_detail(preprocessed.image, preprocessed.mask)


def read_reduced(path: Path) -> Image:
    image = read_image(path)
    factor = MAX_SIDE_PX / max(image.shape[:2])
    return image if factor >= 1 else scaled(image, factor, factor)


def is_recognized(original: Descriptor, copy: Descriptor) -> tuple[bool, bool]:
    """Whether a copy is grouped with its original, and whether it is found by the original's fingerprint alone."""
    table = fingerprint_table([fingerprint(original), fingerprint(copy)])
    estimate = float(estimate_correlation(np.unpackbits(table[0] ^ table[1]).sum(keepdims=True))[0])
    if estimate < MIN_CANDIDATE_CORRELATION:
        return False, False
    is_found = estimate >= MIN_CORRELATION or registered_estimate(copy, table[0]) >= MIN_CORRELATION
    return registered_correlation(original, copy) >= MIN_CORRELATION, is_found


def measure_recall(folders: Sequence[Path], num_photographs: int, seed: int) -> None:
    """Print the fraction of altered copies that are recognized."""
    rng = np.random.default_rng(seed)
    paths = [path for folder in folders for path in drawn(folder, num_photographs // len(folders), rng)]
    results: dict[str, list[tuple[bool, bool]]] = {name: [] for name in ALTERATIONS}
    num_refused = dict.fromkeys(ALTERATIONS, 0)
    num_originals = 0
    for path in paths:
        image = read_reduced(path)
        if (original := descriptor_of(image)) is None:
            continue
        num_originals += 1
        for name, alter in ALTERATIONS.items():
            copy = descriptor_of(alter(image, rng))
            num_refused[name] += copy is None
            if copy is not None:
                results[name].append(is_recognized(original, copy))
    print(f"{num_originals} photographs; correlation of copies at least {MIN_CORRELATION}")
    for name, found in results.items():
        grouped, by_fingerprint = np.mean(found, axis=0)
        print(
            f"{name:<11} grouped {grouped:.2%}, found by fingerprint {by_fingerprint:.2%} of {len(found)}; "
            f"{num_refused[name]} without a retina"
        )


def drawn(folder: Path, count: int, rng: np.random.Generator) -> list[Path]:
    """So many photographs of a folder at random, or all."""
    paths = [found.path for found in find_images([folder])]
    return [paths[i] for i in np.sort(rng.permutation(len(paths))[:count])]


def print_pairs(folder: Path, labels: Path | None) -> None:
    """Print the copies of a folder, the least similar last, and the nearest pairs that are none."""
    patients: dict[str, str] = {}
    if labels is not None:
        with labels.open(newline="", encoding="utf-8") as file:
            patients = {Path(row["image"]).stem: row["patient"] for row in csv.DictReader(file)}
    paths, descriptors = describe_all([folder])
    pairs = [
        (registered_correlation(descriptors[first], descriptors[second]), paths[first].stem, paths[second].stem)
        for first, second, _ in find_candidates(fingerprint_table([fingerprint(each) for each in descriptors]))
    ]
    copies = sorted((pair for pair in pairs if pair[0] >= MIN_CORRELATION), reverse=True)
    print(f"{len(paths)} photographs, {len(pairs)} candidates, {len(copies)} pairs of copies")
    others = sorted((pair for pair in pairs if pair[0] < MIN_CORRELATION), reverse=True)
    for correlation, first, second in (*copies, *others[:10]):
        known = first in patients and second in patients
        relation = ("one patient" if patients[first] == patients[second] else "two patients") if known else ""
        print(f"{correlation:.3f} {first} {second} {relation}{'' if correlation >= MIN_CORRELATION else ' (no copy)'}")


def describe_all(folders: Sequence[Path]) -> tuple[list[Path], list[Descriptor]]:
    """The photographs of folders that have a descriptor, and these."""
    paths = [found.path for found in find_images(folders)]
    described = [(path, descriptor) for path in paths if (descriptor := descriptor_of_file(path)) is not None]
    return [path for path, _ in described], [descriptor for _, descriptor in described]


def descriptor_of_file(path: Path) -> Descriptor | None:
    """The same for a file; None where it cannot be read."""
    try:
        return descriptor_of(read_image(path))
    except UngradableError:
        return None


def measure_time(folders: Sequence[Path], sizes: Sequence[int]) -> None:
    """Print the seconds that the search for copies takes, and by which power of the number they grow."""
    _, descriptors = describe_all(folders)
    turned = (
        np.ascontiguousarray(np.rot90(each.T if is_mirrored else each, turns))
        for is_mirrored, turns in itertools.product((False, True), range(4))
        for each in descriptors
    )
    eyes = list(itertools.islice(turned, max(sizes)))
    table = fingerprint_table([fingerprint(eye) for eye in eyes])
    before: tuple[int, float] | None = None
    for size in sizes:
        chosen = np.random.default_rng(0).permutation(len(eyes))[:size]
        start = time.process_time()
        candidates = list(find_candidates(table[chosen]))
        search_seconds = time.process_time() - start
        num_copies = sum(
            registered_correlation(eyes[chosen[first]], eyes[chosen[second]]) >= MIN_CORRELATION
            for first, second, _ in candidates
        )
        seconds = time.process_time() - start
        power = (
            "" if before is None else f", power {math.log(seconds / before[1]) / math.log(len(chosen) / before[0]):.2f}"
        )
        print(
            f"{len(chosen)} photographs: search {search_seconds:.1f} s, {len(candidates)} candidates, "
            f"{num_copies} copies, with registration {seconds:.1f} s{power}",
            flush=True,
        )
        before = len(chosen), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=("recall", "pairs", "time"))
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--photographs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4375, 8750, 17500, 35000])
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    if arguments.measure == "recall":
        measure_recall(arguments.folders, arguments.photographs, arguments.seed)
    elif arguments.measure == "pairs":
        print_pairs(arguments.folders[0], arguments.labels)
    else:
        measure_time(arguments.folders, arguments.sizes)


if __name__ == "__main__":
    main()
