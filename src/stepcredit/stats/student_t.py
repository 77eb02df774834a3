"""Student's t distribution: how far from its mean, in standard errors, few normal values leave the truth."""

from __future__ import annotations

import math

_HALVINGS = 60


def probability_within(distance: float, freedom: int) -> float:
    """P(|t| <= distance), for t of n = `freedom` degrees of freedom, in closed form.

        n odd:   2/pi (v + sin v (cos v + 2/3 cos^3 v + ... + (2 4 ... n-3) / (3 5 ... n-2) cos^(n-2) v))
        n even:  sin v (1 + 1/2 cos^2 v + ... + (1 3 ... n-3) / (2 4 ... n-2) cos^(n-2) v)
        v = atan(distance / sqrt(n))

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.7.3 and 26.7.4.

    Args:
        distance: 0 or more.
        freedom: n, 1 or more; work grows with it.

    Raises:
        ValueError: a distance below 0 or less than one degree of freedom.
    """
    if distance < 0 or freedom < 1:
        raise ValueError(f"the distance is {distance} and freedom {freedom}; expected at least 0, and at least 1")
    angle = math.atan(distance / math.sqrt(freedom))
    odd = freedom % 2
    term, total = math.cos(angle) if odd else 1.0, 0.0
    for power in range(odd, freedom - 1, 2):  # cos^1, cos^3, ... or cos^0, cos^2, ...
        total += term
        term *= math.cos(angle) ** 2 * (power + 1) / (power + 2)
    area = math.sin(angle) * total
    return 2 / math.pi * (angle + area) if odd else area


def standard_errors(level: float, freedom: int) -> float:
    """The distance within which |t| stays with probability `level`: half the width of a t interval in standard errors.

    Args:
        level: in (0, 1).
        freedom: number of values less one, 1 or more.

    Raises:
        ValueError: another level, or less than one degree of freedom.

    >>> round(standard_errors(0.95, 4), 2), round(standard_errors(0.95, 7), 2)
    (2.78, 2.36)
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected a probability between 0 and 1")
    low, high = 0.0, 1.0
    while probability_within(high, freedom) < level:
        high *= 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if probability_within(middle, freedom) < level else (low, middle)
    return high
