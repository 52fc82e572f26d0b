"""Files of explanations: figures, and heat maps as arrays."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fundusgrade.data.lesion_masks import LESION_NAMES, read_lesions
from fundusgrade.explanation.attribution import DEFAULT_METHOD
from fundusgrade.explanation.explainer import Explanation, Explanations
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.files import write_atomically
from fundusgrade.options import Attribution, ColorScale
from fundusgrade.photographs.sources import PhotographSource
from fundusgrade.reports.figures import draw_explanations
from fundusgrade.reports.overlay import MarkedRegion
from fundusgrade.text import printable

# File systems allow 255 bytes; names of arrays beside a figure add those of model and method.
_LONGEST_NAME_BYTES = 150
INDEX_FILE = "index.html"
JOURNAL_FILE = "explanations.jsonl"
"""What the figures of a folder were made with, and a line for each photograph."""
# Cool colors, which heat never has; of different lightness, so that color-blind readers and gray print tell them apart.
_LESION_COLORS = {"MA": (120, 230, 255), "HE": (70, 120, 255), "EX": (0, 190, 120), "SE": (200, 170, 255)}


def draw_figure(
    explanations: Explanations,
    path: Path,
    masks: Path | None,
    *,
    scale: ColorScale | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write the figure of one photograph, with outlines of those lesions that have a mask in the folder `masks`.

    `scale` and `notes` are those of `explanation_figure`.

    Raises StoreError where it cannot be written, DatasetError where a mask is not of the photograph's size.
    """
    marked = marked_lesions(explanations[0][0], masks)
    draw_explanations(explanations, path, marked=marked, scale=scale, notes=notes)


def marked_lesions(explanation: Explanation, masks: Path | None) -> list[MarkedRegion]:
    """Those lesions of a photograph that have a mask in the folder `masks`; none without a folder.

    Raises DatasetError where a mask is not of the photograph's size.
    """
    if masks is None:
        return []
    return [
        MarkedRegion(name=LESION_NAMES[each.kind], mask=each.mask, color=_LESION_COLORS[each.kind])
        for each in read_lesions(Path(explanation.prediction.image).stem, masks, explanation.photograph.shape)
    ]


def array_path(stem: Path, model: str, options: ExplainOptions) -> Path:
    """The file of one heat map beside the figure whose path without suffix is `stem`."""
    method = DEFAULT_METHOD if options.method is Attribution.AUTO else options.method
    part = replace(options, method=method).describe().replace("@", "-").replace("++", "pp")
    return stem.with_name(f"{stem.name}-{model}-{part}.npz")


def write_arrays(explanations: Explanations, stem: Path) -> list[Path]:
    """Write every heat map as STEM-MODEL-METHOD.npz and return the paths.

    A file holds `heat` (H, W) float32 on the photograph's pixels, and `model`, `method`, `grade`, `decided_by`,
    `probabilities` (5,), `target`, `score`, `gap` (NaN where the method has none) and `unit`. Raises StoreError where a
    file cannot be written.
    """
    written = []
    for explanation in (explanation for row in explanations for explanation in row):
        path = array_path(stem, explanation.prediction.model, explanation.options)
        content = io.BytesIO()
        np.savez_compressed(
            content,
            heat=explanation.heat,
            model=explanation.prediction.model,
            method=explanation.options.describe(),
            grade=int(explanation.prediction.grade),
            decided_by=explanation.prediction.decided_by,
            probabilities=np.array(explanation.prediction.probabilities),
            target=explanation.target.name,
            score=explanation.heat_map.score,
            gap=np.nan if explanation.heat_map.gap is None else explanation.heat_map.gap,
            unit=explanation.heat_map.scale.unit,
        )
        write_atomically(path, content.getvalue())
        written.append(path)
    return written


def figure_names(found: Sequence[PhotographSource]) -> list[str]:
    """The path of each photograph's figure in the output folder: its own path below the folder that all share.

    Photographs that differ only in their suffix keep it, so that no figure replaces another. No path leaves the output
    folder: names of an archive's members only lead to subfolders.
    """
    shared = os.path.commonpath([each.path.parent.absolute() for each in found])
    paths = [_full_path(each).relative_to(shared) for each in found]
    stems = Counter(path.with_suffix("") for path in paths)
    named = [path.with_suffix("") if stems[path.with_suffix("")] == 1 else path for path in paths]
    return [_shortened(f"{path.as_posix()}-explained.jpg") for path in named]


def _shortened(name: str) -> str:
    """The same name where a file system allows it, else its beginning and a hash of the whole name."""
    parent, _, last = name.rpartition("/")
    if len(os.fsencode(last)) <= _LONGEST_NAME_BYTES:
        return name
    beginning = os.fsencode(last)[:100].decode("utf-8", "ignore")
    digest = hashlib.sha256(os.fsencode(last)).hexdigest()[:12]
    return f"{parent}/{beginning}-{digest}-explained.jpg".removeprefix("/")


def _full_path(found: PhotographSource) -> Path:
    """The absolute path of a photograph, with its archive as a folder and its frame as part of its name."""
    path = found.path.absolute()
    if found.member is not None and found.problem is None:
        path /= found.member.name
    return path if found.frame is None else path.with_name(f"{path.name}#{found.frame}")


def gap_line(explanation: Explanation) -> str | None:
    """One line for people on how far a map's attributions miss the change of the score; None without a gap."""
    heat_map = explanation.heat_map
    if heat_map.gap is None or heat_map.baseline_score is None:
        return None
    change = heat_map.score - heat_map.baseline_score
    return printable(
        f"{explanation.prediction.image}: {explanation.options.describe()} of {explanation.target.name}: attributions "
        f"sum to {change + heat_map.gap:.2f}, the {explanation.target.score_name} changes by {change:.2f} from the "
        f"blurred baseline, gap {heat_map.gap:+.2f} ({explanation.prediction.model})"
    )
