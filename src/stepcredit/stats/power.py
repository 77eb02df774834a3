"""How many pairs it takes to see a difference, and which difference a number of pairs shows."""

from __future__ import annotations

import math
from statistics import NormalDist

LEVEL, POWER = 0.95, 0.8


def pairs_needed(spread: float, difference: float, *, power: float = POWER, level: float = LEVEL) -> int:
    """The pairs with which a two-sided paired t-test at 1 - level sees a mean difference with this probability.

        n = ((z_a + z_b) spread / difference)^2 + z_a^2 / 2,   z_a, z_b the normal quantiles of (1 + level) / 2, power

    The second term is Guenther's correction for the t distribution (The American Statistician 35, 1981, 243-244); it is
    within one pair of the exact number. At least 2.

    Args:
        spread: standard deviation of the paired differences, 0 or more.

    Raises:
        ValueError: a difference of 0, which nothing sees, a negative spread, or probabilities outside (0, 1).

    >>> pairs_needed(1.0, 1.0), pairs_needed(1.0, 0.5)
    (10, 34)
    """
    if difference == 0 or spread < 0:
        raise ValueError(f"the difference is {difference} and the spread {spread}; expected not 0, and at least 0")
    both, correction = _quantiles(power, level)
    return max(2, math.ceil((both * spread / difference) ** 2 + correction))


def detectable(spread: float, pairs: int, *, power: float = POWER, level: float = LEVEL) -> float:
    """The smallest difference that so many pairs show; infinite where there are too few for any (1 pair, by default).

        (z_a + z_b) spread / sqrt(pairs - z_a^2 / 2), the inverse of `pairs_needed`

    >>> round(detectable(1.0, 34), 2)
    0.49
    """
    both, correction = _quantiles(power, level)
    return both * spread / math.sqrt(pairs - correction) if pairs > correction else math.inf


def _quantiles(power: float, level: float) -> tuple[float, float]:
    """z_a + z_b and z_a^2 / 2."""
    if not (0 < power < 1 and 0 < level < 1):
        raise ValueError(f"power is {power} and level {level}; expected probabilities between 0 and 1")
    normal = NormalDist()
    outer = normal.inv_cdf((1 + level) / 2)
    return outer + normal.inv_cdf(power), outer**2 / 2
