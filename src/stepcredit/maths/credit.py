"""Step credit: how much of a trajectory's advantage each denoising step trains on.

A rule of weights is a matrix w (B, T) whose rows sum to 1. `reward_to_go` and `multiplier` turn it into the factors
M / A that scale the advantage of each step; `step_advantages` does both. For a rule of factors, with mean 1 over the
trained steps, see `scaled_advantages` and `maths.schedules`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from stepcredit.maths._checks import require_dims, require_shape, upcast

MIN_TOTAL_GAIN = 1e-6
"""A trajectory with a smaller total gain of similarity gets linear credit: its contributions are noise."""


def cosine_to_final(x0: Tensor, final: Tensor) -> Tensor:
    """Cosine similarity of each step's predicted clean latent to the final latent.

        s_i = <x0_i, final> / (|x0_i| |final|),  i = 0..T-1;   s_T = 1

    Source: CoCA (arXiv 2505.19196) as released, `pipeline_with_logprob_coca.py`. Computed in float32 or
    float64: in half precision, which the released code uses, the error is as large as the gains of late steps.

    Args:
        x0: (B, T, *L), predicted clean latents from the guided model output.
        final: (B, *L), the latent after the last step.

    Returns:
        (B, T + 1), in [-1, 1]; the last column is the final latent with itself.

    Raises:
        ValueError: `x0` has no latent dimensions, or `final` does not match it.

    Degenerate: a zero vector has cosine 0 with everything, so a zero final latent gives a row of zeros, s_T included.
    For latents whose squares overflow or underflow (all above 1e19, or all below 1e-19 in float32) the result is finite
    but meaningless.
    """
    require_dims("x0", x0, 3, "(B, T, *L)", exact=False)
    require_shape("final", final, (x0.shape[0], *x0.shape[2:]), "give the last latents of the trajectories of x0")
    steps, last = _unit(upcast(x0).flatten(2)), _unit(upcast(final).flatten(1))
    # Multiply and sum, not a matmul: a matmul may run in TF32 on the GPU.
    cosine = (steps * last.unsqueeze(1)).sum(-1).clamp(-1, 1)
    return torch.cat([cosine, last.ne(0).any(-1, keepdim=True).to(cosine.dtype)], dim=1)


def contrast_to_group(x0: Tensor, final: Tensor, groups: Sequence[str]) -> Tensor:
    """`cosine_to_final` after subtracting the mean final latent of the trajectory's group.

        s_i = cos(x0_i - m, final - m),  i = 0..T-1;   s_T = 1,   m = mean of the group's final latents

    A group advantage rewards the difference between an image and the others of its group. This similarity measures how
    early that difference was settled, not how early the layout that all of them share was. Source: ours.

    Args:
        x0: (B, T, *L), predicted clean latents from the guided model output.
        final: (B, *L), the latent after the last step.
        groups: B names, usually the prompts; equal names form a group and need not be adjacent.

    Returns:
        (B, T + 1), in [-1, 1].

    Raises:
        ValueError: as `cosine_to_final`, or not one name per trajectory.

    Degenerate: in a group of one, and in one of equal final latents, a row of zeros.
    """
    require_shape("final", final, (len(groups), *x0.shape[2:]), "give one group per trajectory")
    middle = upcast(final).clone()
    for name in dict.fromkeys(groups):
        rows = [row for row, group in enumerate(groups) if group == name]
        members = upcast(final[rows])
        # As an offset from the first, so that the mean of equal latents is exactly each of them.
        middle[rows] = members[:1] + (members - members[:1]).mean(0, keepdim=True)
    return cosine_to_final(upcast(x0) - middle.unsqueeze(1), upcast(final) - middle)


def uniform_weights(steps: int, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """All weight on the last step, so the reward-to-go is exactly 1 everywhere: DDPO (arXiv 2305.13301).

    Returns (1, T), which broadcasts over trajectories. Raises ValueError if steps < 1.
    """
    weights = torch.zeros(1, _positive("steps", steps), device=device, dtype=dtype)
    weights[:, -1] = 1
    return weights


def linear_weights(steps: int, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """1/T on every step, so the reward-to-go falls as (T - i)/T: the paper's uniform credit assignment (UCA).

    The released `train_uca.py` indexes these by position in a shuffled loop instead of by step; this is the intended
    rule. Returns (1, T), which broadcasts over trajectories. Raises ValueError if steps < 1.
    """
    return torch.ones(1, _positive("steps", steps), device=device, dtype=dtype) / steps


def contribution_gain(similarity: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """How much closer to the final latent each window of steps brought the prediction.

        m_k = mean of s_1..s_T over window k;   g_0 = m_0 - s_0,   g_k = m_k - m_{k-1}

    Step i acts between s_i and s_{i+1}, so the windows start at s_1. The first gain is the difference between a mean
    and a single value, all others between two means: if s is linear in i, the first window gets (W + 1) / (2 W) of the
    share of the others.

    Args:
        similarity: (B, T + 1), from `cosine_to_final`.
        window: W >= 1 steps per window, clamped to T. The last window may be shorter than W (the
            released code requires W to divide T).

    Returns:
        gains (B, K) with K = ceil(T / W), and the window sizes (K,), int64, which sum to T.

    Raises:
        ValueError: window < 1, or `similarity` holds no step.
    """
    require_dims("similarity", similarity, 2, "(B, T + 1)")
    steps = _positive("steps in similarity (its columns less one)", similarity.shape[1] - 1)
    similarity = upcast(similarity)
    sizes = [min(window, steps - start) for start in range(0, steps, _positive("window", window))]
    windows = similarity[:, 1:].split_with_sizes(sizes, dim=1)
    levels = torch.stack([similarity[:, 0], *(part.mean(1) for part in windows)], dim=1)
    return levels.diff(dim=1), torch.tensor(sizes, device=similarity.device)


def contribution_weights(similarity: Tensor, window: int, clamp: bool = False) -> Tensor:
    """CoCA's weights: in proportion to the gain of similarity in the window of the step.

        w_i = g_k / (sum g) / |window k|,   k = the window of step i

    Source: arXiv 2505.19196 as released, `pipeline_with_logprob_coca.py` (with the division by the window length). The
    weights depend on the final latent, so this is a weighting of the policy gradient and not potential-based shaping.

    Args:
        similarity: (B, T + 1), from `cosine_to_final`.
        window: W >= 1 steps per window, clamped to T. W = T gives `linear_weights` exactly.
        clamp: set negative gains to 0 and renormalize. Otherwise a step that moved away from the final latent has
            negative weight and the reward-to-go may exceed 1.

    Returns:
        (B, T), rows sum to 1.

    Raises:
        ValueError: window < 1, or `similarity` holds no step.

    Degenerate: the rows of `degenerate_rows` get 1/T. The signed gains decide which rows these are, whatever `clamp`.
    If the total gain is just above the limit, and the similarity rose and fell, weights may be as large as 2e6. They
    are finite and sum to 1 up to rounding; `train.advantage_clip` limits the step advantages.
    """
    gains, sizes = contribution_gain(similarity, window)
    degenerate = _degenerate(gains).unsqueeze(1)
    if clamp:
        gains = gains.clamp_min(0)
    # In this order a single window gives 1.0 / T with no other rounding, which is linear_weights to the bit.
    share = gains / gains.sum(1, keepdim=True).masked_fill(degenerate, 1) / sizes
    steps = similarity.shape[1] - 1
    weights = share.repeat_interleave(sizes, dim=1, output_size=steps)
    return torch.where(degenerate, linear_weights(steps, device=weights.device, dtype=weights.dtype), weights)


def degenerate_rows(similarity: Tensor, window: int) -> Tensor:
    """Trajectories (B,) bool whose total gain is below 1e-6; `contribution_weights` gives them 1/T.

    Examples: constant similarity, identical latents, a zero final latent, and a trajectory that moved away from its
    final latent (dividing by its negative total would change the sign of all weights). Rows with NaN are not included:
    their weights are NaN.
    """
    return _degenerate(contribution_gain(similarity, window)[0])


def mean_over_batch(weights: Tensor) -> Tensor:
    """Every row replaced by the mean row, (B, T): the schedule of a rule without its credit for single trajectories.

    With several processes, gather the rows first.
    """
    require_dims("weights", weights, 2, "(B, T)")
    return upcast(weights).mean(0, keepdim=True).repeat(weights.shape[0], 1)


def reward_to_go(weights: Tensor) -> Tensor:
    """Credit not yet earned before step i: G_i = sum over j >= i of w_j.

    Args:
        weights: (B, T), rows summing to 1.

    Returns:
        (B, T), G_0 = 1 up to rounding. Within [0, 1] and non-increasing if the weights are non-negative.
    """
    require_dims("weights", weights, 2, "(B, T)")
    return upcast(weights).flip(1).cumsum(1).flip(1)


def multiplier(reward_to_go: Tensor, alpha: float) -> Tensor:
    """Blend of step credit and no credit: alpha + (1 - alpha) G.

    Args:
        reward_to_go: (B, T).
        alpha: in [0, 1]. 0 is the rule itself; 1 is exactly 1 everywhere (`temporal_alpha` of the released code).

    Returns:
        (B, T). Where G is exactly 1 so is the result, whatever alpha.

    Raises:
        ValueError: alpha outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise ValueError(
            f"alpha is {alpha}, expected a number in [0, 1]: 0 is the credit rule alone, 1 is no step credit"
        )
    return alpha + (1 - alpha) * upcast(reward_to_go)


