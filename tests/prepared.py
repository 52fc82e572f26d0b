"""Prepared data sets of small images whose grade is the color of the disc, and others without images, for tests."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from fundusgrade import files, store
from fundusgrade.data.dataset import FORMAT_VERSION, PreparedDataset, load_dataset
from fundusgrade.data.manifest import ManifestRow, write_manifest
from fundusgrade.grades import Grade
from fundusgrade.photographs.images import write_image
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.recipe import Method, PreprocessRecipe
from tests.drawn_eyes import plain_retina

RECIPE = PreprocessRecipe(method=Method.NATURAL, size_px=32)
COLORS = ((200, 60, 40), (60, 160, 60), (60, 80, 200), (190, 180, 60), (150, 60, 170))


def colored_disc(grade: int, recipe: PreprocessRecipe, rng: np.random.Generator) -> Image:
    """A noisy disc in the grade's color on the recipe's fill, as preprocessing lays it out."""
    size_px = recipe.size_px
    image = np.full((size_px, size_px, 3), recipe.fill, np.uint8)
    axis = np.arange(size_px) - (size_px - 1) / 2
    inside = axis**2 + axis[:, None] ** 2 <= (size_px / 2) ** 2
    noisy = np.array(COLORS[grade]) + rng.normal(0, 20, (size_px, size_px, 3))
    image[inside] = np.clip(noisy, 0, 255).astype(np.uint8)[inside]
    return image


def prepared_dataset(
    directory: Path,
    *,
    num_train: int = 40,
    num_validation: int = 20,
    recipe: PreprocessRecipe | None = None,
    grades: Sequence[int] = range(5),
    seed: int = 0,
) -> PreparedDataset:
    """Write a data set as `fundusgrade preprocess` leaves one, grades in turn, and read it back."""
    recipe = recipe or RECIPE
    rng = np.random.default_rng(seed)
    (directory / "pictures").mkdir(parents=True)
    rows = []
    for number in range(num_train + num_validation):
        split = "train" if number < num_train else "validation"
        row = _row(number, Grade(grades[number % len(grades)]), split)
        write_image(directory / row.image, colored_disc(int(row.grade or 0), recipe, rng))
        rows.append(row)
    write_manifest(directory, rows)
    described = {"format": FORMAT_VERSION, "name": directory.name, "recipe": asdict(recipe), "seed": seed}
    files.write_atomically(directory / store.DATASET_FILE, json.dumps(described))
    return load_dataset(directory)


def _row(number: int, grade: Grade, split: str) -> ManifestRow:
    return ManifestRow(
        image=f"pictures/{number:04d}.png",
        source=f"{number:04d}.jpg",
        grade=grade,
        split=split,
        fold=number % 5,
        group=number,
        patient=None,
        eye=None,
        site=None,
        error=None,
        conflict=False,
        sha256=files.hash_text(f"{number:04d}.jpg"),
        fingerprint=None,
    )


def memory_row(number: int, *, grade: Grade | None, group: int, split: str | None = None) -> ManifestRow:
    return ManifestRow(
        image=f"pictures/{number}.png", source=f"{number}.png", grade=grade, split=split, fold=None, group=group,
        patient=None, eye=None, site=None, error=None, conflict=False, sha256=f"{number:064x}", fingerprint=None,
    )  # fmt: skip


def dataset_in_memory(name: str, rows: Sequence[ManifestRow]) -> PreparedDataset:
    return PreparedDataset(
        directory=store.dataset_directory(name), name=name, recipe=RECIPE, seed=0, hash=name, rows=tuple(rows)
    )


@functools.cache
def eye_png(seed: int) -> bytes:
    return png(plain_retina(96, seed).photograph)


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def write_small(folder: Path) -> None:
    """Five photographs of different eyes, one of each grade, in APTOS's layout."""
    (folder / "train_images").mkdir(parents=True)
    for i in range(5):
        (folder / "train_images" / f"eye{i}.png").write_bytes(eye_png(i))
    (folder / "train.csv").write_text("id_code,diagnosis\n" + "".join(f"eye{i},{i}\n" for i in range(5)))
