"""Text never becomes markup by itself, and numbers are written one way."""

from __future__ import annotations

import math

import pytest

from fundusgrade.metrics.bootstrap import UNDEFINED, Estimate
from fundusgrade.reports.html.markup import (
    Html,
    count,
    element,
    escaped,
    estimate,
    folded,
    interval,
    joined,
    number,
    percent,
    table,
)


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "a & b", '" onload="x', "<td>7</td>"])
def test_text_is_escaped_in_every_place(text: str) -> None:
    for page in (
        element("p", text),
        element("p", title=text),
        joined([text]),
        folded(text, text),
        table(text, [text], [[text, text]]),
    ):
        assert text not in page
        assert "<script" not in page and 'onload="' not in page


def test_markup_is_not_escaped_again() -> None:
    inner = element("b", "1 < 2")
    assert element("p", inner, " & so on") == "<p><b>1 &lt; 2</b> &amp; so on</p>"
    assert escaped(inner) is inner


def test_what_cannot_be_seen_is_shown() -> None:
    assert escaped("eye\u202egnp.exe") == "eye\\u202egnp.exe"
    assert escaped("a\x00b\x1bc") == "a\\u0000b\\u001bc"
    assert escaped("caf\udce9.png").encode("utf-8"), "names of files need not be UTF-8"


def test_attributes_keep_their_names_and_may_be_left_out() -> None:
    assert element("i", class_="range", aria_label=None, tabindex="0") == '<i class="range" tabindex="0"></i>'


def test_numbers() -> None:
    assert [number(-0.5), number(None), number(math.nan), number(1, 0)] == ["−0.500", "undefined", "undefined", "1"]
    assert [percent(0.125, 1), percent(None), count(12345), count(None)] == [
        "12.5 %",
        "undefined",
        "12,345",
        "not known",
    ]


def test_estimates_say_when_there_is_no_interval() -> None:
    assert interval(Estimate(value=0.5, low=0.25, high=0.75), 2) == "0.25 to 0.75"
    assert interval(Estimate(value=0.5, low=None, high=None)) == "interval undefined"
    assert estimate(UNDEFINED) == "undefined"


def test_tables_name_their_columns_and_rows_and_can_be_reached_by_keyboard() -> None:
    page = table("Scores", ["score", "A"], [["kappa", Html("<td>0.9</td>")], ["F1", "0.5"]])
    assert page.count('scope="col"') == 2 and page.count('scope="row"') == 2
    assert 'role="region" tabindex="0" aria-label="Scores"' in page
    assert "<td>0.9</td>" in page and "<td>0.5</td>" in page, "a cell that is one already is not put into another"
