"""The documentation site: it builds without a fault, and each fault that a site can have is found."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.browser import open_page, scrolls_sideways, serious_faults

ROOT = Path(__file__).parents[1]
PROGRAM: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "programs" / "build_site.py"))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site of two pages without a fault."""
    (tmp_path / "guides").mkdir()
    (tmp_path / "eye.jpg").touch()
    (tmp_path / "index.html").write_text(
        '<h1 id="start">Start</h1><a href="guides/training.html#data">data</a><img src="eye.jpg">'
        '<a href="https://example.org/x">elsewhere</a><a href="#start">up</a>',
        encoding="utf-8",
    )
    (tmp_path / "guides" / "training.html").write_text(
        '<h2 id="data">Data</h2><a href="../index.html">start</a>', encoding="utf-8"
    )
    return tmp_path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of this checkout, built without a fault."""
    pytest.importorskip("zensical")
    project = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "mkdocs.yml", project)
    assert PROGRAM["build"](project) == []
    return project / "site"


def test_the_site_builds_strictly_and_every_link_in_it_leads_somewhere(built: Path) -> None:
    assert (built / "index.html").is_file() and (built / "docs" / "guides" / "training.html").is_file()
    assert "<h1" in (built / "docs" / "commands.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)], ids=["desktop-light", "phone-dark"])
@pytest.mark.parametrize("name", ["index.html", "docs/guides/training.html"])
def test_a_page_of_the_site_opens_from_disk_without_a_serious_fault(
    built: Path, name: str, width: int, dark: bool
) -> None:
    with open_page(built / name, width=width, dark=dark) as page:
        assert serious_faults(page) == []
        assert not scrolls_sideways(page)


def test_the_site_is_searched_from_disk(built: Path) -> None:
    with open_page(built / "docs" / "limits.html") as page:
        page.keyboard.press("Control+k")
        page.wait_for_function("document.activeElement.tagName === 'DIV'")  # the box of the search, closed to scripts
        page.keyboard.type("operating point", delay=50)
        for _ in range(100):
            page.keyboard.press("Enter")  # opens the first result, as soon as there is one
            page.wait_for_timeout(200)
            if "limits.html" not in page.url:
                break
        assert "h=operating+point" in page.url, page.url


def test_the_builder_refuses_a_link_to_a_page_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("zensical")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    gather = PROGRAM["gather"]

    def gather_with_a_fault(folder: Path) -> None:
        gather(folder)
        (folder / "SECURITY.md").write_text("# Security\n[nowhere](docs/nowhere.md)\n", encoding="utf-8")

    monkeypatch.setitem(PROGRAM["build"].__globals__, "gather", gather_with_a_fault)
    assert any("SECURITY.md" in line for line in PROGRAM["build"](tmp_path))


def test_the_navigation_has_every_page_once() -> None:
    assert PROGRAM["navigation_problems"](ROOT) == []


def test_a_page_that_the_navigation_lacks_and_one_that_is_not_there_are_found(tmp_path: Path) -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    (tmp_path / "mkdocs.yml").write_text(text.replace("docs/results.md", "docs/nowhere.md"), encoding="utf-8")
    assert PROGRAM["navigation_problems"](tmp_path) == [
        "mkdocs.yml: the navigation lacks docs/results.md",
        "mkdocs.yml: docs/nowhere.md does not exist",
    ]


def test_an_empty_line_goes_before_a_list_and_a_table_but_not_into_it_nor_into_code() -> None:
    text = "Grades:\n- none\n  at all\n- mild\n\n```\nNo list:\n- code\n```\n"
    assert PROGRAM["separated"](text) == text.replace("Grades:\n", "Grades:\n\n")
    assert PROGRAM["separated"]("Of 3:\n| a |\n|---|\n| b |\n") == "Of 3:\n\n| a |\n|---|\n| b |\n"
    assert PROGRAM["separated"]("Of 3.\n1. first\n2. second\n") == "Of 3.\n\n1. first\n2. second\n"


def test_a_site_without_a_fault_has_no_problems(site: Path) -> None:
    assert PROGRAM["problems"](site) == []


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ('<a href="nowhere.html">x</a>', "nowhere.html: there is no such file in the site"),
        ('<img src="nowhere.png">', "nowhere.png: there is no such file in the site"),
        ('<a href="../outside.html">x</a>', "../outside.html: there is no such file in the site"),
        ('<a href="guides/training.html#nowhere">x</a>', "guides/training.html#nowhere: there is no such heading"),
        ('<a href="#nowhere">x</a>', "#nowhere: there is no such heading"),
        (
            '<script src="https://example.org/x.js"></script>',
            "https://example.org/x.js: would be loaded from elsewhere",
        ),
        ('<link rel="stylesheet" href="//example.org/x.css">', "//example.org/x.css: would be loaded from elsewhere"),
        ("<p>Grades:\n- none</p>", "- none: needs an empty line before it"),
        ('<img src="https://example.org/x.png">', "https://example.org/x.png: would be loaded from elsewhere"),
    ],
)
def test_a_fault_is_found(site: Path, fault: str, problem: str) -> None:
    with (site / "index.html").open("a", encoding="utf-8") as file:
        file.write(fault)
    assert PROGRAM["problems"](site) == [f"index.html: {problem}"]
