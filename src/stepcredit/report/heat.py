"""Heat maps as SVG text: a row of cells per epoch, a column per denoising step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean

from stepcredit.report.axes import SMALL, Axis, Size, labels, number, ticks

_ROWS, _COLUMNS = 40, 100  # of cells at most; of more, neighbors are averaged
_TALL, _LEAST, _MOST = 16, 128, 300  # height of a row, and of them all
_ROW_TICKS = 5  # intervals between labels of rows, at most
_SHADES, _SIDE = 6, 12


@dataclass(frozen=True)
class Strip:
    """The values of one epoch, step by step; NaN leaves a cell empty."""

    epoch: float
    values: Sequence[float]


@dataclass(frozen=True)
class _Cell:
    """The mean of the values in neighboring strips and steps."""

    strips: range
    steps: range
    value: float


def heat_map(strips: Sequence[Strip], most: float, *, what: str, size: Size = SMALL) -> str:
    """An SVG of values from 0 to `most`, stronger where they are higher, or "" where none is finite.

    The first epoch is on top. Of more than 40 epochs or 100 steps, neighbors are averaged. The height goes by the
    epochs, not by `size`.
    """
    width, letters = size.width, size.letters
    cells = _cells(strips)
    if not cells:
        return ""
    height = round(min(max(_TALL * len(strips), _LEAST), _MOST) + 3.4 * letters)
    left = round(letters + 0.62 * letters * max(len(number(strip.epoch, 10)) for strip in strips))
    x_axis = Axis(0, _steps(strips), left, width - 0.8 * letters)
    y_axis = Axis(0, len(strips), 0.8 * letters, height - 2.6 * letters)
    body = [
        *(_rectangle(cell, strips, most, what, x_axis, y_axis) for cell in cells),
        *_labels(strips, x_axis, y_axis, height),
    ]
    named = escape(f"{what} by epoch and denoising step, from 0 to {number(most)}")
    return (
        f'<svg class="chart heat s0" viewBox="0 0 {width} {height}" role="img" aria-label="{named}">'
        f"{''.join(body)}</svg>"
    )


def scale(most: float) -> str:
    """What the shades of a heat map mean: a row of them, from 0 to `most`."""
    shades = "".join(
        f'<rect class="cell" x="{_SIDE * shade}" width="{_SIDE}" height="{_SIDE}" '
        f'fill-opacity="{shade / (_SHADES - 1):.2f}"/>'
        for shade in range(_SHADES)
    )
    frame = f'<rect class="rule" x=".5" y=".5" width="{_SIDE * _SHADES - 1}" height="{_SIDE - 1}"/>'
    picture = f'<svg class="s0" viewBox="0 0 {_SIDE * _SHADES} {_SIDE}" aria-hidden="true">{shades}{frame}</svg>'
    return f' <span class="key shades">0 {picture}{number(most, 3)}</span>'


def highest(strips: Sequence[Strip]) -> float:
    """The highest value that is drawn; 1 where there is none above 0."""
    return max((cell.value for cell in _cells(strips)), default=0.0) or 1.0


def _cells(strips: Sequence[Strip]) -> list[_Cell]:
    return [
        _Cell(rows, columns, fmean(found))
        for rows in _groups(len(strips), _ROWS)
        for columns in _groups(_steps(strips), _COLUMNS)
        if (found := [v for row in rows for v in strips[row].values[columns.start : columns.stop] if math.isfinite(v)])
    ]


def _groups(count: int, most: int) -> Iterator[range]:
    """Neighbors of `count` together, as few as leave at most `most` groups."""
    size = max(1, -(-count // most))
    return (range(start, min(start + size, count)) for start in range(0, count, size))


def _steps(strips: Sequence[Strip]) -> int:
    return max((len(strip.values) for strip in strips), default=0)


def _rectangle(cell: _Cell, strips: Sequence[Strip], most: float, what: str, x_axis: Axis, y_axis: Axis) -> str:
    left, right = x_axis(cell.steps.start), x_axis(cell.steps.stop)
    top, bottom = y_axis(cell.strips.start), y_axis(cell.strips.stop)
    epochs = _span("epoch", strips[cell.strips[0]].epoch, strips[cell.strips[-1]].epoch)
    text = escape(f"{what} {number(cell.value)}, {epochs}, {_span('step', cell.steps[0], cell.steps[-1])}")
    return (
        f'<rect class="cell" x="{left}" y="{top}" width="{right - left:.1f}" height="{bottom - top:.1f}" '
        f'fill-opacity="{min(max(cell.value / most, 0), 1):.3f}"><title>{text}</title></rect>'
    )


def _span(what: str, first: float, last: float) -> str:
    return f"{what} {number(first, 10)}" if first == last else f"{what}s {number(first, 10)} to {number(last, 10)}"


def _labels(strips: Sequence[Strip], x_axis: Axis, y_axis: Axis, height: int) -> list[str]:
    """The frame, steps below, epochs to the left."""
    width, tall = x_axis.end - x_axis.start, y_axis.end - y_axis.start
    parts = [f'<rect class="rule" x="{x_axis.start}" y="{y_axis.start}" width="{width:.1f}" height="{tall:.1f}"/>']
    steps = ticks(0, _steps(strips) - 1, whole=True)
    for step, label in zip(steps, labels(steps), strict=True):
        parts.append(f'<text class="x" x="{x_axis(step + 0.5)}" y="{y_axis.end:.1f}" dy="1.2em">{label}</text>')
    for row in map(int, ticks(0, len(strips) - 1, whole=True, most=_ROW_TICKS)):
        label = number(strips[row].epoch, 10)
        parts.append(f'<text class="y" x="{x_axis.start - 6}" y="{y_axis(row + 0.5)}" dy="0.35em">{label}</text>')
    middle = (x_axis.start + x_axis.end) / 2
    parts.append(f'<text class="x" x="{middle:.1f}" y="{height}" dy="-0.25em">denoising step, epochs downwards</text>')
    return parts
