"""Heat maps as SVG: a row for each epoch, a column for each denoising step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean

from stepcredit.report.axes import SMALL, Axis, Size, labels, number, ticks

_MAX_ROWS, _MAX_COLUMNS = 40, 100  # with more epochs or steps, neighbors are averaged
_ROW_HEIGHT, _MIN_HEIGHT, _MAX_HEIGHT = 16, 128, 300
_MAX_ROW_INTERVALS = 5  # between the labels of rows
_SHADES, _SIDE = 6, 12  # of the color scale


@dataclass(frozen=True)
class EpochValues:
    """A value for each denoising step of an epoch. NaN leaves a cell empty."""

    epoch: float
    values: Sequence[float]


@dataclass(frozen=True)
class _Cell:
    """The mean over neighboring epochs and steps.

    Attributes:
        rows: indices into the epochs.
    """

    rows: range
    steps: range
    value: float


def heat_map(epochs: Sequence[EpochValues], maximum: float, *, label: str, size: Size = SMALL) -> str:
    """An SVG of values from 0 to `maximum`, or "" if no value is finite. The first epoch is at the top.

    With more than 40 epochs or 100 steps, neighbors are averaged. The height depends on the number of epochs.

    Args:
        label: what the values are.
    """
    width, letters = size.width, size.letters
    cells = _cells(epochs)
    if not cells:
        return ""
    height = round(min(max(_ROW_HEIGHT * len(epochs), _MIN_HEIGHT), _MAX_HEIGHT) + 3.4 * letters)
    left = round(letters + 0.62 * letters * max(len(number(row.epoch, 10)) for row in epochs))
    x_axis = Axis(0, _steps(epochs), left, width - 0.8 * letters)
    y_axis = Axis(0, len(epochs), 0.8 * letters, height - 2.6 * letters)
    body = [
        *(_rectangle(cell, epochs, maximum, label, x_axis, y_axis) for cell in cells),
        *_labels(epochs, x_axis, y_axis, height),
    ]
    description = escape(f"{label} by epoch and denoising step, from 0 to {number(maximum)}")
    return (
        f'<svg class="chart heat s0" viewBox="0 0 {width} {height}" role="img" aria-label="{description}">'
        f"{''.join(body)}</svg>"
    )


def color_scale(maximum: float) -> str:
    """The color scale of a heat map, from 0 to `maximum`."""
    shades = "".join(
        f'<rect class="cell" x="{_SIDE * shade}" width="{_SIDE}" height="{_SIDE}" '
        f'fill-opacity="{shade / (_SHADES - 1):.2f}"/>'
        for shade in range(_SHADES)
    )
    frame = f'<rect class="rule" x=".5" y=".5" width="{_SIDE * _SHADES - 1}" height="{_SIDE - 1}"/>'
    picture = f'<svg class="s0" viewBox="0 0 {_SIDE * _SHADES} {_SIDE}" aria-hidden="true">{shades}{frame}</svg>'
    return f' <span class="key shades">0 {picture}{number(maximum, 3)}</span>'


def highest_cell(epochs: Sequence[EpochValues]) -> float:
    """The highest value that is drawn; 1 if none is above 0."""
    return max((cell.value for cell in _cells(epochs)), default=0.0) or 1.0


def _cells(epochs: Sequence[EpochValues]) -> list[_Cell]:
    cells = []
    for rows in _groups(len(epochs), _MAX_ROWS):
        for columns in _groups(_steps(epochs), _MAX_COLUMNS):
            values = [value for row in rows for value in epochs[row].values[columns.start : columns.stop]]
            finite = [value for value in values if math.isfinite(value)]
            if finite:
                cells.append(_Cell(rows, columns, fmean(finite)))
    return cells


def _groups(count: int, max_groups: int) -> Iterator[range]:
    """Split range(count) into at most `max_groups` groups of neighbors."""
    size = max(1, -(-count // max_groups))
    return (range(start, min(start + size, count)) for start in range(0, count, size))


def _steps(epochs: Sequence[EpochValues]) -> int:
    return max((len(row.values) for row in epochs), default=0)


def _rectangle(
    cell: _Cell, epochs: Sequence[EpochValues], maximum: float, label: str, x_axis: Axis, y_axis: Axis
) -> str:
    left, right = x_axis(cell.steps.start), x_axis(cell.steps.stop)
    top, bottom = y_axis(cell.rows.start), y_axis(cell.rows.stop)
    rows = _span("epoch", epochs[cell.rows[0]].epoch, epochs[cell.rows[-1]].epoch)
    text = escape(f"{label} {number(cell.value)}, {rows}, {_span('step', cell.steps[0], cell.steps[-1])}")
    return (
        f'<rect class="cell" x="{left}" y="{top}" width="{right - left:.1f}" height="{bottom - top:.1f}" '
        f'fill-opacity="{min(max(cell.value / maximum, 0), 1):.3f}"><title>{text}</title></rect>'
    )


def _span(noun: str, first: float, last: float) -> str:
    return f"{noun} {number(first, 10)}" if first == last else f"{noun}s {number(first, 10)} to {number(last, 10)}"


def _labels(epochs: Sequence[EpochValues], x_axis: Axis, y_axis: Axis, height: int) -> list[str]:
    """The frame, the labels of the steps below it, and the labels of the epochs to its left."""
    width, height_inside = x_axis.end - x_axis.start, y_axis.end - y_axis.start
    frame = f'x="{x_axis.start}" y="{y_axis.start}" width="{width:.1f}" height="{height_inside:.1f}"'
    parts = [f'<rect class="rule" {frame}/>']
    steps = ticks(0, _steps(epochs) - 1, whole=True)
    for step, label in zip(steps, labels(steps), strict=True):
        parts.append(f'<text class="x" x="{x_axis(step + 0.5)}" y="{y_axis.end:.1f}" dy="1.2em">{label}</text>')
    for row in map(int, ticks(0, len(epochs) - 1, whole=True, max_intervals=_MAX_ROW_INTERVALS)):
        label = number(epochs[row].epoch, 10)
        parts.append(f'<text class="y" x="{x_axis.start - 6}" y="{y_axis(row + 0.5)}" dy="0.35em">{label}</text>')
    middle = (x_axis.start + x_axis.end) / 2
    parts.append(
        f'<text class="x" x="{middle:.1f}" y="{height}" dy="-0.25em">denoising step (epochs from top to bottom)</text>'
    )
    return parts
