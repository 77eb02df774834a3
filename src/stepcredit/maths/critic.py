"""A critic of steps: what it regresses, how good it is, and which of its neurons are active."""

import torch
from torch import Tensor

from stepcredit.maths._checks import require_dims, require_shape, upcast


def temporal_advantages(advantage: Tensor, values: Tensor, alpha: float) -> Tensor:
    """What the critic did not expect of the trajectory: M_i = A - (1 - alpha) V_i.

    The undiscounted return of every step is A, since the reward comes at the end and nothing before it. V_i must not
    depend on what step i drew; then it is a baseline, and the expected gradient stays that of A. Source: TDPO (arXiv
    2402.08552), the temporal reward, there with alpha = 0.

    Args:
        advantage: (B,), A.
        values: (B, T), what the critic said before it saw A.
        alpha: in [0, 1]; 1 is exactly A at every step.

    Returns:
        (B, T).

    Raises:
        ValueError: not one advantage per trajectory, or alpha outside [0, 1].

    Degenerate: a critic that says 0 gives exactly A; one that says c everywhere gives A - (1 - alpha) c.
    """
    require_dims("values", values, 2, "(B, T)")
    require_shape("advantage", advantage, (len(values),), "give one per trajectory")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}, expected a number in [0, 1]: 0 is the credit rule alone, 1 is none of it")
    return upcast(advantage).unsqueeze(1) - (1 - alpha) * upcast(values)


def clipped_value_loss(values: Tensor, old_values: Tensor, targets: Tensor, clip_range: float) -> Tensor:
    """PPO's value loss, one entry each: the larger of two squared errors.

        1/2 max( (V - R)^2, (clamp(V, V_old - c, V_old + c) - R)^2 )

    Source: TDPO as released (`train_tdpo.py`), c = 0.2. Gradients flow through `values` only.

    Args:
        values: any shape, what the critic says now.
        old_values: same shape, what it said before this epoch's learning.
        targets: same shape, R.
        clip_range: c > 0.

    Raises:
        ValueError: shapes differ, or c is not positive.

    Degenerate: a value that moved further than c towards its target has no gradient left.
    """
    if not clip_range > 0:
        raise ValueError(f"clip_range is {clip_range}, expected a number > 0: use math.inf for no clipping")
    require_shape("old_values", old_values, tuple(values.shape), "give both values of the same entries")
    require_shape("targets", targets, tuple(values.shape), "give one target per value")
    old = old_values.detach()
    clipped = torch.maximum(torch.minimum(values, old + clip_range), old - clip_range)
    return torch.maximum((values - targets) ** 2, (clipped - targets) ** 2) / 2


def explained_variance(values: Tensor, targets: Tensor) -> float:
    """1 - mean (R - V)^2 / variance of R: 1 is a perfect critic, 0 one that says the mean; below 0 is worse than that.

    Degenerate: targets that are all alike give 0.
    """
    require_shape("targets", targets, tuple(values.shape), "give one target per value")
    spread = float(targets.var(correction=0))
    return 1 - float(((targets - values) ** 2).mean()) / spread if spread > 0 else 0.0


def neuron_activity(outputs: Tensor) -> Tensor:
    """How active each neuron of a layer is, beside the others: (H,), of mean 1.

        s_h = E[|output_h|] / (mean over the layer of E[|output|])

    Source: the dormant-neuron score (arXiv 2302.12902), which TDPO-R resets by.

    Args:
        outputs: (N, H), of a layer after its activation function, for N inputs.

    Degenerate: a layer that is silent everywhere has activity 0 in every neuron.
    """
    require_dims("outputs", outputs, 2, "(N, H)")
    mean = upcast(outputs).abs().mean(0)
    return mean / mean.mean().clamp_min(torch.finfo(mean.dtype).tiny)
