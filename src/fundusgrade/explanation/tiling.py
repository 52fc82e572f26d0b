"""Finer explanations from the same network: a larger picture, seen in overlapping parts of the usual size.

A part shows lesions larger than the network was trained on, and less around them. Whether that helps depends on the
photograph's own resolution and on the network: docs/explanations.md has what was measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fundusgrade.explanation.attribution import explain_image
from fundusgrade.explanation.heat_map import ExplainOptions, HeatMap, merge_tiles
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.photographs.preprocess import PreprocessedImage


def explain_in_tiles(
    network: GradingNetwork,
    whole: HeatMap,
    large: PreprocessedImage,
    outline: NDArray[np.bool_],
    options: ExplainOptions,
    choice: DeviceChoice,
) -> HeatMap:
    """The heat map (n S, n S) of a picture made n times as large, from parts of (S, S) that overlap by half.

    `whole` is the heat map of the picture at its usual size; its target is explained in every part. `outline` says
    which pixels of the large picture can show retina.
    """
    size_px = len(whole.values)
    heat = np.zeros(large.image.shape[:2], np.float32)
    weight = np.zeros_like(heat)
    rows = network.spec.rows or (0, size_px)
    window = _window(size_px, rows)
    part_options = replace(options, target=whole.target, method=whole.method)
    for top, left in _corners(large, size_px, rows):
        place = (slice(top, top + size_px), slice(left, left + size_px))
        part = explain_image(network, large.image[place], options=part_options, choice=choice, outline=outline[place])
        heat[place] += window * part.values
        weight[place] += window
    return merge_tiles(whole, np.divide(heat, weight, out=np.zeros_like(heat), where=weight > 0), options.tiles)


def _corners(large: PreprocessedImage, size_px: int, rows: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Upper left corners of parts whose seen rows cover all that the photograph shows."""
    seen_rows, seen_columns = np.flatnonzero(large.mask.any(axis=1)), np.flatnonzero(large.mask.any(axis=0))
    last = len(large.image) - size_px
    for first_row in _starts(seen_rows[0], seen_rows[-1] + 1, rows[1] - rows[0]):
        for first_column in _starts(seen_columns[0], seen_columns[-1] + 1, size_px):
            yield int(np.clip(first_row - rows[0], 0, last)), int(np.clip(first_column, 0, last))


def _starts(first: int, end: int, length: int) -> list[int]:
    """Where parts of this length begin, so that they cover first to end and overlap by half or more."""
    num_parts = max(1, int(np.ceil(2 * (end - first) / length)) - 1)
    return [round(start) for start in np.linspace(first, max(end - length, first), num_parts)]


def _window(size_px: int, rows: tuple[int, int]) -> NDArray[np.float32]:
    """Weights (S, S) of a part's heat: highest in its middle, 0 on rows that the network does not see."""
    across = 1 - np.abs(np.linspace(-1, 1, size_px + 2)[1:-1])
    down = np.zeros(size_px)
    down[rows[0] : rows[1]] = 1 - np.abs(np.linspace(-1, 1, rows[1] - rows[0] + 2)[1:-1])
    return np.asarray(down[:, None] * across[None], np.float32)
