"""Explanations written to files: the figure of one photograph, or a folder of figures with an index page."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fundusgrade.explanation.explainer import explain_photograph
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.grades import Prediction
from fundusgrade.grading.grader import Grader
from fundusgrade.grading.patients import PatientRequest
from fundusgrade.options import ColorScale
from fundusgrade.photographs.loading import DECODING_MARGIN
from fundusgrade.photographs.sources import PhotographSource
from fundusgrade.reports.explanation_index import map_pictures
from fundusgrade.reports.explanation_pages import (
    INDEX_FILE,
    JOURNAL_FILE,
    array_path,
    draw_figure,
    figure_names,
    gap_line,
    write_arrays,
)
from fundusgrade.reports.review_entries import ReviewPicture
from fundusgrade.reports.review_page import present_pictures

_DRAWING = threading.Lock()
"""Matplotlib is not made for several threads."""
_FIGURE_PHOTOGRAPH_PX = 1200
"""Figures show photographs at this size at most; raw heat maps and outlines of lesions need all pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureRequest:
    """The content of figures: a column for each model, a row for each method, outlines of the lesions in `masks`.

    `scale` is the color scale of all methods, by default that of each; `notes` are sentences for the figures' key. With
    `arrays` the heat maps are written as .npz files beside the figures. The index page has a row for each of
    `patients`, or for each photograph.
    """

    graders: Sequence[Grader]
    methods: Sequence[ExplainOptions]
    masks: Path | None = None
    arrays: bool = False
    scale: ColorScale | None = None
    notes: tuple[str, ...] = ()
    patients: PatientRequest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenFigure:
    """The prediction of each model, a line on the gap of each map that has one, the files, the figure first, and small
    pictures of photograph and maps."""

    predictions: tuple[Prediction, ...]
    gap_lines: tuple[str, ...]
    paths: tuple[Path, ...]
    pictures: tuple[ReviewPicture, ...]


def figure_files(request: FigureRequest, figure: Path) -> list[Path]:
    """The files that `write_figure` writes: the figure, then the arrays."""
    stem = figure.with_suffix("")
    arrays = [array_path(stem, grader.name, method) for method in request.methods for grader in request.graders]
    return [figure, *(dict.fromkeys(arrays) if request.arrays else ())]


def planned_files(photographs: Sequence[PhotographSource], request: FigureRequest, folder: Path) -> list[Path]:
    """The files that `write_figures` writes; none of photographs that are known to be unreadable,
    whose names in an archive may be equal."""
    named = zip(photographs, figure_names(photographs), strict=True)
    names = [name for photograph, name in named if photograph.problem is None]
    return [
        *(file for name in names for file in figure_files(request, folder / name)),
        folder / JOURNAL_FILE,
        folder / INDEX_FILE,
        *present_pictures(folder / INDEX_FILE),
    ]


def write_figure(photograph: PhotographSource, request: FigureRequest, path: Path) -> WrittenFigure:
    """Explain a photograph and draw the figure of it.

    Raises UngradableError where it cannot be graded, DatasetError where a lesion mask does not fit, StoreError where
    nothing can be written.
    """
    explained = explain_photograph(photograph, request.graders, request.methods, at_least_px=_photograph_px(request))
    with _DRAWING:
        draw_figure(explained, path, request.masks, scale=request.scale, notes=request.notes)
    arrays = write_arrays(explained, path.with_suffix("")) if request.arrays else []
    lines = [gap_line(explanation) for row in explained for explanation in row]
    return WrittenFigure(
        predictions=tuple(explanation.prediction for explanation in explained[0]),
        gap_lines=tuple(line for line in lines if line is not None),
        paths=(path, *arrays),
        pictures=map_pictures(explained, request.scale),
    )


def _photograph_px(request: FigureRequest) -> int | None:
    """Pixels per side at which a photograph is decoded; None for all."""
    if request.arrays or request.masks is not None:
        return None
    largest = max(grader.recipe.size_px for grader in request.graders)
    return max(_FIGURE_PHOTOGRAPH_PX, math.ceil(DECODING_MARGIN * largest))
