"""Explanations written to files: the figure of one photograph, or a folder of figures with an index page."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fundusgrade.errors import DatasetError, UngradableError
from fundusgrade.explanation.explainer import explain_photograph
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.files import make_folder, write_atomically
from fundusgrade.grades import Prediction
from fundusgrade.grading.grader import Grader
from fundusgrade.options import ColorScale
from fundusgrade.photographs.loading import DECODING_MARGIN
from fundusgrade.photographs.sources import PhotographSource
from fundusgrade.reports.explanation_pages import (
    INDEX_FILE,
    IndexEntry,
    array_path,
    draw_figure,
    entry_of,
    figure_names,
    gap_line,
    index_html,
    write_arrays,
)
from fundusgrade.reports.listings import coverage_line

_FIGURE_PHOTOGRAPH_PX = 1200
"""Figures show photographs at this size at most; raw heat maps and outlines of lesions need all pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureRequest:
    """The content of figures: a column for each model, a row for each method, outlines of the lesions in `masks`.

    `scale` is the color scale of all methods, by default that of each; `notes` are sentences for the figures' key. With
    `arrays` the heat maps are written as .npz files beside the figures.
    """

    graders: Sequence[Grader]
    methods: Sequence[ExplainOptions]
    masks: Path | None = None
    arrays: bool = False
    scale: ColorScale | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenFigure:
    """The prediction of each model, a line on the gap of each map that has one, and the files, the figure first."""

    predictions: tuple[Prediction, ...]
    gap_lines: tuple[str, ...]
    paths: tuple[Path, ...]


def figure_files(request: FigureRequest, figure: Path) -> list[Path]:
    """The files that `write_figure` writes: the figure, then the arrays."""
    stem = figure.with_suffix("")
    arrays = [array_path(stem, grader.name, method) for method in request.methods for grader in request.graders]
    return [figure, *(dict.fromkeys(arrays) if request.arrays else ())]


def planned_files(photographs: Sequence[PhotographSource], request: FigureRequest, folder: Path) -> list[Path]:
    """The files that `write_figures` writes, the index page last; none of photographs that are known to be unreadable,
    whose names in an archive may be equal."""
    named = zip(photographs, figure_names(photographs), strict=True)
    names = [name for photograph, name in named if photograph.problem is None]
    return [*(file for name in names for file in figure_files(request, folder / name)), folder / INDEX_FILE]


def write_figure(photograph: PhotographSource, request: FigureRequest, path: Path) -> WrittenFigure:
    """Explain a photograph and draw the figure of it.

    Raises UngradableError where it cannot be graded, DatasetError where a lesion mask does not fit, StoreError where
    nothing can be written.
    """
    explained = explain_photograph(photograph, request.graders, request.methods, at_least_px=_photograph_px(request))
    draw_figure(explained, path, request.masks, scale=request.scale, notes=request.notes)
    arrays = write_arrays(explained, path.with_suffix("")) if request.arrays else []
    lines = [gap_line(explanation) for row in explained for explanation in row]
    return WrittenFigure(
        predictions=tuple(explanation.prediction for explanation in explained[0]),
        gap_lines=tuple(line for line in lines if line is not None),
        paths=(path, *arrays),
    )


def write_figures(
    photographs: Sequence[PhotographSource],
    request: FigureRequest,
    folder: Path,
    command: str,
) -> Generator[IndexEntry, None, None]:
    """Draw the figures of many photographs into a folder, one after the other, then an index page of them.

    A photograph that cannot be explained is an entry with the reason. The index page names the `command`, and is
    written also where the generator is closed early. Raises StoreError where nothing can be written.
    """
    entries: list[IndexEntry] = []
    try:
        for photograph, name in zip(photographs, figure_names(photographs), strict=True):
            entries.append(_entry(photograph, name, request, folder))
            yield entries[-1]
    finally:
        if folder.is_dir():
            title = f"Explanations of {len(entries)} photographs"
            notes = [
                coverage_line(grader.name, grader.known_coverage(), grader.coverage)
                for grader in request.graders
                if grader.coverage is not None
            ]
            write_atomically(folder / INDEX_FILE, index_html(entries, title=title, notes=notes, command=command))


def _entry(photograph: PhotographSource, name: str, request: FigureRequest, folder: Path) -> IndexEntry:
    make_folder((folder / name).parent)
    try:
        written = write_figure(photograph, request, folder / name)
    except (UngradableError, DatasetError) as error:
        return IndexEntry(name=photograph.name, reason=str(error))
    return entry_of(photograph.name, name, written.predictions, written.gap_lines)


def _photograph_px(request: FigureRequest) -> int | None:
    """Pixels per side at which a photograph is decoded; None for all."""
    if request.arrays or request.masks is not None:
        return None
    largest = max(grader.recipe.size_px for grader in request.graders)
    return max(_FIGURE_PHOTOGRAPH_PX, math.ceil(DECODING_MARGIN * largest))
