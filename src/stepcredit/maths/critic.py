"""A critic of denoising steps: its loss, its explained variance, and the activity of its neurons."""

import torch
from torch import Tensor

from stepcredit.maths._checks import require_dims, require_shape, upcast


def temporal_advantages(advantage: Tensor, values: Tensor, alpha: float) -> Tensor:
    """Advantage minus the critic's value: M_i = A - (1 - alpha) V_i.

    The undiscounted return of every step is A, because the only reward comes at the end. V_i must not depend on the
    noise of step i. Then V is a baseline, and the expected gradient is that of A. Source: the temporal reward of TDPO
    (arXiv 2402.08552), where alpha = 0.

    Args:
        advantage: (B,), A.
        values: (B, T), the critic's values, computed before it learned from A.
        alpha: in [0, 1]; 1 is exactly A at every step.

    Returns:
        (B, T).

    Raises:
        ValueError: not one advantage per trajectory, or alpha outside [0, 1].

    Degenerate: V = 0 gives exactly A; a constant V = c gives A - (1 - alpha) c.
    """
    require_dims("values", values, 2, "(B, T)")
    require_shape("advantage", advantage, (len(values),), "give one per trajectory")
    if not 0 <= alpha <= 1:
        raise ValueError(
            f"alpha is {alpha}, expected a number in [0, 1]: 0 is the credit rule alone, 1 is no step credit"
        )
    return upcast(advantage).unsqueeze(1) - (1 - alpha) * upcast(values)


def clipped_value_loss(values: Tensor, old_values: Tensor, targets: Tensor, clip_range: float) -> Tensor:
    """PPO's value loss per entry: the larger of two squared errors.

        1/2 max( (V - R)^2, (clamp(V, V_old - c, V_old + c) - R)^2 )

    Source: TDPO as released (`train_tdpo.py`), c = 0.2. Gradients flow through `values` only.

    Args:
        values: any shape, V, the current values.
        old_values: same shape, V_old, the values before the epoch's updates of the critic.
        targets: same shape, R.
        clip_range: c > 0.

    Raises:
        ValueError: shapes differ, or c is not positive.

    Degenerate: a value that moved further than c towards its target has gradient 0.
    """
    if not clip_range > 0:
        raise ValueError(f"clip_range is {clip_range}, expected a number > 0: use math.inf for no clipping")
    require_shape("old_values", old_values, tuple(values.shape), "give both values of the same entries")
    require_shape("targets", targets, tuple(values.shape), "give one target per value")
    old = old_values.detach()
    clipped = torch.maximum(torch.minimum(values, old + clip_range), old - clip_range)
    return torch.maximum((values - targets) ** 2, (clipped - targets) ** 2) / 2


def explained_variance(values: Tensor, targets: Tensor) -> float:
    """1 - mean (R - V)^2 / variance of R: 1 for a perfect critic, 0 for the mean of R, negative for a worse one.

    Degenerate: equal targets give 0.
    """
    require_shape("targets", targets, tuple(values.shape), "give one target per value")
    spread = float(targets.var(correction=0))
    return 1 - float(((targets - values) ** 2).mean()) / spread if spread > 0 else 0.0


def neuron_activity(outputs: Tensor) -> Tensor:
    """Activity of each neuron relative to its layer: (H,), with mean 1.

        s_h = E[|output_h|] / (mean over the layer of E[|output|])

    Source: the dormant-neuron score (arXiv 2302.12902), by which TDPO-R selects neurons to reset.

    Args:
        outputs: (N, H), outputs of the layer for N inputs, after the activation function.

    Degenerate: 0 for every neuron of a layer whose outputs are all 0.
    """
    require_dims("outputs", outputs, 2, "(N, H)")
    mean = upcast(outputs).abs().mean(0)
    return mean / mean.mean().clamp_min(torch.finfo(mean.dtype).tiny)
