"""How fast a page of results opens and filters in a headless browser.

    python benchmarks/review_page.py [--photographs 5000] [--repeats 5]

The page is of drawn eyes and made-up results, two photographs for each patient. Printed are medians and ranges of the
time from the request until the first rows are drawn, and of the time that each filter, order and answer takes until the
browser has drawn again. Needs Playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fundusgrade.reports.review_entries import ReviewSample
from fundusgrade.reports.review_page import write_review_page
from tests.browser import open_page
from tests.reports.drawn_reviews import content, patients

if TYPE_CHECKING:
    from playwright.sync_api import Page

# Each runs in the page and resolves when the change has been drawn.
_DRAWN = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
ACTIONS = {
    "filter by a flag": "choose('flag', 'flagged')",
    "all again": "choose('flag', '')",
    "filter near the threshold": "choose('near', '0.05')",
    "all once more": "choose('near', '')",
    "order by score": "choose('order', 'score')",
    "order by name": "choose('order', 'name')",
    "as graded": "choose('order', 'given')",
    "search": "type('12')",
    "search ended": "type('')",
    "an answer, and the next photograph": "grade('2')",
}
_HELPERS = """
window.choose = (id, value) => { document.getElementById(id).value = value; changed(); };
window.type = (text) => { document.getElementById('search').value = text; changed(); };
window.changed = () => document.getElementById('tools').dispatchEvent(new Event('input', { bubbles: true }));
kept.reader = 'benchmark';
"""


def main() -> None:
    """Measure, and print a table."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "grades.html")
        shown = content(patients(options.photographs // 2), sample=ReviewSample(share=0.1, seed=0))
        start = time.perf_counter()
        written = write_review_page(path, shown)
        print(f"{options.photographs} photographs: {written.num_bytes / 1e6:.1f} MB, {written.pictures or 'one file'}")
        print(f"written in {time.perf_counter() - start:.2f} s")
        with open_page(path) as page:
            print(_line("open", [_opening_seconds(page) for _ in range(options.repeats)]))
            page.evaluate(_HELPERS)
            for name, action in ACTIONS.items():
                print(_line(name, [_action_seconds(page, action) for _ in range(options.repeats)]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def _opening_seconds(page: Page) -> float:
    start = time.perf_counter()
    page.reload(wait_until="load")
    page.wait_for_selector("article .picture img")
    page.evaluate(_DRAWN)
    return time.perf_counter() - start


def _action_seconds(page: Page, action: str) -> float:
    milliseconds = page.evaluate(
        f"async () => {{ const start = performance.now(); {action}; await {_DRAWN}; "
        "return performance.now() - start; }"
    )
    return float(milliseconds) / 1000


def _line(name: str, seconds: list[float]) -> str:
    milliseconds = [1000 * each for each in seconds]
    return f"{name:36} {statistics.median(milliseconds):6.0f} ms ({min(milliseconds):.0f} to {max(milliseconds):.0f})"


if __name__ == "__main__":
    main()
