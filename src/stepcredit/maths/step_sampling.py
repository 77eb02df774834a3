"""Sampling of the steps to train on, without bias of the expected gradient.

A fixed number of steps is drawn from each trajectory without replacement, step i with probability pi_i, and the loss of
a drawn step is weighted by 1 / pi_i. This is the Horvitz-Thompson estimator (1952): for any pi_i > 0, and whether or
not the draws are independent,

    E[ sum over the drawn i of f_i / pi_i ] = sum over all i of f_i

The variance is smallest if pi_i is proportional to |f_i|, and 0 if all steps are drawn.
"""

import torch
from torch import Tensor

from stepcredit.maths._checks import require_dims, require_shape

UNIFORM_SHARE = 0.1
"""Share of the probability that is equal for all steps, so that no weight exceeds T / (0.1 k)."""


def step_scores(advantages: Tensor, native_scales: Tensor, trainable: Tensor) -> Tensor:
    """|M_i| n_i: how much a step counts by the credit rule and the sampler, (B, T), float64 on the CPU.

    The gradient of a step's loss is M_i times that of its log-probability. The norm of the latter is proportional to
    n_i times the norm of the model's own gradient, which is unknown and assumed to be equal at all steps.

    Args:
        advantages: M, (B, T).
        native_scales: n, (T,), `Schedule.native_scales`.
        trainable: (T,) bool.

    Raises:
        ValueError: the shapes do not match.

    Degenerate: 0 for a step that is not trained; an infinite native scale counts as the largest finite one, or as 1.
    """
    require_dims("advantages", advantages, 2, "(B, T)")
    for name, values in (("native_scales", native_scales), ("trainable", trainable)):
        require_shape(name, values, (advantages.shape[1],), "give one per step")
    native, trained = native_scales.detach().cpu().double(), trainable.cpu()
    finite = native[trained & native.isfinite()]
    native = torch.where(native.isfinite(), native, finite.max() if len(finite) else 1.0)
    return torch.where(trained, advantages.detach().cpu().double().abs() * native, 0)


def inclusion_probabilities(scores: Tensor, trainable: Tensor, count: int) -> Tensor:
    """pi, (B, T), float64: the probability of each step if `count` steps are drawn.

        pi_i = min(1, c q_i),   q_i = 0.9 score_i / (sum of scores) + 0.1 / (trained steps)

    over the trained steps, with c such that pi sums to `count`. Steps with c q_i > 1 are always drawn, and the others
    share the rest.

    Args:
        scores: (B, T), finite, at least 0; equal scores are uniform sampling.
        trainable: (T,) bool.
        count: k >= 1.

    Raises:
        ValueError: the shapes do not match, or `count` is less than 1.

    Degenerate: 1 for every trained step if there are at most `count`. A row of zeros is uniform.
    """
    require_dims("scores", scores, 2, "(B, T)")
    require_shape("trainable", trainable, (scores.shape[1],), "give one flag per step")
    if count < 1:
        raise ValueError(f"count is {count}, expected at least 1 step")
    trained = trainable.cpu()
    steps = int(trained.sum())
    if count >= steps:
        return trained.double().expand(len(scores), -1).clone()
    scores = torch.where(trained, scores.cpu().double(), 0)
    total = scores.sum(1, keepdim=True)
    even = trained.double() / steps
    mixed = torch.where(total > 0, scores / total.masked_fill(total == 0, 1), even)
    shares = (1 - UNIFORM_SHARE) * mixed + UNIFORM_SHARE * even
    certain = torch.zeros_like(shares, dtype=torch.bool)
    while True:
        left = count - certain.sum(1, keepdim=True)
        scaled = shares * left / shares.masked_fill(certain, 0).sum(1, keepdim=True)
        beyond = (scaled >= 1) & ~certain
        if not beyond.any():
            return torch.where(certain, 1.0, scaled)
        certain |= beyond


def systematic_draw(probabilities: Tensor, start: Tensor) -> Tensor:
    """Steps (B, T) bool drawn with these probabilities; each row draws as many steps as its probabilities sum to.

    The probabilities divide an interval into parts, and the parts that contain start, start + 1, start + 2, ... are
    drawn. Neighboring steps are rarely drawn together, so the drawn steps cover the trajectory. Source: systematic
    sampling with unequal probabilities (Madow, 1949).

    Args:
        probabilities: (B, T), from `inclusion_probabilities`: in [0, 1]; each row sums to an integer.
        start: (B,), uniform in [0, 1).

    Raises:
        ValueError: not one start per row.

    Degenerate: a step of probability 1 is always drawn, one of probability 0 never.
    """
    require_dims("probabilities", probabilities, 2, "(B, T)")
    require_shape("start", start, (len(probabilities),), "give one per row")
    certain = probabilities >= 1
    lengths = probabilities.double().masked_fill(certain, 0)
    ends = lengths.cumsum(1)
    whole = ends[:, -1:].round()
    ends = torch.where(ends == ends[:, -1:], whole, ends)  # a sum just below the integer would lose a step
    passed = (ends - start.double().unsqueeze(1)).ceil()
    return certain | (torch.diff(passed, dim=1, prepend=torch.zeros_like(whole)) > 0)
