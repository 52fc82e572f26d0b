"""The pictures in the documents, made again: heat maps of CC0 photographs, and charts of stored results.

    python docs/programs/pictures.py

Those in docs/figures/ show docs/samples/ only, by the shipped models. Those in docs/results/ are drawn from the JSON
files beside them; the commands that measure these are in docs/results.md.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fundusgrade import store
from fundusgrade.evaluation.audit import Audit
from fundusgrade.evaluation.interventions import Role
from fundusgrade.evaluation.robustness import InterventionEffect
from fundusgrade.evaluation.shortcuts import ShortcutProbe
from fundusgrade.explanation.explainer import DEFAULT_METHODS, explain_photograph
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.explanation.targets import AUTO, REFERABLE, Target
from fundusgrade.grades import GRADE_LABELS
from fundusgrade.grading.grader import Grader
from fundusgrade.metrics.classification import Evaluation
from fundusgrade.metrics.estimates import Estimate
from fundusgrade.options import Attribution
from fundusgrade.photographs.images import write_image
from fundusgrade.photographs.pixels import Image
from fundusgrade.reports.explanation_pages import marked_lesions
from fundusgrade.reports.figures import ModelEvaluation, draw_audit, draw_confusion_matrices, explanation_figure
from fundusgrade.reports.sheet import Sheet, Style, rasterize

DOCS = Path(__file__).resolve().parent.parent
SAMPLES, FIGURES, RESULTS = DOCS / "samples", DOCS / "figures", DOCS / "results"
WIDTH_PX = 1500
PANEL_PX, TITLES_PX, MARGIN_PX = 484, 88, 12


def main() -> None:
    """Draw all pictures."""
    default = Grader.load()
    shipped = [Grader.load(model.name) for model in store.list_models() if model.shipped]
    models = [default, *(grader for grader in shipped if grader.name != default.name)]
    draw_strip("first.jpg", "drawn_moderate.jpg", default)
    draw("explanation.jpg", "drawn_moderate.jpg", [default])
    draw("explanation-healthy.jpg", "healthy_eye.jpg", [default])
    draw("explanation-lesions.jpg", "camera_squashed.jpg", [default], masks=SAMPLES / "masks")
    draw("models.jpg", "drawn_severe.jpg", models, target=REFERABLE)
    draw_results()


def draw_strip(name: str, sample: str, grader: Grader) -> None:
    """Draw the photograph and the panels of its figure side by side, under the titles of their rows."""
    explained = explain_photograph(SAMPLES / sample, [grader], default_methods(AUTO))
    figure = explanation_figure(explained)
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]
    panels = [image for image in shown if image.shape == shown[0].shape]
    prediction = explained[0][0].prediction
    texts = (
        ("Photograph", f"painted lesions: grade {prediction.grade} {GRADE_LABELS[prediction.grade]}"),
        ("Grad-CAM", "coarse regions that raise the score"),
        ("Evidence map", "what each place adds to the score"),
    )
    sheet = Sheet(WIDTH_PX, PANEL_PX + TITLES_PX + MARGIN_PX)
    for number, (image, (title, note)) in enumerate(zip(panels, texts, strict=True)):
        left = MARGIN_PX + number * (PANEL_PX + MARGIN_PX)
        sheet.write(title, Style(size_px=26, is_bold=True), left, 12)
        sheet.write(note, Style(size_px=22, color="0.3"), left, 48)
        sheet.show(reduced(image, PANEL_PX), left, TITLES_PX)
    write(name, rasterize(sheet.figure))


def draw(
    name: str, sample: str, graders: Sequence[Grader], *, target: Target = AUTO, masks: Path | None = None
) -> None:
    """Draw the figure of a sample as `fundusgrade explain` does, at the width of a page."""
    explained = explain_photograph(SAMPLES / sample, graders, default_methods(target))
    figure = explanation_figure(explained, marked=marked_lesions(explained[0][0], masks))
    write(name, reduced(rasterize(figure), WIDTH_PX))


def draw_results() -> None:
    """Draw the stored audit and the stored confusion matrices."""
    audit = json.loads((RESULTS / "audit.json").read_text(encoding="utf-8"))
    probes = [ShortcutProbe(**probe) for probe in audit["probes"]]
    effects = [effect_of(stored) for stored in audit["effects"]]
    names = {name: audit[name] for name in ("data", "model", "reach")}
    draw_audit(Audit(**names, probes=tuple(probes), effects=tuple(effects)), RESULTS / "audit.png")
    models = json.loads((RESULTS / "evaluation.json").read_text(encoding="utf-8"))["models"]
    evaluations = [ModelEvaluation(model=each["model"], evaluation=Evaluation(**each["evaluation"])) for each in models]
    draw_confusion_matrices(evaluations, RESULTS / "confusion.png")
    print("written: docs/results/audit.png, docs/results/confusion.png")


def effect_of(stored: dict[str, Any]) -> InterventionEffect:
    """The effect of an intervention, of audit.json."""
    estimates = {name: Estimate(**stored[name]) for name in ("change", "shift", "outline_change")}
    return InterventionEffect(**stored | estimates | {"role": Role(stored["role"])})


def default_methods(target: Target) -> list[ExplainOptions]:
    """What `fundusgrade explain` draws where no method is named."""
    return [ExplainOptions(target=target, method=Attribution(method)) for method in DEFAULT_METHODS]


def reduced(image: Image, width_px: int) -> Image:
    """An image (H, W, 3) at this width."""
    size = (width_px, round(image.shape[0] * width_px / image.shape[1]))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def write(name: str, pixels: Image) -> None:
    """Store a picture in docs/figures."""
    write_image(FIGURES / name, pixels)
    print(f"written: docs/figures/{name}: {(FIGURES / name).stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
