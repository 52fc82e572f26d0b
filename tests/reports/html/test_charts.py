"""Points of a chart stand where their numbers say, by a scale worked out by hand; what is undefined is not drawn."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from markupsafe import Markup

from fundusgrade.metrics.estimates import Estimate
from fundusgrade.reports.html.charts import DotRow, Frame, Series, dots_chart, drawable, legend, letter, lines_chart

Point = tuple[float, float]
# Lines are drawn between x 52 and 338 and y 256 (below) and 30; dots between x 10 and 314, the first row from y 30.
WIDTH, HEIGHT = 380, 300
UNIT = Frame(title="title", x_label="across", y_label="up", x_limits=(0.0, 1.0), y_limits=(0.0, 1.0))
SHARE = Frame(title="title", x_label="across", x_limits=(0.0, 1.0))
NOTHING = Estimate(value=None, low=None, high=None)


def of(value: float | None, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(value=value, low=low, high=high)


def drawn(*lines: Series, frame: Frame = UNIT) -> ElementTree.Element:
    return ElementTree.fromstring(lines_chart(lines, frame, "description"))


def dotted(*rows: DotRow, frame: Frame = SHARE, reference: float | None = None) -> ElementTree.Element:
    return ElementTree.fromstring(dots_chart(rows, frame, "description", reference=reference))


def row(*dots: Estimate, label: str = "row") -> DotRow:
    return DotRow(label=label, dots=dots)


def styled(svg: ElementTree.Element, tag: str, color: str) -> Iterator[ElementTree.Element]:
    return (each for each in svg.iter(tag) if color in each.get("style", ""))


def markers(svg: ElementTree.Element, series: int) -> list[Point]:
    """Where markers in the color of a series stand."""
    uses = styled(svg, "use", f"var(--series-{series + 1})")
    return [(float(use.get("x", "nan")), float(use.get("y", "nan"))) for use in uses]


def dots(svg: ElementTree.Element, series: int) -> list[Point]:
    """The same without the ends of whiskers, which are drawn before their dot."""
    kinds = [use.get("href") for use in styled(svg, "use", f"var(--series-{series + 1})")]
    return [place for place, kind in zip(markers(svg, series), kinds, strict=True) if kind == kinds[-1]]


def strokes(svg: ElementTree.Element, color: str) -> list[list[list[Point]]]:
    """Clipped lines in a color, each as its unbroken parts."""
    found = []
    for path in styled(svg, "path", f"stroke: {color}"):
        if path.get("clip-path"):
            parts = path.get("d", "").split("M")[1:]
            numbers = [[float(number) for number in re.findall(r"[-\d.]+", part)] for part in parts]
            found.append([list(zip(part[::2], part[1::2], strict=True)) for part in numbers])
    return found


def words(svg: ElementTree.Element) -> dict[str, Point]:
    return {
        text.text or "": (float(text.get("x", "nan")), float(text.get("y", "nan")))
        for text in svg.iter("text")
    }  # fmt: skip


def near(places: Sequence[Point]) -> object:
    return [pytest.approx(place, abs=1e-3) for place in places]


# Lines


def test_points_of_a_line_stand_where_their_numbers_say() -> None:
    svg = drawn(Series(series=0, x=(0.0, 0.5, 1.0), y=(0.0, 0.25, 1.0)))
    expected = [(52, 256), (195, 199.5), (338, 30)]
    assert markers(svg, 0) == near(expected)
    (line,) = strokes(svg, "var(--series-1)")
    assert line == [near(expected)]


def test_a_scale_that_does_not_begin_at_zero_is_kept_to() -> None:
    frame = Frame(title="t", x_label="x", y_label="y", x_limits=(0.5, 1.0), y_limits=(-1.0, 3.0))
    svg = drawn(Series(series=2, x=(0.6, 1.0), y=(0.0, -1.0)), frame=frame)
    assert markers(svg, 2) == near([(52 + 286 / 5, 256 - 226 / 4), (338, 256)])


def test_numbers_at_the_axes_stand_where_their_values_are_drawn() -> None:
    svg = drawn(Series(series=0, x=(0.0, 0.2, 0.4), y=(0.0, 0.0, 0.0)))
    labels = [text for text in svg.iter("text") if text.text == "0.2"]
    below, beside = ((float(text.get("x", "nan")), float(text.get("y", "nan"))) for text in labels)
    assert markers(svg, 0)[1] == pytest.approx((below[0], 256)) and below[1] > 256
    assert beside[0] < 52 and beside[1] == pytest.approx(256 - 226 / 5, abs=5), "the middle of the letters"


@pytest.mark.parametrize("hole", [None, math.nan])
def test_an_undefined_point_leaves_a_gap(hole: float | None) -> None:
    svg = drawn(Series(series=0, x=(0.0, 0.25, 0.5, 0.75, 1.0), y=(0.0, 0.0, hole, 1.0, 1.0)))
    assert [x for x, _ in markers(svg, 0)] == pytest.approx([52, 123.5, 266.5, 338])
    (line,) = strokes(svg, "var(--series-1)")
    assert line == [near([(52, 256), (123.5, 256)]), near([(266.5, 30), (338, 30)])]


def test_a_line_without_any_defined_point_gets_no_letter() -> None:
    svg = drawn(Series(series=0, x=(0.0, 1.0), y=(None, None)), Series(series=1, x=(0.0, 1.0), y=(0.0, 0.5)))
    assert markers(svg, 0) == []
    assert "A" not in words(svg) and "B" in words(svg)


def test_a_chart_without_lines_is_drawn() -> None:
    assert "title" in words(drawn())


def test_a_reference_line_is_gray_without_markers_and_named_at_its_end() -> None:
    svg = drawn(Series(series=None, x=(0.0, 1.0), y=(0.0, 0.5), label="ideal"))
    assert [near([(52, 256), (338, 143)])] in strokes(svg, "var(--faint)")
    assert not [use for use in svg.iter("use") if "series" in use.get("style", "")]
    x, y = words(svg)["ideal"]
    assert x > 338 and y == pytest.approx(143, abs=5)


def test_each_of_six_series_has_its_own_color_marker_stroke_and_letter() -> None:
    svg = drawn(*(Series(series=i, x=(0.0, 1.0), y=(i / 8, i / 8)) for i in range(6)))
    assert all(len(markers(svg, i)) == 2 for i in range(6))
    paths = [next(iter(styled(svg, "path", f"stroke: var(--series-{i + 1}); stroke-width"))) for i in range(6)]
    dashes = {re.search(r"stroke-dasharray: ([\d.,]+)", path.get("style", "")) for path in paths}
    assert len({found and found[1] for found in dashes}) == 6
    shapes = {symbol.get("d") for symbol in svg.iter("path") if symbol.get("id")}
    assert len(shapes) >= 6
    assert {"A", "B", "C", "D", "E", "F"} <= set(words(svg))


def test_long_curves_have_a_marker_at_every_tenth_point() -> None:
    x = tuple(i / 100 for i in range(101))
    svg = drawn(Series(series=0, x=x, y=x))
    assert [place for place, _ in markers(svg, 0)] == pytest.approx([52 + 28.6 * i for i in range(11)])


@pytest.mark.parametrize("end", [0.0, 0.5, 1.0])
def test_letters_of_lines_that_end_together_stand_apart_and_inside_the_drawing(end: float) -> None:
    svg = drawn(*(Series(series=i, x=(0.0, 1.0), y=(0.5, end)) for i in range(6)))
    heights = sorted(words(svg)[name][1] for name in "ABCDEF")
    assert min(high - low for low, high in pairwise(heights)) > 13
    assert heights[0] > 24 and heights[-1] < HEIGHT - 24, "below the title, above the name of the axis"


# Dots


def test_dots_and_whiskers_stand_where_their_numbers_say() -> None:
    svg = dotted(row(of(0.5, 0.25, 0.75)), row(of(1.0, 0.9, 1.0)))
    first, second = 30 + 20 + 17 * 0.4, 30 + 37 + 20 + 17 * 0.4
    assert dots(svg, 0) == near([(162, first), (314, second)])
    assert strokes(svg, "var(--series-1)") == [
        [near([(86, first), (238, first)])],
        [near([(283.6, second), (314, second)])],
    ]
    assert svg.get("viewBox") == "0 0 380 148"


def test_dots_of_several_models_stand_below_each_other_with_letters_and_values() -> None:
    svg = dotted(row(of(0.2, 0.1, 0.3), of(0.4, 0.3, 0.5), of(-0.126, -0.2, 0.0)), frame=Frame(title="", x_label=""))
    heights = [dots(svg, series)[0][1] for series in range(3)]
    assert heights == pytest.approx([56.8, 73.8, 90.8])
    beside = words(svg)
    assert [beside[text][1] for text in ("A 0.20", "B 0.40", "C −0.13")] == pytest.approx(heights, abs=5)


def test_the_only_model_has_no_letter() -> None:
    assert "0.20" in words(dotted(row(of(0.2))))


@pytest.mark.parametrize("missing", [None, math.nan])
def test_an_undefined_value_is_not_drawn_and_says_so(missing: float | None) -> None:
    svg = dotted(row(of(missing, missing, missing), of(0.5, 0.4, 0.6)), frame=Frame(title="", x_label=""))
    assert markers(svg, 0) == [] and len(dots(svg, 1)) == 1
    assert "A undefined" in words(svg)
    assert "undefined" in words(dotted(row(NOTHING), frame=Frame(title="", x_label="")))


def test_a_value_without_an_interval_has_a_dot_and_no_whisker() -> None:
    svg = dotted(row(of(0.5)))
    assert markers(svg, 0) == near([(162, 56.8)])
    assert strokes(svg, "var(--series-1)") == []


def test_the_reference_line_stands_at_its_value() -> None:
    svg = dotted(row(of(0.5)), reference=0.9)
    (line,) = strokes(svg, "currentColor")
    assert {round(x, 3) for x, _ in line[0]} == {round(10 + 304 * 0.9, 3)}
    assert strokes(dotted(row(of(0.5))), "currentColor") == []


def test_an_axis_without_given_ends_holds_all_values_and_the_reference() -> None:
    frame = Frame(title="", x_label="")
    svg = dotted(row(of(0.2, -0.5, 0.3)), row(of(7.0, 6.0, 8.0)), frame=frame, reference=9.0)
    (line,) = strokes(svg, "currentColor")
    places = [x for x, _ in markers(svg, 0)] + [line[0][0][0]]
    # From -0.5 to 9 with 6 % of that as margin at both ends: 9.5 of 10.64 units.
    assert min(places) == pytest.approx(10 + 304 * 0.57 / 10.64, abs=1e-3)
    assert max(places) == pytest.approx(10 + 304 * 10.07 / 10.64, abs=1e-3)


def test_equal_values_do_not_make_an_axis_of_no_length() -> None:
    assert dots(dotted(row(of(0.5, 0.5, 0.5)), frame=Frame(title="", x_label="")), 0) == near([(162, 56.8)])


# Text


def test_names_are_drawn_as_they_are_and_cannot_become_markup_or_mathematics() -> None:
    for name in ("<script>alert(1)</script>", "$x^2$", "a & b", 'it\'s "so"', "A − B"):
        assert name in words(dotted(row(of(0.5), label=name)))


def test_names_that_the_font_lacks_become_escapes_and_long_ones_lose_their_middle() -> None:
    assert drawable("眼\n") == r"\u773c\x0a"
    assert drawable("a" * 44) == "a" * 44
    short = drawable("begin" + "x" * 100 + "end")
    assert short.startswith("begin") and short.endswith("end") and " ... " in short and len(short) <= 45


def test_the_legend_gives_each_model_its_letter_marker_and_color() -> None:
    entries = legend(["first", "<b>second</b>"])
    assert [(of.letter, of.marker, of.color, of.name) for of in entries] == [
        ("A", "●", 1, "first"), ("B", "■", 2, "<b>second</b>"),
    ]  # fmt: skip
    assert [letter(i) for i in (0, 5, 26)] == ["A", "F", "A"]
    assert legend(["name"] * 7)[6].color == 1


# In a page


def two_charts() -> tuple[Markup, Markup]:
    lines = [Series(series=0, x=(0.0, 1.0), y=(0.0, 1.0))]
    return lines_chart(lines, UNIT, "first"), lines_chart(lines, UNIT, "second")


def test_a_chart_is_an_image_with_a_description_in_words() -> None:
    svg = ElementTree.fromstring(dots_chart([row(of(0.5))], SHARE, 'kappa < 1 & "so"'))
    assert (svg.get("role"), svg.get("aria-label")) == ("img", 'kappa < 1 & "so"')
    assert svg.get("width") is None, "it fits the page"


def test_references_within_a_chart_resolve_and_charts_share_no_ids() -> None:
    charts = two_charts()
    names = [set(re.findall(r' id="([^"]+)"', chart)) for chart in charts]
    assert names[0] and not names[0] & names[1]
    for chart, own in zip(charts, names, strict=True):
        assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', chart))
        assert {a or b for a, b in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', chart)} == own


def test_colors_and_fonts_are_those_of_the_page() -> None:
    lines = [Series(series=i, x=(0.0, 1.0), y=(0.0, 1.0)) for i in (None, *range(6))]
    for chart in (lines_chart(lines, UNIT, "d"), dots_chart([row(*[of(0.5, 0.4, 0.6)] * 6)], SHARE, "d", reference=0)):
        assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", chart)) <= {
            "none", "currentColor", "var(--faint)", *(f"var(--series-{i})" for i in range(1, 7))
        }  # fmt: skip
        assert "DejaVu" not in chart and "font-family" not in chart and "<style" not in chart
        assert "http" not in chart and "<metadata" not in chart


def test_the_same_numbers_give_the_same_bytes() -> None:
    assert two_charts() == two_charts()
