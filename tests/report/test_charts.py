import math
from xml.etree import ElementTree

import pytest

from stepcredit.report.axes import number
from stepcredit.report.charts import Line, Point, line_chart


def chart(*lines: Line) -> ElementTree.Element:
    return ElementTree.fromstring(line_chart(lines, x_label="epoch", y_label="reward"))


def paths(svg: ElementTree.Element, name: str) -> list[str]:
    return [path.get("d", "") for path in svg.iter("path") if path.get("class") == name]


def labels(svg: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in svg.iter("text")]


def test_a_line_with_its_band_dots_and_labels() -> None:
    svg = chart(Line("mean", [Point.around(1, 0.0, 0.5), Point.around(2, 1.0, 0.5), Point.around(3, 2.0, 0.5)]))
    [line], [band] = paths(svg, "line"), paths(svg, "band")
    assert line.count("L") == 2 and band.count("L") == 5 and band.endswith("Z")
    assert next(svg.iter("title")).text == "mean 0 ± 0.5 at epoch 1"
    assert labels(svg) == ["0", "1", "2", "1", "2", "3", "epoch"]


def test_a_band_may_be_asymmetric_or_missing() -> None:
    svg = chart(Line("mean", [Point(1, 0.0, -1.0, 4.0), Point(2, 1.0), Point.around(3, 2.0, 0.0)]))
    titles = [title.text for title in svg.iter("title")]
    assert titles == ["mean 0 [−1, 4] at epoch 1", "mean 1 at epoch 2", "mean 2 at epoch 3"]
    assert labels(svg)[:6] == ["−1", "0", "1", "2", "3", "4"], "the axis has room for the band"
    assert paths(chart(Line("a", [Point(1, 0.0), Point(2, 1.0)])), "band") == []


def test_bands_of_many_lines_are_fainter() -> None:
    lines = [Line(str(index), [Point.around(1, 0.0, 1.0), Point.around(2, 1.0, 1.0)]) for index in range(4)]
    assert chart(*lines[:3]).get("class") == "chart" and chart(*lines).get("class") == "chart many"


def test_forty_lines_differ_in_color_or_dashes() -> None:
    svg = chart(*(Line(str(index), [Point(1, 0.0), Point(2, 1.0)]) for index in range(40)))
    assert len({group.get("class") for group in svg.iter("g")}) == 40


def test_higher_values_are_drawn_higher() -> None:
    circles = list(chart(Line("a", [Point(1, 0.0), Point(2, 1.0)])).iter("circle"))
    assert float(circles[0].get("cy", "")) > float(circles[1].get("cy", ""))
    assert float(circles[0].get("cx", "")) < float(circles[1].get("cx", ""))


def test_a_missing_value_breaks_the_line() -> None:
    svg = chart(Line("a", [Point(1, 0.0), Point(2, 1.0), Point(3, math.nan), Point(4, 1.0)]))
    assert len(paths(svg, "line")) == 2 and len(list(svg.iter("circle"))) == 3


def test_without_finite_points_there_is_no_chart() -> None:
    for points in ([], [Point(1, math.nan)], [Point(math.nan, 1.0)], [Point(1, math.inf)]):
        assert line_chart([Line("a", points)], x_label="x", y_label="y") == ""


@pytest.mark.parametrize("value", [0.0, 0.3, -4e9, 1e-12])
def test_a_single_value_is_in_the_middle(value: float) -> None:
    svg = chart(Line("a", [Point(7, value)]))
    [circle] = svg.iter("circle")
    heights = [float(path.split()[1].split("H")[0]) for path in paths(svg, "base")]
    assert 0 < float(circle.get("cy", "")) < heights[0]
    assert labels(svg) == [number(value), "7", "epoch"]


def test_a_long_line_has_no_dots() -> None:
    svg = chart(Line("a", [Point(x, math.sin(x)) for x in range(500)]))
    assert not list(svg.iter("circle")) and paths(svg, "line")[0].count("L") == 499


def test_everything_is_inside_the_drawing() -> None:
    svg = chart(Line("a", [Point.around(x, 1e5 * math.sin(x), 2e4) for x in range(40)]))
    for text in svg.iter("text"):
        assert 0 <= float(text.get("x", "")) <= 320 and 0 <= float(text.get("y", "")) <= 180
    for circle in svg.iter("circle"):
        assert 0 < float(circle.get("cx", "")) < 320 and 0 < float(circle.get("cy", "")) < 180


def test_labels_are_escaped() -> None:
    text = line_chart([Line("<script>", [Point(1, 1.0)])], x_label="<b>", y_label='"onload="x')
    assert "<script>" not in text and "<b>" not in text
    assert ElementTree.fromstring(text).get("aria-label") == '"onload="x against <b>'
