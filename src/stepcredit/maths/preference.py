"""Pairwise preferences after Bradley and Terry (Biometrika 39, 1952)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from stepcredit.maths._checks import require_shape, upcast


def probability(left: Tensor, right: Tensor, temperature: float = 1.0) -> Tensor:
    """P(left is preferred) = sigmoid((left - right) / temperature).

    Args:
        left, right: utilities of one shape.
        temperature: above 0, in units of the utilities. A low temperature makes preferences certain.

    Returns:
        The shape of `left`, in [0, 1]; 1/2 for equal utilities.
    """
    require_shape("right", right, tuple(left.shape), "give one utility for each of left")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, expected a number above 0")
    return ((upcast(left) - upcast(right)) / temperature).sigmoid()


def negative_log_likelihood(left: Tensor, right: Tensor, left_preferred: Tensor) -> Tensor:
    """Mean over pairs of -log P(observed preference), at temperature 1.

    Args:
        left, right: scores of one shape, with gradients.
        left_preferred: same shape, bool.

    Returns:
        A 0-d tensor, at least 0; log 2 if all scores are equal.
    """
    require_shape("right", right, tuple(left.shape), "give one score for each of left")
    require_shape("left_preferred", left_preferred, tuple(left.shape), "give one preference per pair")
    margin = upcast(left) - upcast(right)
    return F.softplus(margin.where(~left_preferred, -margin)).mean()


def agreement(left: Tensor, right: Tensor, left_preferred: Tensor) -> float:
    """Share of pairs whose preferred side has the higher score; equal scores count one half. All of one shape."""
    require_shape("right", right, tuple(left.shape), "give one score for each of left")
    require_shape("left_preferred", left_preferred, tuple(left.shape), "give one preference per pair")
    higher = (left > right).float() + 0.5 * (left == right).float()
    return float(higher.where(left_preferred, 1 - higher).mean())
