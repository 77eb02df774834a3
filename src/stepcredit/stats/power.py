"""Sample sizes: how many pairs a paired t-test needs, and the smallest difference that it detects."""

from __future__ import annotations

import math

from scipy.stats import norm

LEVEL, POWER = 0.95, 0.8


def pairs_needed(spread: float, difference: float, *, power: float = POWER, level: float = LEVEL) -> int:
    """The number of pairs with which a two-sided paired t-test at 1 - level detects a mean difference.

        n = ((z_a + z_b) spread / difference)^2 + z_a^2 / 2

    z_a and z_b are the normal quantiles of (1 + level) / 2 and of `power`. The second term is Guenther's correction for
    the t distribution (The American Statistician 35, 1981, 243-244). The result is within one pair of the exact number,
    and at least 2.

    Args:
        spread: standard deviation of the paired differences, at least 0.
        difference: the mean difference to detect, not 0.
        power: the probability of detecting it.

    Raises:
        ValueError: a difference of 0, a negative spread, or probabilities outside (0, 1).

    >>> pairs_needed(1.0, 1.0), pairs_needed(1.0, 0.5)
    (10, 34)
    """
    if difference == 0 or spread < 0:
        raise ValueError(f"the difference is {difference} and the spread {spread}; expected not 0, and at least 0")
    quantiles, correction = _quantiles(power, level)
    return max(2, math.ceil((quantiles * spread / difference) ** 2 + correction))


def detectable_difference(spread: float, pairs: int, *, power: float = POWER, level: float = LEVEL) -> float:
    """The smallest mean difference that `pairs` pairs detect, the inverse of `pairs_needed`.

        (z_a + z_b) spread / sqrt(pairs - z_a^2 / 2)

    Infinite if there are too few pairs to detect any difference (by default, 1 pair).

    >>> round(detectable_difference(1.0, 34), 2)
    0.49
    """
    quantiles, correction = _quantiles(power, level)
    return quantiles * spread / math.sqrt(pairs - correction) if pairs > correction else math.inf


def _quantiles(power: float, level: float) -> tuple[float, float]:
    """z_a + z_b and z_a^2 / 2."""
    if not (0 < power < 1 and 0 < level < 1):
        raise ValueError(f"power is {power} and level {level}; expected probabilities between 0 and 1")
    outer = float(norm.ppf((1 + level) / 2))
    return outer + float(norm.ppf(power)), outer**2 / 2
