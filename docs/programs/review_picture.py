"""The pictures of the page to review on in the documents: a page of drawn eyes, opened in a headless browser.

    python docs/programs/review_picture.py

Each eye is one of docs/samples/, right eyes are mirrored. Needs Playwright and a Chromium (`make pictures`).
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fundusgrade.explanation.explainer import DEFAULT_METHODS
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.explanation.targets import AUTO
from fundusgrade.grading.grader import Grader
from fundusgrade.grading.patients import PatientRequest
from fundusgrade.options import Attribution
from fundusgrade.photographs.images import read_image, write_image
from fundusgrade.photographs.sources import find_images
from fundusgrade.reports.explanation_files import FigureRequest
from fundusgrade.reports.explanation_pages import INDEX_FILE
from fundusgrade.reports.explanation_run import write_figures
from tests.browser import open_page

ROOT = Path(__file__).resolve().parents[2]
SAMPLES, FIGURES = ROOT / "docs" / "samples", ROOT / "docs" / "figures"
EYES = {
    "1001": ("healthy_eye.jpg", "healthy_eye.jpg", 1.0),
    "1002": ("drawn_moderate.jpg", "drawn_mild.jpg", 1.0),
    "1003": ("drawn_severe.jpg", "healthy_eye.jpg", 0.25),
}
"""Of each patient the left eye, the right eye before it is mirrored, and the brightness of the right one."""
PATTERN = r"(?P<patient>\d+)_(?P<eye>left|right)"


def main() -> None:
    """Write docs/figures/review.png and review-phone.png."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        page = draw_page()
        with open_page(page, height=1000) as opened:
            opened.keyboard.press("0")
            opened.locator("#reader").fill("Dr. Example")
            opened.keyboard.press("Enter")
            opened.keyboard.press("0")
            opened.keyboard.press("ArrowRight")
            opened.keyboard.press("h")
            opened.evaluate("scrollTo(0, 0)")
            opened.wait_for_timeout(500)
            opened.screenshot(path=FIGURES / "review.png")
        with open_page(page, width=390, height=844, dark=True) as opened:
            opened.evaluate("document.querySelectorAll('.row')[1].scrollIntoView()")
            opened.wait_for_timeout(500)
            opened.screenshot(path=FIGURES / "review-phone.png")
    print("written: docs/figures/review.png, docs/figures/review-phone.png")


def draw_page() -> Path:
    """Explain the eyes with the default model in the present folder; returns the index page."""
    images, maps = Path("images"), Path("maps")
    images.mkdir()
    for patient, (left, right, brightness) in EYES.items():
        write_image(images / f"{patient}_left.jpg", read_image(SAMPLES / left))
        mirrored = read_image(SAMPLES / right)[:, ::-1] * brightness
        write_image(images / f"{patient}_right.jpg", np.ascontiguousarray(mirrored, np.uint8))
    patients = PatientRequest(path=None, pattern=PATTERN)
    methods = [ExplainOptions(target=AUTO, method=Attribution(method)) for method in DEFAULT_METHODS]
    request = FigureRequest(graders=[Grader.load()], methods=methods, patients=patients)
    for _ in write_figures(find_images(images), request, maps, "fundusgrade explain images --out maps"):
        pass
    return maps / INDEX_FILE


if __name__ == "__main__":
    main()
