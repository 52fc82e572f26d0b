"""Pages opened in a headless Chromium, as a user opens them from disk; tests are skipped where there is no browser."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SERIOUS = ("serious", "critical")
"""Impacts of faults by axe that no page may have."""


@contextlib.contextmanager
def open_page(
    file: Path,
    *,
    width: int = 1280,
    height: int = 900,
    dark: bool = False,
    reduced_motion: bool = True,
    profile: Path | None = None,
) -> Iterator[Page]:
    """Open an HTML file from disk in a window of this size, offline. Fails at the end where its script raised an error.

    With `profile`, a folder, the browser keeps what pages store there, so that a page can be opened again.
    """
    pytest.importorskip("playwright", reason="Playwright is not installed; install fundusgrade[dev]")
    from playwright.sync_api import sync_playwright

    errors: list[str] = []
    with sync_playwright() as playwright, contextlib.ExitStack() as stack:
        options = {
            "viewport": {"width": width, "height": height},
            "color_scheme": "dark" if dark else "light",
            "reduced_motion": "reduce" if reduced_motion else "no-preference",
            "offline": True,
            "accept_downloads": True,
        }
        start = {"executable_path": _browser(), "args": ["--no-sandbox"]}
        if profile is None:
            browser = playwright.chromium.launch(**start)
            stack.callback(browser.close)
            context = browser.new_context(**options)
        else:
            context = playwright.chromium.launch_persistent_context(profile, **start, **options)
        stack.callback(context.close)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        page.goto(file.absolute().as_uri())
        yield page
    assert not errors, errors


def serious_faults(page: Page) -> list[str]:
    """The serious and critical faults of accessibility that axe finds: the rule, and the element."""
    pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    from axe_playwright_python.sync_playwright import Axe

    # Without preloading, which reads style sheets over a protocol that browsers refuse to pages opened from disk.
    found = Axe().run(page, options={"preload": False}).response["violations"]
    return [
        f"{fault['id']}: {node['html'][:200]} ({node['failureSummary'][:300]})"
        for fault in found
        if fault["impact"] in SERIOUS
        for node in fault["nodes"]
    ]


def scrolls_sideways(page: Page) -> bool:
    """Whether the page is wider than its window, so that a reader would have to scroll."""
    return bool(page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))


def _browser() -> str:
    """The path of a browser; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)}")
    return found
