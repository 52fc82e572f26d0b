"""What explanations leave on disk: figures, raw maps, and the index page of a folder."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fundusgrade.data.lesion_masks import LESION_NAMES, read_lesions
from fundusgrade.explanation.explainer import Explanation, Explanations
from fundusgrade.files import write_atomically
from fundusgrade.grades import Prediction
from fundusgrade.photographs.sources import FoundImage
from fundusgrade.reports.figures import draw_explanations
from fundusgrade.reports.html.environment import render
from fundusgrade.reports.overlay import MarkedRegion
from fundusgrade.reports.tables import prediction_line
from fundusgrade.text import printable

# File systems take 255 bytes; raw maps beside a figure add the names of model and method.
_LONGEST_NAME_BYTES = 150
INDEX_FILE = "index.html"
# Okabe and Ito's yellow, purple and green, and black: apart for color-blind eyes, in gray, and on a retina.
_LESION_COLORS = {"MA": (240, 228, 66), "HE": (0, 0, 0), "EX": (204, 121, 167), "SE": (0, 158, 115)}


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """A photograph of the index page: its name, its figure in the page's folder and what was graded, or why not."""

    name: str
    figure: str = ""
    lines: tuple[str, ...] = ()
    reason: str | None = None

    @property
    def link(self) -> str:
        """The path of the figure as a link of the page."""
        return _quoted(self.figure)


def draw_figure(explanations: Explanations, path: Path, masks: Path | None) -> None:
    """Write the figure of one photograph, with outlines of its lesions where a folder of masks holds some.

    Raises StoreError where it cannot be written, DatasetError where a mask is not of the photograph's size.
    """
    first = explanations[0][0]
    regions = []
    if masks is not None:
        name = Path(first.prediction.image).stem
        regions = [
            MarkedRegion(name=LESION_NAMES[each.kind], mask=each.mask, color=_LESION_COLORS[each.kind])
            for each in read_lesions(name, masks, first.photograph.shape)
        ]
    draw_explanations(explanations, path, marked=regions)


def write_arrays(explanations: Explanations, stem: Path) -> list[Path]:
    """Write every heat map as STEM-MODEL-METHOD.npz: `heat` (H, W) float32 on the photograph, and what it shows.

    Raises StoreError where a file cannot be written.
    """
    written = []
    for each in (explanation for row in explanations for explanation in row):
        path = stem.with_name(f"{stem.name}-{each.prediction.model}-{_file_word(each)}.npz")
        content = io.BytesIO()
        np.savez_compressed(
            content,
            heat=each.heat,
            model=each.prediction.model,
            method=each.options.describe(),
            target=each.target.name,
            score=each.heat_map.score,
            unit=each.heat_map.scale.unit,
        )
        write_atomically(path, content.getvalue())
        written.append(path)
    return written


def figure_names(found: Sequence[FoundImage]) -> list[str]:
    """A figure's path below the output folder for each photograph: its own below what all of them share.

    Photographs that differ in their ending alone keep it, so that no figure replaces another. All paths stay below:
    names of members lead only down, and what has no such name is not drawn.
    """
    shared = os.path.commonpath([each.path.parent.absolute() for each in found])
    places = [_place(each).relative_to(shared) for each in found]
    stems = Counter(place.with_suffix("") for place in places)
    named = [place.with_suffix("") if stems[place.with_suffix("")] == 1 else place for place in places]
    return [_shortened(f"{place.as_posix()}-explained.jpg") for place in named]


def _shortened(name: str) -> str:
    """The same name where a file system takes it, else its beginning and a hash of the whole."""
    parent, _, last = name.rpartition("/")
    if len(os.fsencode(last)) <= _LONGEST_NAME_BYTES:
        return name
    beginning = os.fsencode(last)[:100].decode("utf-8", "ignore")
    mark = hashlib.sha256(os.fsencode(last)).hexdigest()[:12]
    return f"{parent}/{beginning}-{mark}-explained.jpg".removeprefix("/")


def _place(found: FoundImage) -> Path:
    place = found.path.absolute()
    if found.member is not None and found.problem is None:
        place /= found.member.name
    return place if found.frame is None else place.with_name(f"{place.name}#{found.frame}")


def index_html(entries: Sequence[IndexEntry], *, title: str, command: str) -> str:
    """The index page: every photograph's figure with its grades, then those that could not be graded with reasons."""
    return render("explanations.html", title=title, entries=entries, command=command)


def entry_of(name: str, figure: str, predictions: Sequence[Prediction]) -> IndexEntry:
    """The index entry of an explained photograph, with the prediction of each model."""
    return IndexEntry(name=name, figure=figure, lines=tuple(map(prediction_line, predictions)))


def _quoted(path: str) -> str:
    """A relative path as a link: only what would end the link, or make its beginning a scheme, is escaped."""
    quoted = printable(path)
    for character in "%#?\\:":
        quoted = quoted.replace(character, f"%{ord(character):02X}")
    return quoted


def _file_word(explanation: Explanation) -> str:
    return explanation.options.describe().replace(", ", "-").replace(" ", "").replace("@", "-").replace("++", "pp")
