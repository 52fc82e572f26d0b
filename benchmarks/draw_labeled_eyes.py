"""Draw a labeled folder of eyes, to show commands and reports without a photograph of any patient.

    python benchmarks/draw_labeled_eyes.py FOLDER --count 400

The "grade" is how many lesions were painted, and one eye of ten is labeled one grade off, as graders do. It has no
clinical meaning: whatever is trained or scored on these eyes shows that the tool runs, and nothing else.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fundusgrade.photographs.images import write_image
from fundusgrade.photographs.pixels import Image
from tests.drawn_eyes import paint_lesions, plain_retina

SHARES = (0.45, 0.13, 0.24, 0.08, 0.10)
# Fewest and most microaneurysms, hemorrhages and exudates of each grade.
LESIONS = (
    ((0, 0), (0, 0), (0, 0)),
    ((3, 8), (0, 0), (0, 0)),
    ((8, 24), (2, 8), (0, 40)),
    ((20, 45), (14, 30), (20, 120)),
    ((25, 60), (30, 60), (60, 190)),
)
MISREAD_SHARE = 0.1
SIZE_PX = 320
PATCH_PX = 22.0
PATCH_STRENGTH = 0.07
MAX_TILT = 12.0


def draw(grade: int, rng: np.random.Generator) -> Image:
    """An eye with as many lesions as its grade asks for."""
    microaneurysms, hemorrhages, exudates = (int(rng.integers(low, high + 1)) for low, high in LESIONS[grade])
    seed = int(rng.integers(0, 2**31))
    eye = paint_lesions(
        plain_retina(SIZE_PX, seed),
        microaneurysms=microaneurysms,
        haemorrhages=hemorrhages,
        exudates=exudates,
        seed=seed,
    )
    return turned(pigmented(eye.photograph, rng), rng)


def pigmented(photograph: Image, rng: np.random.Generator) -> Image:
    """With broad lighter and darker patches: without them all drawn eyes would be found to be copies of one."""
    noise = cv2.GaussianBlur(rng.normal(size=photograph.shape[:2]), (0, 0), PATCH_PX)
    light = 1 + PATCH_STRENGTH * noise / noise.std()
    return np.clip(photograph * light[..., None], 0, 255).astype(np.uint8)


def turned(photograph: Image, rng: np.random.Generator) -> Image:
    """As a left or a right eye, the head a little tilted."""
    middle = (SIZE_PX - 1) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), rng.uniform(-MAX_TILT, MAX_TILT), 1.0)
    tilted = np.asarray(cv2.warpAffine(photograph, matrix, (SIZE_PX, SIZE_PX), flags=cv2.INTER_CUBIC), np.uint8)
    return tilted[:, ::-1].copy() if rng.random() < 0.5 else tilted


def main() -> None:
    """Draw the eyes and write their labels beside them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=400)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    (arguments.folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(arguments.count):
        grade = int(rng.choice(5, p=SHARES))
        write_image(arguments.folder / "images" / f"eye{number:04d}.png", draw(grade, rng))
        is_misread = rng.random() < MISREAD_SHARE
        read = int(np.clip(grade + rng.choice((-1, 1)), 0, 4)) if is_misread else grade
        rows.append([f"eye{number:04d}.png", read])
    with (arguments.folder / "train.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id_code", "diagnosis"], *rows])
    print(f"{arguments.count} drawn eyes in {arguments.folder}")


if __name__ == "__main__":
    main()
