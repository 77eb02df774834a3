"""Line charts as SVG. Colors and font sizes come from the style sheet of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

from stepcredit.report.axes import SMALL, Axis, Size, labels, number, padded, ticks

_MAX_DOTS = 60  # a line with more points has no dots, which show values on hover
_COLORS, _DASHES = 8, 5  # in the style sheet; together they distinguish 40 lines
_MAX_STRONG_BANDS = 3  # with more bands, all are drawn fainter


class Point(NamedTuple):
    """One measurement. A `y` of NaN leaves a gap. `low` and `high` are the ends of its band; NaN for no band."""

    x: float
    y: float
    low: float = math.nan
    high: float = math.nan

    @classmethod
    def around(cls, x: float, y: float, spread: float) -> Point:
        """A point with the band y ± spread; without a band if `spread` is 0."""
        return cls(x, y, y - spread, y + spread) if spread > 0 else cls(x, y)

    @property
    def banded(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of the band, or (y, y) without a band."""
        return (self.low, self.high) if self.banded else (self.y, self.y)


@dataclass(frozen=True)
class Line:
    """A labeled curve."""

    label: str
    points: Sequence[Point]


def line_chart(lines: Sequence[Line], *, x_label: str, y_label: str, size: Size = SMALL) -> str:
    """An SVG of `lines` over one pair of axes, or "" if no point is finite."""
    width, height, letters = size
    lines = [Line(line.label, [point for point in line.points if math.isfinite(point.x)]) for line in lines]
    drawn = [point for line in lines for point in line.points if math.isfinite(point.y)]
    if not drawn:
        return ""
    y_range = padded(min(min(p.y, *p.ends) for p in drawn), max(max(p.y, *p.ends) for p in drawn))
    x_range = min(p.x for p in drawn), max(p.x for p in drawn)
    x_ticks = ticks(*x_range, whole=all(p.x == int(p.x) for p in drawn))
    y_ticks = ticks(*y_range)
    left = letters + 0.62 * letters * max(map(len, labels(y_ticks)))
    x_axis = Axis(*x_range, round(left), width - 1.6 * letters)
    y_axis = Axis(*y_range, height - 2.6 * letters, 0.8 * letters)
    body = [
        _frame(x_axis, y_axis, x_ticks, y_ticks, x_label, height),
        *(_curve(index, line, x_axis, y_axis, x_label) for index, line in enumerate(lines)),
    ]
    faint = " many" if sum(any(p.banded for p in line.points) for line in lines) > _MAX_STRONG_BANDS else ""
    label = escape(f"{y_label} against {x_label}")
    return (
        f'<svg class="chart{faint}" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
        f"{''.join(body)}</svg>"
    )


def legend(lines: Sequence[Line]) -> str:
    """The label of each line that has a point, with its color and dashes."""
    return "".join(_legend_entry(index, line.label) for index, line in enumerate(lines) if line.points)


def _legend_entry(index: int, label: str) -> str:
    stroke = (
        f'<svg class="{_style(index)}" viewBox="0 0 24 8" aria-hidden="true"><path class="line" d="M0 4H24"/></svg>'
    )
    return f' <span class="key">{stroke}{escape(label)}</span>'


def _style(index: int) -> str:
    return f"s{index % _COLORS} d{index % _DASHES}"


def _frame(
    x_axis: Axis, y_axis: Axis, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str, height: int
) -> str:
    """Grid lines, tick labels, and the label of the x axis."""
    parts = []
    for tick, label in zip(y_ticks, labels(y_ticks), strict=True):
        y = y_axis(tick)
        parts.append(f'<path class="rule" d="M{x_axis.start} {y}H{x_axis.end:.1f}"/>')
        parts.append(f'<text class="y" x="{x_axis.start - 6}" y="{y}" dy="0.35em">{label}</text>')
    base = f"{y_axis.start:.1f}"
    for tick, label in zip(x_ticks, labels(x_ticks), strict=True):
        parts.append(f'<path class="rule" d="M{x_axis(tick)} {base}v4"/>')
        parts.append(f'<text class="x" x="{x_axis(tick)}" y="{base}" dy="1.25em">{label}</text>')
    parts.append(f'<path class="base" d="M{x_axis.start} {base}H{x_axis.end:.1f}"/>')
    middle = (x_axis.start + x_axis.end) / 2
    parts.append(f'<text class="x" x="{middle:.1f}" y="{height}" dy="-0.25em">{escape(x_label)}</text>')
    return "".join(parts)


def _curve(index: int, line: Line, x_axis: Axis, y_axis: Axis, x_label: str) -> str:
    stretches = _finite_stretches(line.points)
    parts = [_band(stretch, x_axis, y_axis) for stretch in stretches if any(p.banded for p in stretch)]
    for stretch in stretches:
        path = "L".join(f"{x_axis(p.x)} {y_axis(p.y)}" for p in stretch)
        parts.append(f'<path class="line" d="M{path}"/>')
    points = [point for stretch in stretches for point in stretch]
    if len(points) <= _MAX_DOTS:
        parts += [_dot(point, line.label, x_axis, y_axis, x_label) for point in points]
    return f'<g class="{_style(index)}">{"".join(parts)}</g>'


def _finite_stretches(points: Sequence[Point]) -> list[list[Point]]:
    """Split the points at those that are not finite."""
    stretches: list[list[Point]] = [[]]
    for point in points:
        if math.isfinite(point.y):
            stretches[-1].append(point)
        elif stretches[-1]:
            stretches.append([])
    return [stretch for stretch in stretches if stretch]


def _band(stretch: Sequence[Point], x_axis: Axis, y_axis: Axis) -> str:
    upper = [f"{x_axis(p.x)} {y_axis(p.ends[1])}" for p in stretch]
    lower = [f"{x_axis(p.x)} {y_axis(p.ends[0])}" for p in reversed(stretch)]
    return f'<path class="band" d="M{"L".join(upper + lower)}Z"/>'


def _dot(point: Point, label: str, x_axis: Axis, y_axis: Axis, x_label: str) -> str:
    text = escape(f"{label} {number(point.y)}{_band_text(point)} at {x_label} {number(point.x, 10)}")
    return f'<circle class="dot" cx="{x_axis(point.x)}" cy="{y_axis(point.y)}" r="2.5"><title>{text}</title></circle>'


def _band_text(point: Point) -> str:
    """` ± spread` for a symmetric band, otherwise ` [low, high]`."""
    if not point.banded:
        return ""
    below, above = point.y - point.low, point.high - point.y
    if math.isclose(below, above, rel_tol=1e-6):
        return f" ± {number((below + above) / 2)}"
    return f" [{number(point.low)}, {number(point.high)}]"
