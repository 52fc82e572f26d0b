"""Numbers are written one way."""

from __future__ import annotations

import math

from fundusgrade.metrics.estimates import Estimate
from fundusgrade.reports.html.formats import count, data_uri, interval, number, percent


def test_numbers() -> None:
    assert [number(-0.5), number(None), number(math.nan), number(1, 0)] == ["−0.500", "undefined", "undefined", "1"]
    assert [percent(0.125, 1), percent(None), count(12345)] == ["12.5\N{NO-BREAK SPACE}%", "undefined", "12,345"]


def test_intervals_say_when_there_is_none() -> None:
    assert interval(Estimate(value=0.5, low=-0.25, high=0.75), 2) == "−0.25 to 0.75"
    assert interval(Estimate(value=0.5, low=None, high=None, no_interval="one group")) == "no interval: one group"


def test_images_become_part_of_the_page() -> None:
    assert data_uri(b"\x89PNG\r\n") == "data:image/png;base64,iVBORw0K"
    assert data_uri(b"\xff\xd8").startswith("data:image/jpeg;base64,")
