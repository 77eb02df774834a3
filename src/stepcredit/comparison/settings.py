"""What is tuned for every arm of a comparison: the learning rate and the clip range."""

from __future__ import annotations

from dataclasses import dataclass

RATE_FACTOR, CLIP_FACTOR = 3.0, 5.0
"""The default grids hold the value of the recipe, divided and multiplied by these factors."""


@dataclass(frozen=True, order=True)
class Setting:
    """A learning rate and a clip range."""

    learning_rate: float
    clip_range: float

    def __str__(self) -> str:
        return f"learning rate {self.learning_rate:g}, clip range {self.clip_range:g}"


def around(value: float, factor: float) -> tuple[float, float, float]:
    """value / factor, value and value * factor, the outer ones to two digits.

    >>> around(0.012, 3.0)
    (0.004, 0.012, 0.036)
    """
    return float(f"{value / factor:.2g}"), value, float(f"{value * factor:.2g}")
