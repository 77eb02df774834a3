"""Line charts as SVG text that takes its colours and letter sizes from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

_TICKS = 6  # intervals between an axis's ticks, at most
_DOTS = 60  # points of a line that are still marked one by one, with their values to hover over


class Point(NamedTuple):
    """One measurement; a `y` of NaN leaves a gap, `spread` is half the height of the band around it."""

    x: float
    y: float
    spread: float = 0.0


@dataclass(frozen=True)
class Line:
    label: str
    points: Sequence[Point]


@dataclass(frozen=True)
class _Axis:
    """Maps `low`..`high` to `start`..`end` pixels; a range of one value is put in the middle."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = 0.5 if self.low == self.high else (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def line_chart(
    lines: Sequence[Line], *, x_label: str, y_label: str, width: int = 320, height: int = 180, letters: int = 12
) -> str:
    """An SVG of `lines` over one pair of axes, or "" where no point is finite.

    `width` and `height` are its own units (it scales with the page), `letters` the largest letter size that the style
    sheet gives its labels, for which room is left.
    """
    lines = [Line(line.label, [point for point in line.points if math.isfinite(point.x)]) for line in lines]
    drawn = [point for line in lines for point in line.points if math.isfinite(point.y)]
    if not drawn:
        return ""
    y_range = _padded(min(p.y - p.spread for p in drawn), max(p.y + p.spread for p in drawn))
    x_range = min(p.x for p in drawn), max(p.x for p in drawn)
    x_ticks = ticks(*x_range, whole=all(p.x == int(p.x) for p in drawn))
    y_ticks = ticks(*y_range)
    left = letters + 0.62 * letters * max(map(len, _labels(y_ticks)))
    x_axis = _Axis(*x_range, round(left), width - 1.6 * letters)
    y_axis = _Axis(*y_range, height - 2.6 * letters, 0.8 * letters)
    body = [
        _frame(x_axis, y_axis, x_ticks, y_ticks, x_label, (width, height)),
        *(_curve(index, line, x_axis, y_axis, x_label) for index, line in enumerate(lines)),
    ]
    label = escape(f"{y_label} against {x_label}")
    return f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{"".join(body)}</svg>'


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Round numbers from `low` to `high`, at most seven of them, `whole` ones if asked; `[low]` for an empty range.

    >>> ticks(0.13, 0.92)
    [0.2, 0.4, 0.6, 0.8]
    """
    if low == high:
        return [low]
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    if whole:
        step = max(1.0, step)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def number(value: float, digits: int = 4, *, like: float | None = None) -> str:
    """A number to read: thousands as k, millions as M, small ones with an exponent, a true minus sign.

    `like` is the number whose size decides on the form, so that those along an axis share one.

    >>> [number(value) for value in (-0.5, 20000.0, 0.00025, 0.0)]
    ['−0.5', '20k', '2.5e−4', '0']
    """
    size = abs(value if like is None else like)
    if size >= 1e6:
        text = f"{value / 1e6:.{digits}g}M"
    elif size >= 1e4:
        text = f"{value / 1e3:.{digits}g}k"
    elif size < 1e-3:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        text = f"{float(mantissa):g}e{int(exponent)}"
    else:
        text = f"{value:.{digits}g}"
    return text.replace("-", "−") if value else "0"


def _labels(values: Sequence[float]) -> list[str]:
    """What is written at ticks: round numbers in full, a lone value, which need not be round, in short."""
    return [number(value, 10 if len(values) > 1 else 4, like=max(map(abs, values))) for value in values]


def _padded(low: float, high: float) -> tuple[float, float]:
    """The range with some air around it; one that is only rounding error counts as a single value."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        return low, low
    air = 0.06 * (high - low)
    return low - air, high + air


def _frame(
    x_axis: _Axis,
    y_axis: _Axis,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_label: str,
    size: tuple[int, int],
) -> str:
    """Grid lines, tick labels, and the name of the x axis."""
    parts = []
    for tick, label in zip(y_ticks, _labels(y_ticks), strict=True):
        y = y_axis(tick)
        parts.append(f'<path class="rule" d="M{x_axis.start} {y}H{x_axis.end:.1f}"/>')
        parts.append(f'<text class="y" x="{x_axis.start - 6}" y="{y}" dy="0.35em">{label}</text>')
    base = f"{y_axis.start:.1f}"
    for tick, label in zip(x_ticks, _labels(x_ticks), strict=True):
        parts.append(f'<path class="rule" d="M{x_axis(tick)} {base}v4"/>')
        parts.append(f'<text class="x" x="{x_axis(tick)}" y="{base}" dy="1.25em">{label}</text>')
    parts.append(f'<path class="base" d="M{x_axis.start} {base}H{x_axis.end:.1f}"/>')
    middle = (x_axis.start + x_axis.end) / 2
    parts.append(f'<text class="x" x="{middle:.1f}" y="{size[1]}" dy="-0.25em">{escape(x_label)}</text>')
    return "".join(parts)


def _curve(index: int, line: Line, x_axis: _Axis, y_axis: _Axis, x_label: str) -> str:
    runs = _unbroken(line.points)
    parts = [_band(run, x_axis, y_axis) for run in runs if any(p.spread > 0 for p in run)]
    for run in runs:
        path = "L".join(f"{x_axis(p.x)} {y_axis(p.y)}" for p in run)
        parts.append(f'<path class="line" d="M{path}"/>')
    points = [point for run in runs for point in run]
    if len(points) <= _DOTS:
        parts += [_dot(point, line.label, x_axis, y_axis, x_label) for point in points]
    return f'<g class="s{index}">{"".join(parts)}</g>'


def _unbroken(points: Sequence[Point]) -> list[list[Point]]:
    """The stretches of finite points."""
    runs: list[list[Point]] = [[]]
    for point in points:
        if math.isfinite(point.y):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _band(run: Sequence[Point], x_axis: _Axis, y_axis: _Axis) -> str:
    upper = [f"{x_axis(p.x)} {y_axis(p.y + p.spread)}" for p in run]
    lower = [f"{x_axis(p.x)} {y_axis(p.y - p.spread)}" for p in reversed(run)]
    return f'<path class="band" d="M{"L".join(upper + lower)}Z"/>'


def _dot(point: Point, label: str, x_axis: _Axis, y_axis: _Axis, x_label: str) -> str:
    spread = f" ± {number(point.spread)}" if point.spread > 0 else ""
    text = escape(f"{label} {number(point.y)}{spread} at {x_label} {number(point.x, 10)}")
    return f'<circle class="dot" cx="{x_axis(point.x)}" cy="{y_axis(point.y)}" r="2.5"><title>{text}</title></circle>'
