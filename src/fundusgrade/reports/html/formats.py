"""Formats of numbers, times and images in a page."""

from __future__ import annotations

import base64
import math
from datetime import datetime

from fundusgrade.metrics.estimates import Estimate, describe_number

_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def number(value: float | None, digits: int = 3) -> str:
    """A number with a true minus sign; "undefined" for None and NaN."""
    return describe_number(value, digits).replace("-", "−")


def signed(value: int) -> str:
    """A whole number with its sign: "+3", "−2", "0"."""
    return f"{value:+,}".replace("-", "−") if value else "0"


def percent(value: float | None, digits: int = 0) -> str:
    """A fraction as a percentage with a no-break space; "undefined" for None and NaN."""
    return "undefined" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def rate(value: float | None) -> str:
    """A fraction in whole percent, with a decimal above 99 and below 1: only one that is 1 is written as 100."""
    if value is None or math.isnan(value):
        return percent(value)
    if 0.9995 <= value < 1:
        return ">\N{NO-BREAK SPACE}99.9\N{NO-BREAK SPACE}%"
    if 0 < value < 0.0005:
        return "<\N{NO-BREAK SPACE}0.1\N{NO-BREAK SPACE}%"
    return percent(value, 1 if 0 < value < 0.01 or 0.99 < value < 1 else 0)


def rate_interval(estimate: Estimate) -> str:
    """The 95 % confidence interval of a fraction in percent: "86 to 95"; where there is none, that and the reason."""
    if estimate.low is None or estimate.high is None:
        return interval(estimate)
    return " to ".join(rate(bound).removesuffix("\N{NO-BREAK SPACE}%") for bound in (estimate.low, estimate.high))


def count(value: int) -> str:
    """A whole number with thousands separators."""
    return f"{value:,}"


def interval(estimate: Estimate, digits: int = 3) -> str:
    """The 95 % confidence interval of a score, without the score; where there is none, that and the reason."""
    return estimate.describe_interval(digits).replace("-", "−")


def readable_time(created: str) -> str:
    """A time of ISO 8601 as people write it: "26 November 2026, 14:05 UTC"; any other text as it is."""
    try:
        time = datetime.fromisoformat(created)
    except ValueError:
        return created
    day = f"{time.day} {_MONTHS[time.month - 1]} {time.year}"
    return day if len(created) <= len("2026-11-26") else f"{day}, {time:%H:%M} {time.tzname() or ''}".rstrip()


def column_label(column: str) -> str:
    """A column of the manifest by which photographs are divided, for people."""
    return {"origin": "data set", "acquisition": "cluster of acquisition"}.get(column, column)


def data_uri(image: bytes) -> str:
    """A JPEG or PNG as a URI that holds the image itself."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
