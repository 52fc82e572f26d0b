"""Templates of HTML pages, and the formats of values in them."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from importlib import resources
from typing import TYPE_CHECKING

from fundusgrade.grades import GRADE_LABELS, RESEARCH_USE
from fundusgrade.metrics.estimates import describe_p_value
from fundusgrade.outputs import MARK
from fundusgrade.reports.html.charts import legend
from fundusgrade.reports.html.formats import (
    column_label,
    count,
    data_uri,
    interval,
    number,
    percent,
    rate,
    rate_interval,
    readable_time,
    signed,
)
from fundusgrade.text import printable

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_PACKAGE = "fundusgrade.reports.html"
# Control characters are not allowed in HTML, and those that change the direction of writing can disguise a file name.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


def render(template: str, **values: object) -> str:
    """The page of a template, such as "report.html", with these values.

    Text is escaped; characters that cannot be seen, and bytes of file names that are not UTF-8, become escapes.
    """
    page = environment().get_template(template).render(values)
    return _INVISIBLE.sub(lambda match: f"\\u{ord(match[0]):04x}", printable(page))


@functools.cache
def environment() -> Environment:
    """Jinja2 with the templates beside this module: every value is escaped, and one that is missing is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    jinja = Environment(
        loader=PackageLoader(_PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.globals |= {
        "style": read_asset("style.css"),
        "research_use": RESEARCH_USE,
        "grade_labels": GRADE_LABELS,
        "mark": MARK,
    }
    formats = (
        *(count, csp_hash, data_uri, interval, legend, number, describe_p_value, percent),
        *(column_label, rate, rate_interval, readable_time, signed),
    )
    jinja.filters |= {function.__name__: function for function in formats}
    return jinja


def read_asset(name: str) -> Markup:
    """A style sheet or script of the package, as it stands in a page."""
    from markupsafe import Markup

    return Markup(resources.files(_PACKAGE).joinpath(name).read_text("utf-8"))


def csp_hash(text: str) -> str:
    """What allows exactly this text as the content of a script or style element in a page's content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
