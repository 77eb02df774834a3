"""Losses of forward-process matching: a predicted clean latent is drawn towards rewarded images, away from others.

All functions take predictions p of the clean latent, (n, *L), at noised final latents x = alpha x0 + sigma eps, and
return one loss per row, (n,). |.|^2 is the mean over latent elements.

At p = p_old = anchor the gradient of each loss by p has the direction of A (p - x0): a rewarded image attracts the
prediction and a punished one repels it. The losses differ in how they weigh the noise levels, and in what bounds them.

Distances are divided by sigma^2, which makes them those of the velocity: of a flow, |v - (eps - x0)|^2, and of the
v-prediction of a variance-preserving model. `negative_aware` has its own scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stepcredit.maths._checks import upcast

_SMALLEST = 1e-5


def negative_aware(
    prediction: Tensor, old_prediction: Tensor, clean: Tensor, advantage: Tensor, beta: float, max_advantage: float
) -> Tensor:
    """The DiffusionNFT loss of each row, (n,).

        p+ = p_old + beta (p - p_old),   p- = p_old - beta (p - p_old)
        r  = 1/2 + clip(A, -c, c) / (2 c)
        L  = (c / beta) (r |p+ - x0|^2 / n+ + (1 - r) |p- - x0|^2 / n-),   n = mean |p - x0| without gradient

    |.|^2 is the mean over latent elements. At p = p_old the gradient by p is 2 clip(A) (p - x0) / (n D) for D latent
    elements: a rewarded image attracts the prediction and a punished one repels it.

    Source: arXiv 2509.16117, equations 5 and 9, with the x0 weighting of its release.

    Args:
        prediction: p, (n, *L), with gradients.
        old_prediction: p_old, (n, *L), of the weights that the images were sampled with.
        clean: x0, (n, *L), the final latents of the images.
        advantage: A, (n,).
        beta: in (0, 1], how far p+ and p- are from p_old.
        max_advantage: c > 0.

    Degenerate: A = 0 gives r = 1/2, and no gradient at p = p_old. n is at least 1e-5.
    """
    prediction, old, clean = upcast(prediction), upcast(old_prediction), upcast(clean)
    share = 0.5 + advantage.float().clamp(-max_advantage, max_advantage) / (2 * max_advantage)
    change = beta * (prediction - old)  # exactly 0 at the old prediction
    positive, negative = _scaled_distance(old + change, clean), _scaled_distance(old - change, clean)
    return (max_advantage / beta) * (share * positive + (1 - share) * negative)


def velocity_error(prediction: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
    """E = |p - x0|^2 / sigma^2 of each row, (n,).

    Args:
        sigma: (n,), standard deviation of the noise, above 0.
    """
    difference = (upcast(prediction) - upcast(clean)).flatten(1)
    return difference.square().mean(1) / sigma.float().square()


def advantage_weighted(error: Tensor, old_error: Tensor, advantage: Tensor, clip_range: float | None = None) -> Tensor:
    """Advantage-weighted matching: -A rho, rho = exp(E_old - E), or its clipped form as in PPO.

        -min(A rho, A clip(rho, 1 - e, 1 + e))

    Source: arXiv 2509.25050.

    Args:
        error: E of `velocity_error`, (n,), with gradients.
        old_error: E of the old weights, (n,).
        advantage: A, (n,).
        clip_range: e > 0; None does not clip.

    Degenerate: A = 0 has no gradient. Without a clip range nothing bounds how far a punished image repels.
    """
    advantage, ratio = advantage.float(), (old_error - error).exp()
    if clip_range is None:
        return -advantage * ratio
    return -torch.minimum(advantage * ratio, advantage * ratio.clamp(1 - clip_range, 1 + clip_range))


def elbo_gradient(error: Tensor, old_error: Tensor, advantage: Tensor) -> Tensor:
    """A policy gradient with -E in the place of log p: rho A E, rho = exp(E_old - E) without gradient.

    EPG of arXiv 2602.04663.
    """
    return (old_error - error).exp().detach() * advantage.float() * error


def proximal_elbo_gradient(error: Tensor, old_error: Tensor, advantage: Tensor) -> Tensor:
    """rho (A - d) E, with d = E_old - E and rho = exp(d) without gradients.

    PEPG of arXiv 2602.04663. It stops where d = A, so it needs no clipping.
    """
    change = (old_error - error).detach()
    return change.exp() * (advantage.float() - change) * error


def advantage_regression(error: Tensor, old_error: Tensor, advantage: Tensor) -> Tensor:
    """1/2 rho (A - d)^2, d = E_old - E, rho = exp(d) without gradient: the log-ratio d is regressed on A.

    PAR of arXiv 2602.04663. Its gradient is that of `proximal_elbo_gradient`.
    """
    change = old_error - error
    return 0.5 * change.detach().exp() * (advantage.float() - change).square()


def reward_adaptive(
    prediction: Tensor,
    old_prediction: Tensor,
    anchor: Tensor,
    clean: Tensor,
    advantage: Tensor,
    scale: float,
    sigma: Tensor,
) -> Tensor:
    """|p - (anchor + m A (x0 - p_old))|^2 / sigma^2: regression on the anchor, moved towards rewarded images.

    RAM of arXiv 2605.10759. The anchor bounds the change: a row's optimum is m A (x0 - p_old) away from it.

    Args:
        anchor: the prediction of the reference or of the old weights, (n, *L).
        scale: m > 0.
        sigma: (n,).
    """
    moved = upcast(clean) - upcast(old_prediction)
    target = upcast(anchor) + scale * _per_row(advantage, moved) * moved
    return velocity_error(prediction, target.detach(), sigma)


def reward_velocity(
    prediction: Tensor, anchor: Tensor, clean: Tensor, advantage: Tensor, beta: float, sigma: Tensor
) -> Tensor:
    """A loss with the gradient (A (p - x0) + beta (p - anchor)) 2 / (D sigma^2) by p, for D latent elements.

    It is |p - target|^2 / sigma^2 with target = p - A (p - x0) - beta (p - anchor) without gradient. RVM of arXiv
    2608.23664. For A + beta > 0 it draws to (A x0 + beta anchor) / (A + beta).

    Args:
        anchor: the prediction of the reference or of the old weights, (n, *L).
        beta: 0 or more.
        sigma: (n,).
    """
    current = upcast(prediction)
    pull = _per_row(advantage, current) * (current - upcast(clean)) + beta * (current - upcast(anchor))
    return velocity_error(current, (current - pull).detach(), sigma)


def _per_row(values: Tensor, rows: Tensor) -> Tensor:
    return values.float().view(-1, *[1] * (rows.ndim - 1))


def _scaled_distance(prediction: Tensor, clean: Tensor) -> Tensor:
    difference = (prediction - clean).flatten(1)
    scale = difference.detach().abs().mean(1).clamp_min(_SMALLEST)
    return difference.square().mean(1) / scale
