"""Axes of charts: round ticks, formatted numbers, and the mapping from values to coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

_MAX_INTERVALS = 6  # between the ticks of an axis


class Size(NamedTuple):
    """Size of a drawing in its own units. The page scales it.

    Attributes:
        letters: the largest font size that the style sheet gives to labels; the drawing leaves room for it.
    """

    width: int
    height: int
    letters: int = 12


SMALL, LARGE = Size(320, 180), Size(600, 290, 19)


@dataclass(frozen=True)
class Axis:
    """Maps values from `low` to `high` to coordinates from `start` to `end`. An empty range maps to the middle."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = 0.5 if self.low == self.high else (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def ticks(low: float, high: float, *, whole: bool = False, max_intervals: int = _MAX_INTERVALS) -> list[float]:
    """Round numbers from `low` to `high`; `[low]` for an empty range.

    Args:
        whole: return whole numbers only.
        max_intervals: the result has at most one number more.

    >>> ticks(0.13, 0.92)
    [0.2, 0.4, 0.6, 0.8]
    """
    if low == high:
        return [low]
    rough = (high - low) / max_intervals
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    if whole:
        step = max(1.0, step)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def number(value: float, digits: int = 4, *, like: float | None = None) -> str:
    """Format a number: thousands as k, millions as M, small numbers with an exponent, with a true minus sign.

    Args:
        digits: significant digits.
        like: choose the format by the size of this number instead, so that all labels of an axis have one format.

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


def labels(values: Sequence[float]) -> list[str]:
    """Labels of ticks. Ticks are round numbers and are written in full; a single value may need rounding."""
    return [number(value, 10 if len(values) > 1 else 4, like=max(map(abs, values))) for value in values]


def padded(low: float, high: float) -> tuple[float, float]:
    """The range with a margin. A range of the size of rounding errors counts as a single value."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        return low, low
    margin = 0.06 * (high - low)
    return low - margin, high + margin
