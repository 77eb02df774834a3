"""What is tuned for every arm of a comparison: the learning rate and the clip range."""

from __future__ import annotations

from dataclasses import dataclass

RATE_FACTOR, CLIP_FACTOR = 3.0, 5.0
"""The default grids hold the arm's own value, divided and multiplied by these factors."""


@dataclass(frozen=True, order=True)
class Setting:
    """A learning rate and a clip range."""

    learning_rate: float
    clip_range: float

    def __str__(self) -> str:
        return f"learning rate {self.learning_rate:g}, clip range {self.clip_range:g}"


def choices(grid: tuple[float, ...] | None, own: float, factor: float) -> tuple[float, ...]:
    """The values that are tried for an arm: those of the grid, `around` its own value if that is None, or only its own.

    >>> choices((0.1, 0.2), 0.3, 2.0), choices(None, 0.3, 2.0), choices((), 0.3, 2.0)
    ((0.1, 0.2), (0.15, 0.3, 0.6), (0.3,))
    """
    return around(own, factor) if grid is None else grid or (own,)


def around(value: float, factor: float) -> tuple[float, float, float]:
    """value / factor, value and value * factor, the outer ones to two digits.

    >>> around(0.012, 3.0)
    (0.004, 0.012, 0.036)
    """
    return float(f"{value / factor:.2g}"), value, float(f"{value * factor:.2g}")
