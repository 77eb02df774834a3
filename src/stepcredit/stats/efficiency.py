"""Sample efficiency of learning curves: where a curve first reaches a level, and its value at a position.

A curve is values (N,) at increasing positions (N,), such as mean rewards against reward queries. Between its points it
is linear.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stepcredit.maths._checks import require_dims, require_shape


def trailing_mean(values: Tensor, window: int) -> Tensor:
    """The mean of each value and the `window` - 1 values before it, (N,). The first values have fewer before them.

        out_i = mean of values_j, max(0, i - window + 1) <= j <= i

    Raises:
        ValueError: values that are not (N,), or a window below 1.
    """
    require_dims("values", values, 1, "(N,)")
    if window < 1:
        raise ValueError(f"window is {window}, expected at least 1")
    return torch.stack([values[max(0, end - window) : end].mean() for end in range(1, len(values) + 1)])


def first_reached(positions: Tensor, values: Tensor, level: float) -> float | None:
    """The position where a curve first reaches `level`, or None if it never does.

    A curve that starts at or above `level` reaches it at its first position.

    Raises:
        ValueError: not (N,) with N >= 1 in both, or positions that do not increase.
    """
    _require_curve(positions, values)
    above = (values >= level).nonzero().flatten()
    if len(above) == 0:
        return None
    after = int(above[0])
    if after == 0:
        return float(positions[0])
    share = (level - float(values[after - 1])) / float(values[after] - values[after - 1])
    return float(positions[after - 1]) + share * float(positions[after] - positions[after - 1])


def value_at(positions: Tensor, values: Tensor, position: float) -> float:
    """The value of a curve at `position`. Beyond its ends it is its first or last value.

    Raises:
        ValueError: not (N,) with N >= 1 in both, or positions that do not increase.
    """
    _require_curve(positions, values)
    after = int((positions < position).sum())
    if after in (0, len(positions)):
        return float(values[min(after, len(positions) - 1)])
    share = (position - float(positions[after - 1])) / float(positions[after] - positions[after - 1])
    return float(values[after - 1]) + share * float(values[after] - values[after - 1])


def _require_curve(positions: Tensor, values: Tensor) -> None:
    require_dims("values", values, 1, "(N,)")
    require_shape("positions", positions, tuple(values.shape), "give one for each value")
    if len(positions) == 0 or not (positions.diff() > 0).all():
        raise ValueError("positions do not increase: give at least one, in order, none twice")
