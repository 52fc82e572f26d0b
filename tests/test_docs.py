"""What the documents say exists: files, links, commands, options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from fundusgrade.commands.app import app
from fundusgrade.grades import RESEARCH_USE

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("weights/**/*.md")]
)
README = (ROOT / "README.md").read_text(encoding="utf-8")


def command_lines(text: str) -> list[list[str]]:
    """The words of every `fundusgrade ...` line in the shell blocks of a document."""
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("fundusgrade ")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_is_understood(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in command_lines(document.read_text(encoding="utf-8")):
        if words[0].startswith("--"):
            continue
        if "--config" in words:
            (tmp_path / words[words.index("--config") + 1]).touch()  # it is read as the options are
        command: Any = typer.main.get_command(app)
        while words and hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        command.make_context(command.name, words, resilient_parsing=False)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", document.read_text(encoding="utf-8"))
    for link, heading in links:
        target = document.parent / link if link else document
        assert link.startswith("http") or target.exists(), f"{document.name}: {link}"
        if heading and target.suffix == ".md":
            assert heading in anchors(target), f"{document.name}: {link}#{heading}"


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings as hosts of code make them; the site's builder makes its own."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_the_readme_lists_every_package_and_nothing_that_is_not_there() -> None:
    block = README.partition("## Files\n```\n")[2].partition("```")[0]
    listed = re.findall(r"^  (\w+)/", block, flags=re.MULTILINE)
    source = ROOT / "src" / "fundusgrade"
    assert sorted(listed) == sorted(path.parent.name for path in source.glob("*/__init__.py"))
    others = re.findall(r"^([\w.][\w./]*)", block, flags=re.MULTILINE)
    assert "src/fundusgrade/" in others
    assert [path for path in others if not (ROOT / path).exists()] == []


def test_the_readme_says_once_that_this_is_no_medical_device() -> None:
    assert README.count(RESEARCH_USE.rstrip(".")) == 1


def test_the_figures_of_the_readme_are_those_of_the_results() -> None:
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    table = README.partition("| the shipped model")[2].partition("\n\n")[0]
    figures = re.findall(r"\d\.\d{3} \(\d\.\d{3}-\d\.\d{3}\)", table)
    assert len(figures) == 8
    assert [figure for figure in figures if figure not in results] == []


def test_no_document_names_a_place_on_a_machine() -> None:
    for document in DOCUMENTS:
        assert not re.search(r"(?<![\w.])/(work|home|root|tmp)/", document.read_text(encoding="utf-8")), document
