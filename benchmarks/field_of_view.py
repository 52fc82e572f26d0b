"""Accuracy of the field of view: 2,000 drawn discs, and DRIVE's 20 true masks where they are at hand.

    python benchmarks/field_of_view.py [--drive DRIVE] [--count 2000]

DRIVE is a folder with images/ and fov_masks/. A drawn disc is a random texture behind a round aperture, squashed to an
aspect of 0.6 to 1.7, off center, cut, dark, noisy and notched at random; those whose visible arc is shorter than 120
degrees are drawn again.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.errors import NoRetinaError
from fundusgrade.photographs.field_of_view import FieldOfView, find_field_of_view
from fundusgrade.photographs.images import read_image

MIN_ARC_DEGREES = 120
TOLERANCE = 0.01


def draw_disc(
    rng: np.random.Generator, max_radius_px: float = 600
) -> tuple[NDArray[np.uint8], NDArray[np.float64], float]:
    """A photograph, its true ellipse (center x, y, radius x, y), and how many degrees of the outline are visible."""
    while True:
        radius_y = rng.uniform(90, max_radius_px)
        aspect = rng.uniform(0.6, 1.7)
        radius_x = radius_y * aspect
        width = round(2 * radius_x * rng.uniform(0.75, 1.4))
        height = round(2 * radius_y * rng.uniform(0.75, 1.4))
        center_x = width / 2 + rng.normal(0, 0.08) * radius_x
        center_y = height / 2 + rng.normal(0, 0.08) * radius_y
        angles = np.radians(np.arange(360))
        x, y = center_x + radius_x * np.cos(angles), center_y + radius_y * np.sin(angles)
        arc = int(((x > 2) & (x < width - 3) & (y > 2) & (y < height - 3)).sum())
        if arc >= MIN_ARC_DEGREES and min(width, height) >= 128:
            break
    truth = np.array([center_x, center_y, radius_x, radius_y])
    return _render(truth, height, width, rng), truth, arc


def _render(truth: NDArray[np.float64], height: int, width: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    distance = np.hypot((x - truth[0]) / truth[2], (y - truth[1]) / truth[3])
    edge_px = (1 - distance) * min(truth[2], truth[3])
    texture = np.zeros((height, width), np.float32)
    for cells in (4, 12, 40):
        texture += cv2.resize(rng.normal(0, 0.12, (cells, cells)).astype(np.float32), (width, height))
    vignette = 1 - rng.uniform(0, 0.5) * np.clip(distance, 0, 1) ** 2
    light = rng.uniform(0.2, 1.0) * np.clip(0.75 + texture, 0.35, 1.3) * vignette
    if rng.random() < 0.2:
        light *= 1 + 0.6 * np.exp(-((distance - 0.97) ** 2) / 0.0008)
    inside = np.clip(edge_px / rng.uniform(1.0, 3.0) + 0.5, 0, 1)
    if rng.random() < 0.3:
        angle = rng.uniform(0, 2 * np.pi)
        notch_x, notch_y = truth[0] + truth[2] * np.cos(angle), truth[1] + truth[3] * np.sin(angle)
        sign = -1 if rng.random() < 0.5 else 1
        spot = np.hypot(x - notch_x, y - notch_y) < 0.07 * min(truth[2], truth[3])
        inside = np.where(spot, 0.0 if sign < 0 else 1.0, inside)
    image = inside[..., None] * light[..., None] * np.array([215, 120, 60], np.float32) + rng.uniform(0, 8)
    if rng.random() < 0.2:
        text = np.zeros((height, width), np.uint8)
        cv2.putText(text, "OD 45", (6, height - 8), cv2.FONT_HERSHEY_SIMPLEX, height / 500, 255, 2)
        image = np.maximum(image, (text[..., None] > 0) * np.float32(200) * (inside[..., None] < 0.5))
    image += rng.normal(0, rng.uniform(0, 6), image.shape)
    return np.asarray(np.clip(np.rint(image), 0, 255), np.uint8)


def worst_error(fov: FieldOfView, truth: NDArray[np.float64]) -> float:
    """The largest error of center and radii, as a fraction of the radius along the same axis."""
    found = np.array([fov.center_x, fov.center_y, fov.radius_x, fov.radius_y])
    return float(np.abs((found - truth) / truth[[2, 3, 2, 3]]).max())


def measure_drawn(count: int) -> None:
    """Print the fraction of drawn discs that are found within 1 % of the radius."""
    rng = np.random.default_rng(0)
    errors, reasons = [], Counter[str]()
    for _ in range(count):
        photograph, truth, _ = draw_disc(rng)
        try:
            errors.append(worst_error(find_field_of_view(photograph), truth))
        except NoRetinaError as error:
            errors.append(np.inf)
            reasons[str(error).split(";")[0]] += 1
    share = np.mean(np.array(errors) <= TOLERANCE)
    print(f"drawn discs: {count}; center and radii within {TOLERANCE:.0%} of the radius: {share:.2%}")
    print(f"  errors at 50, 90, 99, 99.5 %: {np.percentile(errors, (50, 90, 99, 99.5), method='lower').round(4)}")
    for reason, number in reasons.items():
        print(f"  not found, {number}: {reason}")


def measure_drive(folder: Path) -> None:
    """Print the overlap with DRIVE's masks."""
    overlaps = []
    for path in sorted((folder / "images").iterdir()):
        photograph = read_image(path)
        [mask_path] = (folder / "fov_masks").glob(f"{path.stem.split('_')[0]}*")
        truth = read_image(mask_path).max(axis=2) > 127
        height, width = photograph.shape[:2]
        found = find_field_of_view(photograph).mask(height=height, width=width)
        overlaps.append((found & truth).sum() / (found | truth).sum())
    print(f"DRIVE, {len(overlaps)} masks: mean IoU {np.mean(overlaps):.4f}, worst {np.min(overlaps):.4f}")


def main() -> None:
    """Parse the command line and print both measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--drive", type=Path, help="folder with images/ and fov_masks/")
    parser.add_argument("--count", type=int, default=2000)
    arguments = parser.parse_args()
    measure_drawn(arguments.count)
    if arguments.drive is not None:
        measure_drive(arguments.drive)


if __name__ == "__main__":
    main()
