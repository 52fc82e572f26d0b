"""Formats of numbers and images in a page."""

from __future__ import annotations

import base64
import math

from fundusgrade.metrics.estimates import Estimate, describe_number


def number(value: float | None, digits: int = 3) -> str:
    """A number with a true minus sign; "undefined" for None and NaN."""
    return describe_number(value, digits).replace("-", "−")


def percent(value: float | None, digits: int = 0) -> str:
    """A fraction as a percentage with a no-break space; "undefined" for None and NaN."""
    return "undefined" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def count(value: int) -> str:
    """A whole number with thousands separators."""
    return f"{value:,}"


def interval(estimate: Estimate, digits: int = 3) -> str:
    """The 95 % confidence interval of a score, without the score; where there is none, that and the reason."""
    return estimate.describe_interval(digits).replace("-", "−")


def data_uri(image: bytes) -> str:
    """A JPEG or PNG as a URI that holds the image itself."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
