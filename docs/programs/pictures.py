"""The pictures of heat maps in the documents, made again by the shipped models from photographs that are CC0.

    python docs/programs/pictures.py

They lie in docs/figures/ and show docs/samples/ only. Tools and models are those of the checkout.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from fundusgrade import store
from fundusgrade.explanation.explainer import DEFAULT_METHODS, explain_photograph
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.explanation.targets import AUTO, REFERABLE, Target
from fundusgrade.grading.grader import Grader
from fundusgrade.options import Attribution
from fundusgrade.photographs.images import write_image
from fundusgrade.reports.explanation_pages import marked_lesions
from fundusgrade.reports.figures import explanation_figure
from fundusgrade.reports.sheet import rasterize

DOCS = Path(__file__).resolve().parent.parent
SAMPLES, FIGURES = DOCS / "samples", DOCS / "figures"
WIDTH_PX = 1500


def main() -> None:
    """Draw all pictures."""
    default = Grader.load()
    shipped = [Grader.load(model.name) for model in store.list_models() if model.shipped]
    models = [default, *(grader for grader in shipped if grader.name != default.name)]
    draw("explanation.jpg", "drawn_moderate.jpg", [default])
    draw("explanation-healthy.jpg", "healthy_eye.jpg", [default])
    draw("explanation-lesions.jpg", "camera_squashed.jpg", [default], masks=SAMPLES / "masks")
    draw("models.jpg", "drawn_severe.jpg", models, target=REFERABLE)


def draw(
    name: str, sample: str, graders: Sequence[Grader], *, target: Target = AUTO, masks: Path | None = None
) -> None:
    """Draw the figure of a sample as `fundusgrade explain` does, at the width of a page."""
    methods = [ExplainOptions(target=target, method=Attribution(method)) for method in DEFAULT_METHODS]
    explained = explain_photograph(SAMPLES / sample, graders, methods)
    pixels = rasterize(explanation_figure(explained, marked=marked_lesions(explained[0][0], masks)))
    height, width = pixels.shape[:2]
    size = (WIDTH_PX, round(height * WIDTH_PX / width))
    write_image(FIGURES / name, np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8))
    print(f"written: docs/figures/{name}: {(FIGURES / name).stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
