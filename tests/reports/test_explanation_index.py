"""The index page of explanations is the page to review on: with heat maps, links to figures, and failures."""

from __future__ import annotations

import re
from pathlib import Path

from fundusgrade.explanation.explainer import explain_photograph
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.grading.grader import Grader
from fundusgrade.grading.patients import PatientRequest
from fundusgrade.networks.checkpoint import load_checkpoint
from fundusgrade.networks.torch_runtime import on_pytorch
from fundusgrade.options import Attribution
from fundusgrade.photographs.sources import PhotographSource
from fundusgrade.reports.explanation_index import (
    IndexEntry,
    explained_entry,
    failed_entry,
    map_pictures,
    write_index,
)
from tests.browser import open_page
from tests.models_for_tests import install_model, save_photographs
from tests.white_spots import CPU

FIGURE = "a b/<eye> #1-explained.jpg"
GRAD_CAM = ExplainOptions(method=Attribution.GRAD_CAM)


def test_maps_are_shown_on_demand_beside_links_to_figures_and_reasons(tmp_path: Path) -> None:
    grader = Grader(on_pytorch(load_checkpoint(install_model()), CPU))
    [path] = save_photographs(tmp_path, [1])
    path = path.rename(tmp_path / "1_left.png")
    explained = explain_photograph(path, [grader], [GRAD_CAM])
    pictures = map_pictures(explained)
    assert [picture.label for picture in pictures] == ["", "Grad-CAM, tiny"]
    assert pictures[0].image != pictures[1].image
    (tmp_path / "1_right.png").write_bytes(b"")
    entries = [
        explained_entry(
            "1_left.png",
            "a b/<eye> #1-explained.jpg",
            [explained[0][0].prediction],
            ["line", "1_left.png: gap"],
            pictures,
        ),
        failed_entry(PhotographSource.of(tmp_path / "1_right.png"), [grader], "1_right.png: <empty>"),
    ]
    page, request = tmp_path / "index.html", PatientRequest(path=None, pattern="(?P<patient>.*)_(?P<eye>left|right)")
    write_index(page, entries, command="fundusgrade explain 'a b'", notes=["a note"], patients=request)
    text = page.read_text(encoding="utf-8")
    assert "explained: 1; not explained: 1" in text and "a note" in text and "fundusgrade explain &#39;a b&#39;" in text
    assert text.count("Research software, not a medical device.") == 1
    with open_page(page) as opened:
        assert opened.locator(".patient").inner_text() == "Patient 1"
        assert "This file cannot be read" in opened.locator(".right").inner_text()
        assert "Not graded: 1_right.png: <empty>" in opened.locator(".right").inner_text()
        assert opened.locator(".left .figure a").get_attribute("href") == "a b/<eye> %231-explained.jpg"
        opened.keyboard.press("ArrowRight")
        opened.keyboard.press("h")
        assert opened.locator(".map-label:visible").inner_text() == "Grad-CAM, tiny"


def test_links_are_paths_and_no_schemes() -> None:
    assert IndexEntry(name="", figure="javascript:1.jpg").link == "javascript%3A1.jpg"


def test_the_page_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    grader = Grader(on_pytorch(load_checkpoint(install_model()), CPU))
    page = tmp_path / "index.html"
    write_index(page, [failed_entry(PhotographSource.of(tmp_path / "none.png"), [grader], "none")], command="c")
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"https?:|url\(|@import|<link|src=", text.replace("http-equiv", ""))
