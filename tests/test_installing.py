"""Installing as the documents say: extras, the container's recipe, and what a project has beside its code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import fundusgrade

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
INSTALLING = (ROOT / "docs" / "installing.md").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md"))
FILES = (
    *(ROOT / name for name in ("Dockerfile", "Makefile", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md")),
    *TEMPLATES,
)


def test_every_extra_is_explained_and_none_that_does_not_exist() -> None:
    extras = set(PROJECT["project"]["optional-dependencies"])
    table = INSTALLING.partition("| extra |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in table.splitlines()[2:]))) == extras
    for document in (INSTALLING, DOCKERFILE, (ROOT / "README.md").read_text(encoding="utf-8")):
        for named in re.findall(r"(?:fundusgrade|\.)\[([\w,]+)\]'", document):
            assert set(named.split(",")) <= extras, named


def test_the_recipe_copies_what_is_there_and_starts_the_tool() -> None:
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, flags=re.MULTILINE)]
    assert copied
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[0] == "!"}
    assert {name for names in copied for name in names} == let_in
    assert all((ROOT / name).exists() for name in let_in)
    built_from = {"src", *PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"], "pyproject.toml"}
    assert {*built_from, PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]} <= let_in
    [entry] = re.findall(r'^ENTRYPOINT \["(.*)"\]$', DOCKERFILE, flags=re.MULTILINE)
    assert entry in PROJECT["project"]["scripts"]
    for version in re.findall(r"^FROM python:(\d+)\.(\d+)-slim", DOCKERFILE, flags=re.MULTILINE):
        assert f"Programming Language :: Python :: {'.'.join(version)}" in PROJECT["project"]["classifiers"]


def test_the_citation_is_of_this_version_and_names_nobody_and_nothing_that_does_not_exist() -> None:
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == fundusgrade.__version__
    assert citation["license"] == PROJECT["project"]["license"]
    assert not {"doi", "url", "repository-code", "identifiers"} & set(citation)
    assert [set(author) for author in citation["authors"]] == [{"name"}]
    assert not {"urls", "authors", "maintainers"} & set(PROJECT["project"])


def test_no_address_is_named_where_packages_come_from() -> None:
    for file in (*FILES, ROOT / "docs" / "installing.md", ROOT / "pyproject.toml"):
        assert "://" not in file.read_text(encoding="utf-8"), file


def test_every_template_says_what_never_to_attach() -> None:
    assert len(TEMPLATES) == 3
    for template in TEMPLATES:
        text = template.read_text(encoding="utf-8")
        assert re.match(r"---\nname: .+\nabout: .+\n---\n", text), template
        assert "patient" in text, template


def test_a_source_distribution_has_all_of_it() -> None:
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert [name for name in included if not (ROOT / name).exists()] == []
    others = {
        "CITATION.cff",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "LICENSE",
        "Dockerfile",
        "docs",
        "tests",
    }
    assert others <= set(included)