def step_advantages(advantage: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """Step advantages of a rule of weights: M_i = A (alpha + (1 - alpha) G_i).

    Args:
        advantage: (B,), per trajectory, standardized and clipped.
        weights: (B, T), or (1, T) for one schedule shared by all.
        alpha: in [0, 1], see `multiplier`.

    Returns:
        (B, T); at alpha = 1, or with `uniform_weights`, exactly the advantage at every step.

    Raises:
        ValueError: `weights` has neither 1 nor B rows, or alpha is outside [0, 1].
    """
    require_dims("weights", weights, 2, "(B, T)")
    if weights.shape[0] != 1:
        require_shape("weights", weights, (len(advantage), weights.shape[1]), "give one row, or one per trajectory")
    return scaled_advantages(advantage, reward_to_go(weights), alpha)


def scaled_advantages(advantage: Tensor, factors: Tensor, alpha: float) -> Tensor:
    """Step advantages of a rule of factors: M_i = A (alpha + (1 - alpha) m_i).

    Args:
        advantage: (B,), per trajectory, standardized and clipped.
        factors: m, (B, T), or (1, T) for one schedule shared by all.
        alpha: in [0, 1], see `multiplier`.

    Returns:
        (B, T); at alpha = 1 exactly the advantage at every step.

    Raises:
        ValueError: `factors` has neither 1 nor B rows, or alpha is outside [0, 1].
    """
    require_dims("advantage", advantage, 1, "(B,)")
    require_dims("factors", factors, 2, "(B, T)")
    if factors.shape[0] != 1:
        require_shape("factors", factors, (advantage.shape[0], factors.shape[1]), "give one row, or one per trajectory")
    return upcast(advantage).unsqueeze(1) * multiplier(factors, alpha)


def _unit(vectors: Tensor) -> Tensor:
    """Scale the last dimension to length 1; zero vectors stay zero."""
    norm: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / norm.clamp_min(torch.finfo(vectors.dtype).tiny)


def _degenerate(gains: Tensor) -> Tensor:
    return gains.sum(1) < MIN_TOTAL_GAIN


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name} is {value}, expected at least 1")
    return value
