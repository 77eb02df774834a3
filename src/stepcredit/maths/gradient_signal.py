"""Signal in the policy gradient of a step: what the gradients of independent images have in common."""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from stepcredit.maths._checks import require_shape


def agreement(gradients: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(signal, power) of independent estimates g_1..g_k of one gradient.

        signal = mean over a < b of <g_a, g_b>,   power = mean over a of |g_a|^2

    The expectation of `signal` is the squared norm of the expected gradient. The expectation of `power` is the same
    plus the variance of one estimate.

    Args:
        gradients: k >= 2, flat, of the same length.

    Returns:
        Two 0-d tensors; `signal` may be negative.

    Raises:
        ValueError: fewer than two gradients, or of different lengths.
    """
    if len(gradients) < 2:
        raise ValueError(f"gradients has {len(gradients)} entry, expected at least 2")
    for gradient in gradients:
        require_shape("gradients", gradient, tuple(gradients[0].shape), "give estimates of one gradient")
    count, squares = len(gradients), torch.stack([gradient.square().sum() for gradient in gradients]).sum()
    whole = reduce(torch.add, gradients).square().sum()
    return (whole - squares) / (count * (count - 1)), squares / count


def reliability_factors(signal: Tensor, power: Tensor, prior: float) -> Tensor:
    """Factors of steps by the signal in their gradients.

        m_i in proportion to sqrt(r_i / power_i),   r_i = (signal_i / power_i + prior r) / (1 + prior),
        r = sum of signal / sum of power, both at least 0

    With prior -> infinity, every step moves the weights equally, whatever the norm of its gradient. With prior = 0, the
    factor is the norm of the expected gradient over its power, as in a matched filter. In between, a step without
    measured signal keeps a part of the average.

    Args:
        signal, power: (T,), sums or means over measurements; power is at least 0.
        prior: at least 0.

    Returns:
        (T,), non-negative; their scale has no meaning.

    Raises:
        ValueError: the shapes differ, or a negative prior.

    Degenerate: 0 for a step without power. If no step has signal, all r_i are 1.
    """
    if prior < 0:
        raise ValueError(f"prior is {prior}, expected 0 or more")
    require_shape("power", power, tuple(signal.shape), "give both of the same steps")
    measured = power > 0
    divisor = power.masked_fill(~measured, 1)
    shared = (signal.sum() / power.sum().clamp_min(torch.finfo(power.dtype).tiny)).clamp_min(0)
    reliable = ((signal / divisor).clamp_min(0) + prior * shared) / (1 + prior)
    if not bool((reliable * measured).any()):
        reliable = torch.ones_like(reliable)
    return torch.where(measured, (reliable / divisor).sqrt(), 0)
