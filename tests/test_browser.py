"""Pages are tested in a browser, and what is wrong with one is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser import open_page, scrolls_sideways, serious_faults

GOOD = '<!doctype html><html lang="en"><title>t</title><main><h1>t</h1><p>text</p></main></html>'


def test_a_good_page_has_no_serious_fault_and_a_bad_one_has(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.html", tmp_path / "bad.html"
    good.write_text(GOOD)
    bad.write_text(GOOD.replace("<p>", '<button></button><p style="width: 3000px">'))
    with open_page(good) as page:
        assert serious_faults(page) == []
        assert not scrolls_sideways(page)
    with open_page(bad) as page:
        assert any(fault.startswith("button-name") for fault in serious_faults(page))
        assert scrolls_sideways(page)


def test_an_error_of_a_script_fails_the_test(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(GOOD.replace("<main>", "<script>nothing.there</script><main>"))
    with pytest.raises(AssertionError, match="nothing is not defined"), open_page(page):
        pass
