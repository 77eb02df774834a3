"""The clipped policy-gradient objective, and diagnostics of it."""

import torch
from torch import Tensor

from stepcredit.maths._checks import require_dims, require_shape, upcast

LARGEST_LOG_RATIO = 20.0
"""The surrogate clamps log ratios to this value: a larger exp overflows, and its gradient becomes NaN."""


def clipped_surrogate(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """PPO's clipped objective, negated for minimization, one value per entry.

        max( -A r, -A clamp(r, 1 - c, 1 + c) ),   r = exp(min(log_prob - old_log_prob, 20))

    Source: PPO (arXiv 1707.06347), equation 7, as used by DDPO and CoCA (`train_coca.py`). Gradients flow through
    `log_prob` only. The caller takes the mean.

    Args:
        log_prob: any shape, under the current policy, nats per latent element.
        old_log_prob: same shape, recorded at rollout.
        advantage: same shape, the step advantage of each entry.
        clip_range: c > 0. Small (1e-4) here, because r is the D-th root of the true ratio (`gaussian.log_prob`).

    Returns:
        Loss of the same shape.

    Raises:
        ValueError: shapes differ, or clip_range is not positive.

    Degenerate: before any update r = 1 exactly, the loss is -A and its gradient is -A d(log_prob). If the policy moved
    by more than 20 nats per latent element, the gradient of the entry is 0. For finite log-probs and A below 1e29, loss
    and gradient are finite.
    """
    require_shape("advantage", advantage, tuple(log_prob.shape), "give one advantage per log-prob")
    ratio = _log_ratio(log_prob, old_log_prob).clamp(max=LARGEST_LOG_RATIO).exp()
    clipped = ratio.clamp(*_bounds(clip_range))
    gain = upcast(advantage.detach())
    return torch.maximum(-gain * ratio, -gain * clipped)


def prediction_kl(output: Tensor, reference_output: Tensor) -> Tensor:
    """Squared distance of two model outputs, averaged over the latent elements: a penalty towards the reference.

        mean_D[ (output - reference_output)^2 ]

    Flow-GRPO-style trainers use this penalty in velocity or noise space instead of a KL divergence. `gaussian.kl` is
    this times a factor of the step that grows like 1 / std^2, so that steps of tiny variance dominate. Without the
    factor all steps count equally. Gradients flow through `output` only.

    Args:
        output: (B, *L), the guided model output (`Transition.output`).
        reference_output: (B, *L), that of the frozen reference at the same latents.

    Returns:
        (B,), >= 0, in squared units of the model output.

    Raises:
        ValueError: the outputs differ in shape.

    Degenerate: 0, with zero gradient, where the two agree.
    """
    require_dims("output", output, 2, "(B, *L)", exact=False)
    require_shape("reference_output", reference_output, tuple(output.shape), "give both outputs of the same latents")
    return ((upcast(output) - upcast(reference_output.detach())) ** 2).flatten(1).mean(1)


def average(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of values of any shape, a 0-d tensor; with `weights` of the same shape, sum(w v) / sum(w)."""
    return values.mean() if weights is None else (values * weights).sum() / weights.sum()


def approx_kl(log_prob: Tensor, old_log_prob: Tensor, weights: Tensor | None = None) -> Tensor:
    """0.5 mean( (log_prob - old_log_prob)^2 ): how far the policy moved since the rollout, a 0-d tensor, no gradient.

    The second-order estimate of the KL of http://joschu.net/blog/kl-approx.html, on log-probs per latent element as in
    DDPO. Compare it between runs of the same latent size only. The mean is `average`.
    """
    return 0.5 * average(_log_ratio(log_prob, old_log_prob).detach() ** 2, weights)


def clip_fraction(log_prob: Tensor, old_log_prob: Tensor, clip_range: float, weights: Tensor | None = None) -> Tensor:
    """Fraction of entries with |r - 1| > clip_range, in [0, 1], a 0-d tensor, no gradient.

    As in DDPO, this counts entries whatever the sign of their advantage, though only one sign clips the gradient. The
    fraction is an `average`.
    """
    _bounds(clip_range)
    return average(upcast((_ratio(log_prob, old_log_prob).detach() - 1).abs() > clip_range), weights)


def ratio_max_deviation(log_prob: Tensor, old_log_prob: Tensor) -> Tensor:
    """max |r - 1| over all entries, a 0-d tensor, no gradient. 0 before any update when the replay is exact."""
    return (_ratio(log_prob, old_log_prob).detach() - 1).abs().max()


def _log_ratio(log_prob: Tensor, old_log_prob: Tensor) -> Tensor:
    require_shape("old_log_prob", old_log_prob, tuple(log_prob.shape), "give both log-probs of the same entries")
    return upcast(log_prob) - upcast(old_log_prob.detach())


def _ratio(log_prob: Tensor, old_log_prob: Tensor) -> Tensor:
    return _log_ratio(log_prob, old_log_prob).exp()


def _bounds(clip_range: float) -> tuple[float, float]:
    if not clip_range > 0:
        raise ValueError(f"clip_range is {clip_range}, expected a number > 0: use math.inf for no clipping")
    return 1 - clip_range, 1 + clip_range
