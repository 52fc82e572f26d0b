"""Build the documentation site, strictly and without network: python docs/programs/build_site.py

Zensical reports links to pages and headings that do not exist; `problems` finds what it does not look at: pictures and
other files that are missing, pages that the navigation lacks, lists that became paragraphs, and what a page would load
from elsewhere.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = "mkdocs.yml"
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/**/*.md", "weights/**/*.md")
FILES = (
    *("LICENSE", "CITATION.cff", "Dockerfile", "docs/notebook.ipynb", "docs/site/*", "docs/figures/*"),
    *("docs/results/*", "docs/samples/**/*.jpg", "docs/samples/**/*.png", "weights/**/*.png"),
)
ITEM = re.compile(r"(?:[-*]|\d+\.) ")
MARKUP = re.compile(r"^(?:[-*|] |\d+\. |```|#+ ).*", flags=re.MULTILINE)
"""Lines that hosts of code show as a list, a table, code or a heading, though the builder left them in a paragraph."""
LOADED = {"img": "src", "script": "src", "source": "src", "iframe": "src", "link": "href"}


def main() -> None:
    """Build the site of the checkout, and end with 1 where something is wrong with it."""
    found = [*navigation_problems(ROOT), *build(ROOT)]
    for each in found:
        print(each, file=sys.stderr)
    if found:
        sys.exit(f"{len(found)} problems: the site is not as it should be")
    print(f"written: {ROOT / 'site' / 'index.html'}")


def build(project: Path) -> list[str]:
    """Build the site of a folder that has the configuration; returns what is wrong with it, by page."""
    configuration = settings(project)
    gather(project / configuration["docs_dir"])
    site = project / configuration["site_dir"]
    shutil.rmtree(site, ignore_errors=True)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        return (done.stdout + done.stderr).splitlines()
    return problems(site)


def settings(project: Path) -> dict[str, Any]:
    """The configuration of the site."""
    return dict(yaml.safe_load((project / CONFIGURATION).read_text(encoding="utf-8")))


def gather(folder: Path) -> None:
    """Copy what the site shows to a folder, at the same relative paths: links lead where they do in the checkout."""
    shutil.rmtree(folder, ignore_errors=True)
    for path in gathered(*PAGES, *FILES):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            target.write_text(separated((ROOT / path).read_text(encoding="utf-8")), encoding="utf-8")
        else:
            shutil.copyfile(ROOT / path, target)


def separated(text: str) -> str:
    """Markdown with an empty line before lists and tables: the builder of the site needs it, hosts of code do not."""
    lines: list[str] = []
    is_code = in_list = False
    for line in text.splitlines():
        before = lines[-1] if lines else ""
        is_item = bool(ITEM.match(line)) and not is_code
        begins_table = line.startswith("|") and not is_code and not before.startswith("|")
        if before and (begins_table or (is_item and not in_list)):
            lines.append("")
        in_list = is_item or (in_list and (line.startswith(" ") or not line))
        is_code ^= line.lstrip().startswith("```")
        lines.append(line)
    return "\n".join([*lines, ""])


def gathered(*patterns: str) -> list[Path]:
    """The files of the checkout that match, relative to it."""
    return sorted({path.relative_to(ROOT) for each in patterns for path in ROOT.glob(each) if path.is_file()})


def navigation_problems(project: Path) -> list[str]:
    """Pages that the navigation lacks, names twice, or names though they do not exist."""
    listed = list(entries(settings(project)["nav"]))
    pages = {path.as_posix() for path in gathered(*PAGES)}
    lacking = [f"{CONFIGURATION}: the navigation lacks {page}" for page in sorted(pages - set(listed))]
    missing = [f"{CONFIGURATION}: {page} does not exist" for page in listed if page not in pages]
    twice = {page for page in listed if listed.count(page) > 1}
    return lacking + missing + [f"{CONFIGURATION}: {page} is listed more than once" for page in sorted(twice)]


def entries(navigation: Any) -> Iterator[str]:
    """The pages of a navigation, with those of its sections."""
    if isinstance(navigation, str):
        yield navigation
    for each in navigation.values() if isinstance(navigation, dict) else navigation:
        if not isinstance(navigation, str):
            yield from entries(each)


class Page(HTMLParser):
    """The anchors, the links and the loaded files of a page, and the markup that was left in its paragraphs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.unrendered: list[str] = []
        self.paragraph: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "p":
            self.paragraph = ""
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if values.get(LOADED.get(tag, "")) and values.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(values[LOADED[tag]])

    def handle_data(self, data: str) -> None:
        if self.paragraph is not None:
            self.paragraph += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "p" and self.paragraph is not None:
            self.unrendered += MARKUP.findall(self.paragraph)
            self.paragraph = None


def problems(site: Path) -> list[str]:
    """What is wrong with the pages of a site: what leads nowhere, and what is loaded from elsewhere."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve()).as_posix()
        for link in [*page.links, *page.loaded]:
            problem = fault(site.resolve(), path, link, pages, loaded=link in page.loaded)
            found += [f"{name}: {link}: {problem}"] if problem else []
        found += [f"{name}: {line[:60]}: needs an empty line before it" for line in page.unrendered]
    return found


def fault(site: Path, path: Path, link: str, pages: dict[Path, Page], *, loaded: bool) -> str | None:
    """What is wrong with a link of a page, or None."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return "would be loaded from elsewhere" if loaded and parts.scheme != "data" else None
    place = unquote(parts.path)
    target = (site / place.lstrip("/") if place.startswith("/") else path.parent / place).resolve() if place else path
    if not target.is_relative_to(site) or not target.is_file():
        return "there is no such file in the site"
    anchor = unquote(parts.fragment)
    if anchor and target in pages and anchor not in pages[target].anchors:
        return "there is no such heading"
    return None


if __name__ == "__main__":
    main()
