"""Losses of forward-process matching: a predicted clean latent is drawn towards rewarded images, away from others.

All functions take predictions of the clean latent, (n, *L), at noised final latents, and return one loss per row, (n,).
"""

from __future__ import annotations

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


def _scaled_distance(prediction: Tensor, clean: Tensor) -> Tensor:
    difference = (prediction - clean).flatten(1)
    scale = difference.detach().abs().mean(1).clamp_min(_SMALLEST)
    return difference.square().mean(1) / scale
