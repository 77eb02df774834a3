"""Sizes and axes of charts: round ticks, numbers to read, places in pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

_TICKS = 6  # intervals between an axis's ticks, at most


class Size(NamedTuple):
    """Of a drawing, in its own units: it scales with the page.

    `letters` is the largest letter size that the style sheet gives its labels, for which room is left.
    """

    width: int
    height: int
    letters: int = 12


SMALL, LARGE = Size(320, 180), Size(600, 290, 19)


@dataclass(frozen=True)
class Axis:
    """Maps `low`..`high` to `start`..`end` pixels; a range of one value is put in the middle."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = 0.5 if self.low == self.high else (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def ticks(low: float, high: float, *, whole: bool = False, most: int = _TICKS) -> list[float]:
    """Round numbers from `low` to `high`, at most `most` + 1, `whole` ones if asked; `[low]` for an empty range.

    >>> ticks(0.13, 0.92)
    [0.2, 0.4, 0.6, 0.8]
    """
    if low == high:
        return [low]
    rough = (high - low) / most
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


def labels(values: Sequence[float]) -> list[str]:
    """What is written at ticks: round numbers in full, a lone value, which need not be round, in short."""
    return [number(value, 10 if len(values) > 1 else 4, like=max(map(abs, values))) for value in values]


def padded(low: float, high: float) -> tuple[float, float]:
    """The range with some air around it; one that is only rounding error counts as a single value."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        return low, low
    air = 0.06 * (high - low)
    return low - air, high + air
