"""HTML in pieces: text is escaped by itself, what is markup already says so by its type."""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Iterable, Sequence

from fundusgrade.metrics.bootstrap import Estimate
from fundusgrade.text import printable

UNDEFINED = "undefined"
# Control characters are not allowed in HTML, and those that turn the direction of writing hide what a name is.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


class Html(str):
    """Markup that is ready to stand in a page; any other text is escaped where it is put in."""

    __slots__ = ()


def escaped(text: str) -> Html:
    """Text as markup; bytes that no text has, and characters that cannot be seen, become escapes."""
    if isinstance(text, Html):
        return text
    visible = _INVISIBLE.sub(lambda found: f"\\u{ord(found[0]):04x}", printable(text))
    return Html(html.escape(visible, quote=True))


def joined(pieces: Iterable[str], between: str = "") -> Html:
    """Pieces one after the other."""
    return Html(between.join(escaped(piece) for piece in pieces))


def element(tag: str, *children: str, **attributes: str | None) -> Html:
    """An element; `class_` becomes class, `aria_label` aria-label, and None leaves an attribute out."""
    named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    start = "".join(f' {name}="{escaped(value)}"' for name, value in named.items())
    return Html(f"<{tag}{start}>{joined(children)}</{tag}>")


def paragraph(*children: str, class_: str | None = None) -> Html:
    """A paragraph."""
    return element("p", *children, class_=class_)


def bullets(items: Iterable[str], class_: str | None = None) -> Html:
    """A list."""
    return element("ul", *(element("li", item) for item in items), class_=class_)


def link(target: str, text: str) -> Html:
    """A link to a place in the page."""
    return element("a", text, href=f"#{target}")


def section(name: str, title: str, *children: str) -> Html:
    """A part of the page that the table of contents leads to."""
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, *children, id=name, aria_labelledby=f"{name}-title")


def folded(summary: str, *children: str) -> Html:
    """A long part that opens when asked; print shows it as it is on the screen."""
    return element("details", element("summary", summary), *children)


def image(data: bytes, description: str, kind: str = "jpeg") -> Html:
    """A picture that is part of the page."""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Html(f'<img src="{source}" alt="{escaped(description)}">')


def figure(panels: Sequence[str], caption: str, key: str = "") -> Html:
    """Panels side by side where there is room, what their lines mean, and what they show in words."""
    return element(
        "figure", element("div", *panels, class_="panels"), escaped(key), element("figcaption", caption), class_="chart"
    )


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, class_: str | None = None, words: bool = False
) -> Html:
    """A table whose first column names the rows; the others are numbers, or words.

    It scrolls inside a frame of its own that the keyboard reaches, so that the page never does.
    """
    first, *others = head
    columns = [element("th", first, scope="col"), *(element("th", name, scope="col") for name in others)]
    body = [
        element("tr", element("th", row[0], scope="row"), *(_cell(cell, words) for cell in row[1:])) for row in rows
    ]
    kind = " ".join(filter(None, ("words" if words else "numbers", class_)))
    whole = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *columns)),
        element("tbody", *body),
        class_=kind,
    )
    return element("div", whole, class_="scroll", role="region", tabindex="0", aria_label=caption)


def _cell(content: str, words: bool) -> Html:
    return content if isinstance(content, Html) and content.startswith("<td") else element("td", content)


def number(value: float | None, digits: int = 3) -> str:
    """A score, with a true minus sign; "undefined" for None and NaN."""
    return UNDEFINED if value is None or math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def percent(value: float | None, digits: int = 0) -> str:
    """A share as a percentage; "undefined" for None and NaN."""
    return UNDEFINED if value is None or math.isnan(value) else f"{100 * value:.{digits}f} %"


def count(value: int | None) -> str:
    """A whole number with separators; "not known" for None."""
    return "not known" if value is None else f"{value:,}"


def interval(of: Estimate, digits: int = 3) -> str:
    """The interval in words, without the score."""
    if of.low is None or of.high is None:
        return "interval undefined"
    return f"{number(of.low, digits)} to {number(of.high, digits)}"


def in_words(of: Estimate, digits: int = 2) -> str:
    """A score and its interval in a sentence."""
    if of.value is None:
        return UNDEFINED
    return f"{number(of.value, digits)} (95 % interval {interval(of, digits)})"


def estimate(of: Estimate, digits: int = 3) -> Html:
    """A score with its interval below, for a cell."""
    if of.value is None:
        return escaped(UNDEFINED)
    return joined([number(of.value, digits), element("span", interval(of, digits), class_="range")], " ")
