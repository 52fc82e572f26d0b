"""The validation photographs that the best epoch grades worst, for inspection: errors of the model, or labels."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fundusgrade.grades import GRADE_LABELS
from fundusgrade.metrics.classification import order_of_errors
from fundusgrade.networks.tensors import LabeledImages
from fundusgrade.plots import new_figure, save_figure
from fundusgrade.text import one_line, shortened
from fundusgrade.training.decision import GradedOutputs

WORST_FILE = "worst_validation.png"
NUM_SHOWN = 12
_PER_ROW, _CELL_INCHES, _TEXT_INCHES = 4, 2.3, 0.55
_NAME_CHARACTERS = 34


def worst_photographs(grades: NDArray[np.int64], graded: GradedOutputs) -> NDArray[np.int64]:
    """Positions of up to `NUM_SHOWN` of the N photographs, the worst first, by their true grades (N,)."""
    return order_of_errors(grades, graded.predicted, graded.probabilities)[:NUM_SHOWN]


def draw_worst_photographs(images: LabeledImages, sources: Sequence[str], graded: GradedOutputs, path: Path) -> None:
    """Write a figure of the worst of N photographs, as the network sees them: true and predicted grade, probabilities.

    Of a split without errors the figure says so. Raises StoreError where the file cannot be written.
    """
    grades = np.asarray(images.grades.numpy(), np.int64)
    worst = worst_photographs(grades, graded)
    num_rows = max(-(-len(worst) // _PER_ROW), 1)
    top, bottom = images.rows or (0, images.stored.shape[2])
    cell_inches = _CELL_INCHES * (bottom - top) / images.stored.shape[3] + _TEXT_INCHES
    figure = new_figure(width_inches=_PER_ROW * _CELL_INCHES, height_inches=0.9 + num_rows * cell_inches)
    num_wrong = int((graded.predicted != grades).sum())
    figure.suptitle(
        f"{num_wrong} of {len(grades)} validation photographs are graded wrongly; the worst first", fontsize=11
    )
    panels = np.ravel(figure.subplots(num_rows, _PER_ROW, squeeze=False))
    for panel in panels:
        panel.axis("off")
    pixels = images.select(torch.from_numpy(worst))[:, :, top:bottom].permute(0, 2, 3, 1).cpu().numpy()
    for panel, position, image in zip(panels, worst.tolist(), pixels, strict=False):
        panel.imshow(image)
        panel.set_title(
            describe_error(sources[position], int(grades[position]), graded, position), fontsize=8, parse_math=False
        )
    save_figure(figure, path)


def describe_error(source: str, grade: int, graded: GradedOutputs, position: int) -> str:
    """The name of a photograph, and its true and its predicted grade with their probabilities, in three lines."""
    predicted, probabilities = int(graded.predicted[position]), graded.probabilities[position]
    name = textwrap.shorten(shortened(one_line(source)[-_NAME_CHARACTERS:], _NAME_CHARACTERS), _NAME_CHARACTERS)
    return (
        f"{name}\ngraders: {grade} {GRADE_LABELS[grade]} (p = {probabilities[grade]:.2f})\n"
        f"model: {predicted} {GRADE_LABELS[predicted]} (p = {probabilities[predicted]:.2f})"
    )
