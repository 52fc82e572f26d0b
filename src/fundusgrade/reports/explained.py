"""An explanation for programs and notebooks: drawn as a figure, saved as a file, shown in a cell."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from fundusgrade.explanation import explainer
from fundusgrade.explanation.heat_map import ExplainOptions, parse_method
from fundusgrade.explanation.targets import parse_target
from fundusgrade.outputs import check_outputs
from fundusgrade.photographs.images import WRITTEN_SUFFIXES, encode_jpeg, encode_png
from fundusgrade.photographs.inputs import Photograph
from fundusgrade.photographs.pixels import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fundusgrade.grading.grader import Grader

_CELL_WIDTH_PX = 1200
"""Width of the figure in a notebook's cell; a file has all pixels."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Explanation(explainer.Explanation):
    """A photograph, its prediction, and `heat` (H, W) float32 >= 0 on the photograph's own pixels.

    `photograph` is (H, W, 3) uint8 RGB; `heat_map` is the heat on the preprocessed image, with its score and scale.
    The last expression of a notebook's cell is shown as the figure that `save` writes.
    """

    def figure(self) -> Figure:
        """The figure: photograph, heat map, color bar, grade, and the notice of research use."""
        from fundusgrade.reports.figures import figure_of

        return figure_of(self)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the figure in the format of its suffix (png, jpg, webp, tif), and return its path.

        A file that fundusgrade wrote is replaced with `overwrite` only, any other never. Raises StoreError where the
        file may not or cannot be written.
        """
        from fundusgrade.reports.figures import draw_explanations

        target = Path(path)
        read = [Path(self.prediction.image)]
        check_outputs([target], inputs=read, overwrite=overwrite, suffixes=WRITTEN_SUFFIXES)
        draw_explanations([[self]], target)
        return target

    def _repr_png_(self) -> bytes:
        """The figure for a cell that shows pictures."""
        return encode_png(self._cell_image())

    def _repr_html_(self) -> str:
        """The figure for a cell, the prediction in words, and the notice of research use."""
        from fundusgrade.reports.html.environment import render
        from fundusgrade.reports.listings import prediction_line

        return render("explained.html", image=encode_jpeg(self._cell_image()), line=prediction_line(self.prediction))

    def _cell_image(self) -> Image:
        from fundusgrade.reports.sheet import rasterize

        image = rasterize(self.figure())
        height, width = image.shape[:2]
        if width <= _CELL_WIDTH_PX:
            return image
        size = (_CELL_WIDTH_PX, round(height * _CELL_WIDTH_PX / width))
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def explain(
    grader: Grader,
    photograph: Photograph,
    options: ExplainOptions | None = None,
    *,
    target: str = "auto",
    method: str = "auto",
) -> Explanation:
    """Grade a photograph and highlight the regions that drove the grade.

    `target` is the score to explain: "auto" (referable where the grade is 0 or 1, else predicted), "predicted",
    "referable", "expected", or a grade, 0-4 or its name. `method` is "auto" (integrated gradients),
    "integrated-gradients", "grad-cam", "hirescam", "grad-cam++", "layercam" or "attention-rollout"; one of the CAM
    family may end in "@middle", "@fine" or "@all". Both may be given as `options` instead. A photograph is what
    `Grader.grade` takes. Raises UngradableError where it cannot be graded, ExplanationError for an unknown target or
    method and for one that does not fit the network, TypeError or ValueError for what is no photograph.
    """
    if options is None:
        attribution, layer = parse_method(method)
        options = ExplainOptions(target=parse_target(target), method=attribution, layer=layer)
    elif (target, method) != ("auto", "auto"):
        raise TypeError("target and method are given twice: leave them out, or leave out options")
    found = explainer.explain(grader, photograph, options)
    return Explanation(**{field.name: getattr(found, field.name) for field in fields(found)})
