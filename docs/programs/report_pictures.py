"""The pictures of the report in the documents, made again by the shipped models from drawn eyes.

    python docs/programs/report_pictures.py [REPORT]

They lie in docs/figures/. Without a REPORT, 240 eyes are drawn, prepared and evaluated, which takes a minute or two.
Playwright and a Chromium are needed (`pip install 'fundusgrade[dev]'`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from fundusgrade.files import HOME_VARIABLE
from fundusgrade.photographs.images import write_image
from fundusgrade.photographs.pixels import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "docs" / "figures"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NUM_EYES = 240
GAP_PX = 24


def main() -> None:
    """Draw all pictures."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        report = Path(sys.argv[1]) if len(sys.argv) > 1 else make_report(Path(folder))
        browser = playwright.chromium.launch(executable_path=next(filter(None, map(shutil.which, BROWSERS)), None))
        save("report-desktop.png", shot(browser, report, height_px=1100))
        save("report-cell.png", shot(browser, report, "#difference-2-0"))
        save("report-dark.png", shot(browser, report, "#calibration", is_dark=True))
        phone = [shot(browser, report, part, width_px=390, height_px=844) for part in ("", "#confusion", "#errors")]
        save("report-phone.png", side_by_side(phone))
        browser.close()


def make_report(folder: Path) -> Path:
    """A report on drawn eyes by two shipped models, in a store of its own."""
    eyes, report = folder / "drawn-eyes", folder / "report.html"
    run(folder, str(ROOT / "benchmarks" / "draw_labeled_eyes.py"), str(eyes), "--count", str(NUM_EYES))
    run(folder, "-m", "fundusgrade", "preprocess", str(eyes))
    models = ("--model", "efficientnet-lite2", "--model", "aptos-cnn")
    run(folder, "-m", "fundusgrade", "evaluate", *models, "--split", "all", "--images", "3", "--report", str(report))
    return report


def run(home: Path, *words: str) -> None:
    """Run a program of the checkout; fails where it does."""
    environment = {**os.environ, HOME_VARIABLE: str(home / "store"), "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    subprocess.run([sys.executable, *words], check=True, env=environment)


def shot(
    browser: Browser, report: Path, part: str = "", *, width_px: int = 1280, height_px: int = 900, is_dark: bool = False
) -> Image:
    """What a window of this size shows of a report, at the part of this name."""
    page = browser.new_page(
        viewport={"width": width_px, "height": height_px}, color_scheme="dark" if is_dark else "light"
    )
    page.goto(report.absolute().as_uri() + part)
    png = np.frombuffer(page.screenshot(), np.uint8)
    page.close()
    return np.asarray(cv2.cvtColor(cv2.imdecode(png, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), np.uint8)


def side_by_side(images: list[Image]) -> Image:
    """Images of equal height beside each other, with a gray gap between them."""
    gap = np.full((images[0].shape[0], GAP_PX, 3), 160, np.uint8)
    parts = [part for image in images for part in (image, gap)][:-1]
    return np.concatenate(parts, axis=1)


def save(name: str, image: Image) -> None:
    """Write a picture of the documents."""
    write_image(FIGURES / name, image)
    print(f"written: docs/figures/{name}: {(FIGURES / name).stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
