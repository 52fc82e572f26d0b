"""How much decoding at a reduced size, and the place of its rounding, move the grade of camera photographs.

    python benchmarks/decoding.py FOLDER [FOLDER ...] [--model NAME]

Each photograph is graded twice: decoded in full, and decoded at the reduced size that `load_photograph` asks for. The
two are the same retina, so that every difference is one of the preprocessing. Printed are the move of the expected
grade (mean and largest), the photographs whose grade changes, and the mean difference of preprocessed pixels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from fundusgrade import Grader
from fundusgrade.metrics.classification import decide_grades, expected_grades
from fundusgrade.networks.inference import predict_probabilities
from fundusgrade.networks.tensors import to_pixels
from fundusgrade.photographs.images import read_image
from fundusgrade.photographs.loading import load_photograph, load_pixels
from fundusgrade.photographs.sources import find_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--model", help="name of a model or its file; default: the one that ships")
    arguments = parser.parse_args()
    grader = Grader.load(arguments.model)
    paths = [found.path for found in find_images(arguments.folders)]
    images = []
    for path in paths:
        full, reduced = load_pixels(read_image(path), grader.recipe), load_photograph(path, grader.recipe)
        images += [to_pixels(each.preprocessed.image) for each in (full, reduced)]
    pixels = torch.stack(images)
    probabilities = predict_probabilities(grader.pytorch.network, pixels, grader.pytorch.choice)
    expected, grades = expected_grades(probabilities), decide_grades(probabilities, grader.description.thresholds)
    moves, flips = np.abs(expected[::2] - expected[1::2]), grades[::2] != grades[1::2]
    levels = np.abs(pixels[::2].numpy().astype(int) - pixels[1::2].numpy()).mean(axis=(1, 2, 3))
    print(f"{len(paths)} photographs, {grader.recipe.describe()}")
    print(f"move of the expected grade: mean {moves.mean():.4f}, largest {moves.max():.4f}")
    print(f"grades that change: {flips.sum()} ({flips.mean():.1%})")
    print(f"difference of preprocessed pixels: mean {levels.mean():.2f} of 255 levels")


if __name__ == "__main__":
    main()
