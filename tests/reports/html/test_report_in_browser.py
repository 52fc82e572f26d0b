"""The report in a browser, opened from disk: contents stay, cells list their photographs, axe finds no fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from fundusgrade.reports.html.page import report_html
from tests.browser import open_page, scrolls_sideways, serious_faults
from tests.reports.html.drawn_report import sets
from tests.reports.html.test_summary import assessed, with_cells


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    predictions = sets()
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(report_html(assessed(predictions), with_cells(predictions)), encoding="utf-8")
    return file


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_no_serious_fault_of_accessibility_and_no_scrolling_sideways(report: Path, width: int, dark: bool) -> None:
    with open_page(report, width=width, dark=dark) as page:
        assert not scrolls_sideways(page)
        assert serious_faults(page) == []
        page.locator(".matrix a").first.click()
        assert serious_faults(page) == [], "with the list of a cell open"
        assert not scrolls_sideways(page)


@pytest.mark.parametrize("width", [1280, 390])
def test_contents_stay_in_view_while_the_page_is_read(report: Path, width: int) -> None:
    with open_page(report, width=width) as page:
        page.get_by_role("navigation").get_by_role("link", name="Calibration").click()
        heading, contents = page.locator("#calibration-title").bounding_box(), page.locator("nav").bounding_box()
        assert heading is not None and contents is not None
        assert page.evaluate("scrollY") > 1000
        assert -1 <= contents["y"] <= 1, "at the upper edge of the window"
        assert 0 <= heading["y"] < 300
        is_beside = contents["x"] + contents["width"] <= heading["x"]
        assert is_beside or contents["y"] + contents["height"] <= heading["y"], "contents do not cover the heading"


def test_a_click_on_a_cell_lists_its_photographs_and_the_page_stays_where_it_is(report: Path) -> None:
    with open_page(report) as page:
        page.locator("#confusion").scroll_into_view_if_needed()
        before = page.evaluate("scrollY")
        count = page.locator("#confusion .matrix a").first
        number, target = count.inner_text().split()[0], (count.get_attribute("href") or "").removeprefix("#")
        count.click()
        drawer = page.locator(f"#{target}")
        assert drawer.is_visible()
        assert drawer.locator("li").count() == int(number)
        assert drawer.locator("li").first.is_visible()
        assert page.evaluate("scrollY") == before
        drawer.get_by_role("link", name="Close").click()
        assert drawer.is_hidden() and page.evaluate("scrollY") == before


def test_on_a_phone_a_wide_table_says_that_it_scrolls(report: Path) -> None:
    with open_page(report, width=390) as page:
        table = page.locator(".scroll:has(table.overview)")
        assert table.evaluate("box => box.scrollWidth > box.clientWidth")
        assert table.locator(".scroll-hint").is_visible()
    with open_page(report) as page:
        table = page.locator(".scroll:has(table.overview)")
        assert table.evaluate("box => box.scrollWidth <= box.clientWidth"), "all columns in view"
        assert table.locator(".scroll-hint").is_hidden()
