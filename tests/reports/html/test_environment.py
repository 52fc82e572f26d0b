"""Text never becomes markup by itself, whatever template writes it."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

import pytest
from jinja2 import ChoiceLoader, DictLoader, UndefinedError

from fundusgrade.grades import RESEARCH_USE
from fundusgrade.reports.html.environment import environment, render

TEMPLATES = {
    "escaping.html": """{% extends "base.html" %}
{% from "macros.html" import estimate, figure, folded, row, table %}
{% block main %}
<p title="{{ text }}">{{ text }}</p>
{% call table(text, [text]) %}{{ row(text, [text, "<" ~ text]) }}{% endcall %}
{% call figure([text], [text, text]) %}{{ text }}{% endcall %}
{% call folded(text) %}{{ text }}{% endcall %}
{% endblock %}""",
    "undefined.html": "{{ forgotten }}",
}


@pytest.fixture(autouse=True)
def templates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The templates above beside those of the package."""
    loader = environment().loader
    assert loader is not None
    monkeypatch.setattr(environment(), "loader", ChoiceLoader([DictLoader(TEMPLATES), loader]))


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "a & b", '" onload="x', "<td>7</td>"])
def test_text_is_escaped_in_every_place(text: str) -> None:
    page = render("escaping.html", title=text, text=text)
    assert text not in page
    assert "<script" not in page and 'onload="' not in page


def test_what_cannot_be_seen_is_shown() -> None:
    page = render("escaping.html", title="eye\u202egnp.exe", text="a\x00b\x1bc")
    assert "<h1>eye\\u202egnp.exe</h1>" in page and "<summary>a\\u0000b\\u001bc</summary>" in page
    undecodable = render("escaping.html", title=os.fsdecode(b"caf\xe9.png"), text="")
    assert "caf\\udce9.png" in undecodable and undecodable.encode("utf-8"), "names of files need not be UTF-8"


def test_a_value_that_a_template_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="forgotten"):
        render("undefined.html")


def test_every_page_carries_its_style_and_the_notice_and_may_load_only_images() -> None:
    page = render("escaping.html", title="", text="")
    assert resources.files("fundusgrade.reports.html").joinpath("style.css").read_text("utf-8") in page
    assert f'<p class="meta">{RESEARCH_USE}</p>' in page
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:\"" in page


def test_tables_name_their_columns_and_rows_and_can_be_reached_by_keyboard() -> None:
    page = render("escaping.html", title="", text="x")
    assert page.count('scope="col"') == 1 and page.count('scope="row"') == 1
    assert 'role="region" tabindex="0" aria-label="x"' in page
    assert "<td>x</td><td>&lt;x</td>" in page


def test_no_template_switches_escaping_off() -> None:
    folder = Path(str(resources.files("fundusgrade.reports.html").joinpath("templates")))
    for path in folder.rglob("*.html"):
        text = path.read_text("utf-8")
        assert "|safe" not in text.replace(" ", "") and "autoescape" not in text, path.name
