"""The Gaussian of one denoising step: log-density, KL divergence, sampling."""

import math

import torch
from torch import Tensor

from stepcredit.maths._checks import require_dims, require_shape, require_std, upcast
from stepcredit.maths.transition import Transition

_LOG_SQRT_2PI = math.log(math.sqrt(2 * math.pi))


def log_prob(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Log-density of `x` under N(mean, std^2), averaged over the latent elements.

        mean_D[ -(x - mean)^2 / (2 std^2) - log std - log sqrt(2 pi) ]

    The mean over D, instead of the sum, is the convention of DDPO (`ddim_with_logprob.py`) and of the released CoCA
    code. So a ratio exp(new - old) is the D-th root of the true likelihood ratio, and clip ranges refer to this scale.

    Gradients flow through `mean` only; `x` and `std` are constants.

    Args:
        x: (B, *L), the latent that was reached.
        mean: (B, *L).
        std: scalar or (B or 1, 1, ...) with the rank of `mean`, >= 0.

    Returns:
        (B,), nats per latent element, float32 or float64.

    Raises:
        ValueError: `x` and `mean` differ in shape, or `std` does not broadcast to `mean` at equal rank.

    Degenerate: where std == 0 the step is deterministic and has no density. Such elements count 0, with zero gradient,
    so the ratio of the step is exactly 1. The same holds if std^2 is subnormal (std below 1.1e-19 in float32). All
    other results are finite if |x - mean| < 1e19 and |x - mean| / std < 1e19.

    Half precision is computed in float32. Pass `x` after rounding to the dtype of the pipeline: a replay knows only the
    rounded latent, and in bfloat16 the density before rounding differs by about |x| |x - mean| / (256 std^2) per
    element.
    """
    require_dims("mean", mean, 2, "(B, *L)", exact=False)
    require_shape("x", x, tuple(mean.shape), "give x and mean of the same step and batch")
    scale, deterministic = _scale(std, mean)
    squared = (upcast(x.detach()) - upcast(mean)) ** 2
    density = -squared / (2 * scale**2) - scale.log() - _LOG_SQRT_2PI
    return density.masked_fill(deterministic, 0.0).flatten(1).mean(1)


def step_log_prob(transition: Transition, x: Tensor) -> Tensor:
    """(B,), `log_prob` of the latents `x` (B, *L) that a step has reached, under the density that is trained on."""
    return log_prob(x, transition.mean, transition.density_std)


def kl(mean: Tensor, reference_mean: Tensor, std: Tensor) -> Tensor:
    """KL divergence of N(mean, std^2) from N(reference_mean, std^2), averaged over the latent elements.

        mean_D[ (mean - reference_mean)^2 / (2 std^2) ]

    Both policies share the step's std, so the KL is exact and symmetric. Source: the KL term of Flow-GRPO
    (arXiv 2505.05470). Gradients flow through `mean` only; the reference and `std` are constants.

    Args:
        mean: (B, *L), of the policy.
        reference_mean: (B, *L), of the frozen reference.
        std: scalar or (B or 1, 1, ...) with the rank of `mean`, >= 0.

    Returns:
        (B,), nats per latent element, >= 0.

    Raises:
        ValueError: the means differ in shape, or `std` does not broadcast to `mean` at equal rank.

    Degenerate: 0, with zero gradient, where std == 0 (the true value is infinite) or subnormal as in `log_prob`.
    """
    require_dims("mean", mean, 2, "(B, *L)", exact=False)
    require_shape("reference_mean", reference_mean, tuple(mean.shape), "give both means of the same step and batch")
    scale, deterministic = _scale(std, mean)
    squared = (upcast(mean) - upcast(reference_mean.detach())) ** 2
    return (squared / (2 * scale**2)).masked_fill(deterministic, 0.0).flatten(1).mean(1)


def sample(transition: Transition, noise: Tensor) -> Tensor:
    """Draw the next latent: mean + std * noise.

    Args:
        transition: the step.
        noise: (B, *L), standard normal; the caller owns the generator.

    Returns:
        (B, *L). Exactly `mean` where std == 0.

    Raises:
        ValueError: `noise` and `transition.mean` differ in shape.
    """
    require_shape("noise", noise, tuple(transition.mean.shape), "draw one noise value per latent element")
    require_std(transition.std, transition.mean)
    return upcast(transition.mean) + upcast(transition.std) * upcast(noise)


def _scale(std: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Return (`std` with zeros replaced by 1, where it was zero), on the device of `mean`."""
    require_std(std, mean)
    std = upcast(std.detach()).to(mean.device)
    # A negative or NaN std is a bug and must come out as NaN.
    deterministic = (std >= 0) & (std**2 < torch.finfo(std.dtype).tiny)
    return std.masked_fill(deterministic, 1.0), deterministic
