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


def group_advantages(
    rewards: Tensor, groups: Sequence[str], eps: float = EPSILON, *, batch_std: bool = False, unbiased: bool = False
) -> Tensor:
    """Standardize each group of the batch on its own: GRPO (arXiv 2402.03300), section 4.1.2.

        A = (r - mean of the group) / (std of the group + eps)

    Args:
        rewards: (B,), finite.
        groups: B names, usually the prompts; equal names form a group and need not be adjacent.
        batch_std: divide by the standard deviation of the whole batch, as Flow-GRPO does with `global_std`.
        unbiased: divide the squared deviations by n - 1 and not by n, as torch.std does.

    Returns:
        (B,), float32. 0 in a group of one or of equal rewards.

    Raises:
        ValueError: not (B,) with B >= 1, not finite, or not one name per reward.
    """
    require_dims("rewards", rewards, 1, "(B,)")
    values = checked_values("rewards", rewards)
    result, whole = torch.empty_like(values), moments(values, unbiased)[1]
    for rows in rows_by_name("groups", groups, len(values)).values():
        mean, own = moments(values[rows], unbiased)
        result[rows] = (values[rows] - mean) / ((whole if batch_std else own) + eps)
    return as_float(rewards, result)


def constant_groups(advantages: Tensor, groups: Sequence[str]) -> Tensor:
    """Which rows belong to a group whose advantages are all 0: its rewards are equal, and nothing is learned from it.

    Args:
        advantages: (B,), finite.
        groups: B names, see `group_advantages`.

    Returns:
        (B,) bool, on the CPU. A single 0 in a group with other values does not count.

    Raises:
        ValueError: as `group_advantages`.
    """
    require_dims("advantages", advantages, 1, "(B,)")
    values = checked_values("advantages", advantages)
    result = torch.zeros(len(values), dtype=torch.bool)
    for rows in rows_by_name("groups", groups, len(values)).values():
        result[rows] = not values[rows].any()
    return result
