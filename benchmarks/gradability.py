"""The fraction of real photographs that the gradability check flags, and whether it refuses other images.

    python benchmarks/gradability.py FOLDER [--labels FILE --column quality] ...

FOLDER holds photographs. With a label file (CSV with a column `image`) fractions are printed for each value of
the column; to measure several folders, run it once for each. Images that are not fundus photographs are drawn here and
measured at the end.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.errors import UngradableError
from fundusgrade.photographs.images import read_image
from fundusgrade.photographs.loading import load_pixels
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.recipe import PreprocessRecipe
from fundusgrade.photographs.sources import find_images

RECIPE = PreprocessRecipe()


def verdict(image: Image) -> tuple[str, ...]:
    """The reasons against grading; only "refused: ..." where there is no retina."""
    try:
        return load_pixels(image, RECIPE).quality.reasons
    except UngradableError as error:
        return (f"refused: {str(error).split(';')[0]}",)


def verdict_of_file(path: Path) -> tuple[str, ...]:
    """The same for a file."""
    cv2.setNumThreads(1)
    return verdict(read_image(path))


def measure_folder(folder: Path, labels: Path | None, column: str) -> None:
    """Print the fraction flagged for each label and reason."""
    groups = {}
    if labels is not None:
        with labels.open(newline="", encoding="utf-8") as file:
            groups = {Path(row["image"]).stem: row[column] or "not labeled" for row in csv.DictReader(file)}
    paths = [found.path for found in find_images([folder])]
    with ProcessPoolExecutor() as pool:
        verdicts = list(pool.map(verdict_of_file, paths, chunksize=16))
    by_group = defaultdict(list)
    for path, reasons in zip(paths, verdicts, strict=True):
        by_group[groups.get(path.stem, "all")].append(reasons)
    for group, found in sorted(by_group.items()):
        flagged = sum(bool(reasons) for reasons in found)
        counts = Counter(reason.split(":")[0] for reasons in found for reason in reasons)
        share = f"{flagged} of {len(found)} flagged ({flagged / len(found):.1%})"
        print(f"{folder.parent.name} {group}: {share}; {dict(counts)}")


def not_fundus_photographs() -> dict[str, NDArray[np.uint8]]:
    """Scenes, print, noise and discs of many kinds (H, W, 3)."""
    rng = np.random.default_rng(0)
    height, width = 480, 640
    y, x = np.mgrid[:height, :width].astype(np.float32)
    disc = (x - 320) ** 2 + (y - 240) ** 2 < 200**2

    def on_black(fill: object) -> NDArray[np.uint8]:
        image = np.zeros((height, width, 3), np.uint8)
        image[disc] = fill
        return image

    page = np.full((height, width, 3), 250, np.uint8)
    for line in range(14):
        place = (20, 40 + 30 * line)
        cv2.putText(page, "Both eyes: no diabetic retinopathy", place, cv2.FONT_HERSHEY_SIMPLEX, 0.9, (20, 20, 20), 2)
    scene = np.zeros((height, width, 3), np.uint8)
    scene[:240], scene[240:] = (120, 170, 230), (60, 120, 50)
    cv2.circle(scene, (500, 90), 50, (250, 220, 120), -1)
    cv2.rectangle(scene, (150, 180), (300, 330), (150, 70, 50), -1)
    earth = on_black((70, 120, 200))
    cv2.ellipse(earth, (300, 220), (90, 50), 20, 0, 360, (60, 140, 60), -1)
    clock = on_black((245, 245, 245))
    for hour in range(12):
        place = (int(305 + 160 * np.sin(hour * np.pi / 6)), int(250 - 160 * np.cos(hour * np.pi / 6)))
        cv2.putText(clock, str(hour or 12), place, cv2.FONT_HERSHEY_SIMPLEX, 0.8, (0, 0, 0), 2)
    pizza = on_black((210, 90, 40))
    for _ in range(14):
        place = (int(320 + rng.normal(0, 75)), int(240 + rng.normal(0, 75)))
        cv2.circle(pizza, place, 20, (240, 220, 170), -1)
    face = np.full((height, width, 3), (200, 210, 220), np.uint8)
    cv2.ellipse(face, (320, 240), (120, 160), 0, 0, 360, (220, 170, 140), -1)
    scan = sum(a * np.exp(-((y - k - 20 * np.sin(x / 100)) ** 2) / 60) for k, a in ((180, 120), (230, 180), (260, 220)))
    layers = np.clip(np.asarray(scan) + rng.normal(20, 15, (height, width)), 0, 255).astype(np.uint8)
    checks = ((x // 40 + y // 40) % 2 * 255).astype(np.uint8)
    return {
        "white": np.full((height, width, 3), 255, np.uint8),
        "gray": np.full((height, width, 3), 127, np.uint8),
        "black": np.zeros((height, width, 3), np.uint8),
        "one red": np.full((height, width, 3), (180, 60, 30), np.uint8),
        "noise": rng.integers(0, 256, (height, width, 3)).astype(np.uint8),
        "faint noise": np.clip(rng.normal(128, 20, (height, width, 3)), 0, 255).astype(np.uint8),
        "page of text": page,
        "page of white text": 255 - page,
        "page of text behind a round hole": np.where(disc[..., None], page, 0).astype(np.uint8),
        "landscape": scene,
        "earth from space": earth,
        "clock": clock,
        "pizza": pizza,
        "face": face,
        "layers of a scan": np.repeat(layers[..., None], 3, axis=2),
        "chessboard": np.repeat(checks[..., None], 3, axis=2),
        "gradient": np.repeat((x / width * 255).astype(np.uint8)[..., None], 3, axis=2),
        "red square": np.where((abs(x - 320) < 150) & (abs(y - 240) < 150), 1, 0).astype(np.uint8)[..., None]
        * np.array([200, 90, 40], np.uint8),
        "disc of noise": on_black(rng.integers(0, 256, (int(disc.sum()), 3))),
        "gray disc": on_black((128, 128, 128)),
        "plain red disc": on_black((190, 80, 40)),
    }


def main() -> None:
    """Parse the command line and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--column", default="quality")
    arguments = parser.parse_args()
    measure_folder(arguments.folder, arguments.labels, arguments.column)
    for name, image in not_fundus_photographs().items():
        print(f"not a fundus photograph, {name}: {'; '.join(verdict(image)) or 'PASSES'}")


if __name__ == "__main__":
    main()
