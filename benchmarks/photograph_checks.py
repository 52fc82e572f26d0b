"""What the checks of a photograph flag, by kind of picture and by grade, and whether a flag predicts an error.

    python benchmarks/photograph_checks.py MODEL --group NAME=FOLDER ... --base FOLDER
    python benchmarks/photograph_checks.py MODEL --quality labels.csv --photographs FOLDER
    python benchmarks/photograph_checks.py MODEL --errors DATASET:SPLIT ...

The first prints what is flagged in folders of photographs, and in pictures made here: drawn eyes, pictures that are no
fundus photographs, and of photographs in --base red-free and ultra-widefield-like ones, two eyes in one, a small disc.
The second prints gradability by the labels of image quality, cross-validated by patient, and by grade. The third
compares errors of photographs with and without each flag. With --into, the tables between the markers of a document
are replaced.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.draw_labeled_eyes import draw
from benchmarks.gradability import not_fundus_photographs
from fundusgrade import store
from fundusgrade.data.dataset import load_dataset
from fundusgrade.grades import REFERABLE_FROM, Gradability, Prediction, Ungraded
from fundusgrade.grading.doubts import NEAR_THRESHOLD, NOT_A_FUNDUS, UNLIKE_TRAINING
from fundusgrade.grading.grader import Grader
from fundusgrade.metrics.bootstrap import estimate_proportion, resample
from fundusgrade.photographs.images import read_image
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.sources import find_images
from fundusgrade.training.feature_checks import (
    BORDERLINE_FROM,
    NOT_GRADABLE_FROM,
    cross_validate,
    labeled_photographs,
    quality_inputs,
)

Result = Prediction | Ungraded
HEIGHT, WIDTH = 480, 640
Y, X = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
HOLE = np.hypot(X - 320, Y - 240) < 220
FLAGS: dict[str, Callable[[Result], bool]] = {
    "not recognized": lambda result: NOT_A_FUNDUS in result.warnings,
    "refused otherwise": lambda result: isinstance(result, Ungraded) and NOT_A_FUNDUS not in result.warnings,
    "unlike training": lambda result: UNLIKE_TRAINING in result.warnings,
    "near the point": lambda result: NEAR_THRESHOLD in result.warnings,
    "not gradable": lambda result: isinstance(result, Prediction) and not result.gradable,
    "borderline": lambda result: result.gradability is Gradability.BORDERLINE,
    "none": lambda result: isinstance(result, Prediction) and not result.is_flagged,
}


def smooth(sigma_px: float, seed: int) -> NDArray[np.float32]:
    """Smooth noise of standard deviation 1."""
    noise = cv2.GaussianBlur(
        np.random.default_rng(seed).normal(size=(HEIGHT, WIDTH)).astype(np.float32), (0, 0), sigma_px
    )
    return np.asarray(noise / noise.std(), np.float32)


def colored(*channels: NDArray[np.float32]) -> Image:
    """Three channels as an image."""
    return np.stack(channels, axis=2).clip(0, 255).astype(np.uint8)


def scenes() -> Iterator[Image]:
    """Pictures that are no fundus photographs: print, noise, textures, X-ray-like ones, parts of two photographs."""
    yield from not_fundus_photographs().values()
    rng = np.random.default_rng(0)
    for photograph in load_sample_images().images:
        for _ in range(6):
            top, left = rng.integers(0, photograph.shape[0] - 300), rng.integers(0, photograph.shape[1] - 300)
            yield photograph[top : top + 300, left : left + 300]
    for seed, sigma in enumerate((3, 6, 12, 25)):
        texture = smooth(sigma, seed)
        yield colored(150 + 35 * texture, 80 + 25 * texture, 40 + 15 * texture)
        other = [smooth(sigma, seed + 10 * channel) for channel in (1, 2, 3)]
        yield colored(120 + 40 * other[0], 100 + 40 * other[1], 60 + 40 * other[2])
        ribs = 90 + 50 * np.exp(-(((X - 320) / 120) ** 2)) + 40 * np.sin(Y / 14) * np.exp(-(((X - 320) / 150) ** 2))
        yield colored(*[ribs + 10 * texture] * 3)


def behind_a_hole(image: Image) -> Image:
    """The picture in a round hole on black, as a fundus camera shows a retina."""
    return np.where(HOLE[..., None], cv2.resize(image, (WIDTH, HEIGHT)), 0).astype(np.uint8)


def red_free(image: Image) -> Image:
    """Green alone, as it is stored in color."""
    return np.stack([np.zeros_like(image[..., 1]), image[..., 1], np.zeros_like(image[..., 1])], axis=2)


def ultra_widefield(image: Image, seed: int) -> Image:
    """The photograph in the middle third of a wide green-brown field with eyelashes below."""
    rng, (height, width) = np.random.default_rng(seed), (1000, 1200)
    small = cv2.resize(image, (600, 600)).astype(np.float32)
    y, x = np.mgrid[:height, :width]
    distance = np.hypot((x - 600) / 560, (y - 500) / 470)
    noise = cv2.GaussianBlur(rng.normal(size=(height, width)).astype(np.float32), (0, 0), 18)
    light = 1 - 0.25 * distance**2 + 0.06 * noise / noise.std()
    field = small[200:400, 200:400].reshape(-1, 3).mean(axis=0) * (0.85, 1.15, 0.6) * light[..., None]
    middle = np.zeros_like(field)
    middle[260:740, 360:840] = small[60:540, 60:540] * (0.9, 1.1, 0.6)
    weight = np.clip((235 - np.hypot(x - 600, y - 500)) / 25, 0, 1)[..., None]
    field = np.ascontiguousarray(field * (1 - weight) + middle * weight)
    for _ in range(40):
        left = int(rng.uniform(100, 1100))
        cv2.line(field, (left, 1000), (left + int(rng.normal(0, 40)), int(rng.uniform(820, 940))), (20, 20, 15), 5)
    field[distance > 1] = 0
    return field.clip(0, 255).astype(np.uint8)


def two_eyes(image: Image) -> Image:
    """The photograph and its mirror image side by side."""
    padded = np.pad(cv2.resize(image, (500, 500)), ((20, 20), (20, 20), (0, 0)))
    return np.concatenate([padded, padded[:, ::-1]], axis=1)


def in_a_corner(image: Image, fraction: float = 0.10) -> Image:
    """The photograph on a large dark picture of which it fills this fraction."""
    canvas, side = np.full((1200, 1600, 3), 2, np.uint8), round(np.sqrt(fraction * 1600 * 1200 * 4 / np.pi))
    canvas[200 : 200 + side, 500 : 500 + side] = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return canvas


def print_flags(name: str, results: Iterable[Result]) -> None:
    """A row of the table: how many photographs have each flag."""
    listed = list(results)
    print(f"| {name} | {len(listed)} | " + " | ".join(str(sum(map(has, listed))) for has in FLAGS.values()) + " |")


def measure_groups(grader: Grader, groups: Sequence[str], base: Path | None) -> None:
    """The table of flags."""
    print("| pictures | number | " + " | ".join(FLAGS) + " |\n" + "|---" * (len(FLAGS) + 2) + "|")
    for group in groups:
        name, folder = group.split("=", 1)
        pattern, _, place = name.partition(":")
        paths = [found.path for found in find_images([Path(folder)]) if found.path.name.startswith(place)]
        print_flags(pattern, grader.grade_all(paths))
    images = [read_image(found.path) for found in find_images([base])] if base is not None else []
    drawn = [draw(grade, np.random.default_rng([grade, seed])) for grade in range(5) for seed in range(12)]
    made: dict[str, list[Image]] = {
        "drawn eyes": drawn,
        "red-free, green alone": [red_free(image) for image in images],
        "red-free, gray": [np.repeat(image[..., 1:2], 3, axis=2) for image in images],
        "ultra-widefield-like": [ultra_widefield(image, seed) for seed, image in enumerate(images)],
        "two eyes in one picture": [two_eyes(image) for image in images],
        "disc fills 10 % of the picture": [in_a_corner(image) for image in images],
        "no fundus": list(scenes()),
        "no fundus, in a round hole": [behind_a_hole(image) for image in scenes()],
    }
    for name, pictures in made.items():
        print_flags(name, [result for image in pictures for result in grader.grade_images([image])])


def measure_quality_check(grader: Grader, labels: Path, folder: Path) -> None:
    """Gradability by label of quality, then by grade: labeled photographs cross-validated, the others by the model."""
    labeled = labeled_photographs(labels, folder, grader.pytorch.network, grader.recipe, grader.pytorch.choice)
    assert grader.checks is not None, "add checks to the model first"
    rejects = labeled.labels == "reject"
    rows = {Path(row["image"]).stem: row for row in csv.DictReader(labels.open(newline="", encoding="utf-8"))}
    chances = cross_validate(quality_inputs(grader.checks.reference, labeled)[0], rejects, labeled.patients)
    known = dict(zip(labeled.names.tolist(), chances.tolist(), strict=True))
    flagged = dict(zip(labeled.names.tolist(), labeled.is_flagged.tolist(), strict=True))
    print(f"Cross-validated AUC, reject or not: {roc_auc_score(rejects, chances):.3f}\n")
    answers: list[tuple[str, str, str]] = []
    for result in grader.grade_all([found.path for found in find_images([folder])]):
        stem = Path(result.image).stem
        answer = result.gradability.value if isinstance(result, Prediction) else "refused"
        if stem in known:
            is_rejected = known[stem] >= NOT_GRADABLE_FROM or flagged[stem]
            answer = "not gradable" if is_rejected else "borderline" if known[stem] >= BORDERLINE_FROM else "gradable"
        answers.append((rows[stem]["quality"] or "not labeled", rows[stem]["level"], answer))
    for column, name in ((0, "quality"), (1, "grade")):
        print(f"\n| {name} | number | not gradable | borderline | refused |\n|---|---|---|---|---|")
        for value in sorted({answer[column] for answer in answers}):
            of = [answer[2] for answer in answers if answer[column] == value]
            counts = [f"{of.count(kind)} ({of.count(kind) / len(of):.1%})" for kind in ("not gradable", "borderline")]
            print(f"| {value} | {len(of)} | {counts[0]} | {counts[1]} | {of.count('refused')} |")


def measure_errors(grader: Grader, name: str) -> None:
    """Errors of grade, and of the answer for a referral, with and without each flag."""
    data, _, split = name.partition(":")
    dataset = load_dataset(store.resolve_dataset(data))
    rows = grader.description.provenance.with_training_splits(dataset).graded_rows(split or "test")
    results = list(grader.grade_all([dataset.photograph_path(row) for row in rows]))
    pairs = [(result, int(row.grade or 0)) for result, row in zip(results, rows, strict=True)]
    graded = [(result, grade) for result, grade in pairs if isinstance(result, Prediction)]
    wrong = np.array([result.grade != grade for result, grade in graded])
    called = [result.referable_probability >= result.referable_threshold for result, _ in graded]
    missed = np.array([(grade >= REFERABLE_FROM) != call for (_, grade), call in zip(graded, called, strict=True)])
    print(f"{name}: {len(rows)} photographs, {len(graded)} graded\n")
    print("| flag | flagged | wrong grade, flagged | others | wrong referral, flagged | others |\n" + "|---" * 6 + "|")
    for flag, has in FLAGS.items():
        chosen = np.array([has(result) for result, _ in graded])
        if 0 < chosen.sum() < len(chosen):
            parts = [proportion(of[which]) for of in (wrong, missed) for which in (chosen, ~chosen)]
            print(f"| {flag} | {chosen.sum()} | " + " | ".join(parts) + " |")
    print()
    for score in ("training_distance", "reject_probability"):
        values = np.array([getattr(result, score) or 0.0 for result, _ in graded])
        confidence = np.array([max(result.probabilities) for result, _ in graded])
        print(
            f"AUC for a wrong grade: `{score}` {roc_auc_score(wrong, values):.3f}, "
            f"1 - the highest probability {roc_auc_score(wrong, -confidence):.3f}.  "
        )


def proportion(is_wrong: NDArray[np.bool_]) -> str:
    """A proportion with its 95 % interval."""
    resamples = resample(np.arange(len(is_wrong)), seed=0)
    return estimate_proportion(resamples, is_wrong, np.ones(len(is_wrong), np.bool_)).describe(3)


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--group", action="append", default=[], help="NAME=FOLDER, or NAME:PREFIX=FOLDER")
    parser.add_argument("--base", type=Path)
    parser.add_argument("--quality", type=Path)
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--errors", action="append", default=[], help="DATASET:SPLIT")
    parser.add_argument("--into", type=Path, action="append", default=[], help="document whose tables are replaced")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    grader = Grader.load(arguments.model)
    tables: dict[str, Callable[[], None]] = {}
    if arguments.group or arguments.base:
        tables["flags"] = lambda: measure_groups(grader, arguments.group, arguments.base)
    if arguments.quality and arguments.photographs:
        tables["quality"] = lambda: measure_quality_check(grader, arguments.quality, arguments.photographs)
    for name in arguments.errors:
        tables[f"errors {name}"] = functools.partial(measure_errors, grader, name)
    for name, measure in tables.items():
        with contextlib.redirect_stdout(io.StringIO()) as text:
            measure()
        print(f"{name}, {grader.name}\n\n{text.getvalue()}", flush=True)
        for document in arguments.into:
            write_table(document, name, text.getvalue())


def write_table(document: Path, name: str, table: str) -> None:
    """Replace the text of a document between `<!-- begin NAME -->` and `<!-- end -->`, where it has such a place."""
    text = document.read_text(encoding="utf-8")
    begin, end = f"<!-- begin {name} -->\n", "<!-- end -->"
    before, found, after = text.partition(begin)
    if found:
        document.write_text(f"{before}{begin}\n{table.rstrip()}\n\n{end}{after.partition(end)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
