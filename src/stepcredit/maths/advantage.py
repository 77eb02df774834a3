"""Standardization of rewards, over a batch or per prompt.

Mean and population standard deviation are computed in float64 on the CPU; results are float32 on the device of the
input. Equal values give advantages of exactly 0. Values that differ by much less than EPSILON give advantages near 0,
(r - mean) / EPSILON.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from stepcredit.maths._checks import require_dims
from stepcredit.maths._moments import EPSILON, as_float, checked_values, moments, rows_by_name


def standardize(rewards: Tensor, eps: float = EPSILON) -> Tensor:
    """(r - mean) / (std + eps) over the whole batch.

    Args:
        rewards: (B,), finite.

    Returns:
        (B,), float32. All 0 for one reward or equal rewards.

    Raises:
        ValueError: not (B,) with B >= 1, or not finite.
    """
    require_dims("rewards", rewards, 1, "(B,)")
    values = checked_values("rewards", rewards)
    mean, std = moments(values)
    return as_float(rewards, (values - mean) / (std + eps))


def group_advantages(rewards: Tensor, groups: Sequence[str], eps: float = EPSILON) -> Tensor:
    """Standardize each group of the batch on its own: GRPO (arXiv 2402.03300), section 4.1.2.

    Args:
        rewards: (B,), finite.
        groups: B names, usually the prompts; equal names form a group and need not be adjacent.

    Returns:
        (B,), float32. 0 in a group of one or of equal rewards.

    Raises:
        ValueError: not (B,) with B >= 1, not finite, or not one name per reward.
    """
    require_dims("rewards", rewards, 1, "(B,)")
    values = checked_values("rewards", rewards)
    result = torch.empty_like(values)
    for rows in rows_by_name("groups", groups, len(values)).values():
        mean, std = moments(values[rows])
        result[rows] = (values[rows] - mean) / (std + eps)
    return as_float(rewards, result)
