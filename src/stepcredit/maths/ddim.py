"""The DDIM step as a Gaussian transition."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from stepcredit.maths._checks import per_sample, require_dims, require_shape, upcast
from stepcredit.maths.transition import Transition

PredictionType = Literal["epsilon", "sample", "v_prediction"]

Clip = Callable[[Tensor], Tensor]
"""(B, *L) predicted clean latents -> (B, *L) clipped ones."""


def transition(
    model_output: Tensor,
    sample: Tensor,
    alpha_t: float | Tensor,
    alpha_prev: float | Tensor,
    eta: float,
    prediction_type: PredictionType = "epsilon",
    clip: Clip | None = None,
    keep_noise: bool = True,
) -> Transition:
    """One DDIM step from noise level `alpha_t` to the cleaner `alpha_prev`.

        std  = eta sqrt( (1 - a') / (1 - a) * (1 - a / a') )
        mean = sqrt(a') x0 + sqrt(1 - a' - std^2) eps

    with a = alpha_t, a' = alpha_prev. Source: DDIM (arXiv 2010.02502), equations 12 and 16. The order of operations is
    that of diffusers' `DDIMScheduler.step`. So in float32 on the CPU the two agree bit
    for bit, given alpha_* as the scheduler holds them (0-d tensors, left on their own device). Half-precision input is
    computed, and returned, in float32, where diffusers would stay in half precision.

    Args:
        model_output: (B, *L), the guided model output.
        sample: (B, *L), the current latent x_t.
        alpha_t: `alphas_cumprod` of this step, in [0, 1): a float, a 0-d tensor or (B,).
        alpha_prev: `alphas_cumprod` of the next, cleaner step, in (alpha_t, 1].
        eta: 0 is deterministic DDIM, 1 has the variance of DDPM.
        prediction_type: what `model_output` is.
        clip: applied to x0; the mean is then no longer linear in the model output.
        keep_noise: whether clipping leaves eps, as DDIM does. Otherwise eps is (x - sqrt(a) x0) / sqrt(1 - a) with the
            clipped x0, as in DDPM and in solvers that predict data.

    Returns:
        A Transition; `std` is 0-d if both alphas are scalars, else (B, 1, ...).

    Raises:
        ValueError: shapes differ, an alpha is neither scalar nor (B,), eta < 0, or an unknown prediction type.

    Degenerate: eta = 0, or alpha_prev = 1 (the last step under `set_alpha_to_one`), gives std = 0. Values under the
    roots are clamped to >= 0, which matters only for rounding and for eta > 1. alpha_t = 0 (zero terminal SNR) is well
    defined for "sample" and "v_prediction"; under "epsilon" x0 cannot be recovered and comes out infinite or NaN.
    """
    require_dims("sample", sample, 2, "(B, *L)", exact=False)
    require_shape("model_output", model_output, tuple(sample.shape), "one model output element per latent element")
    if not eta >= 0:
        raise ValueError(f"eta is {eta}, expected a number >= 0: 0 is deterministic, 1 fully stochastic")
    x, output = upcast(sample), upcast(model_output)
    a_t, a_prev = per_sample("alpha_t", alpha_t, x), per_sample("alpha_prev", alpha_prev, x)
    x0, noise = _predict(output, x, a_t, prediction_type)
    if clip is not None:
        x0 = clip(x0)
        noise = noise if keep_noise else (x - a_t.sqrt() * x0) / (1 - a_t).sqrt()
    std = eta * ((1 - a_prev) / (1 - a_t) * (1 - a_t / a_prev)).clamp_min(0).sqrt()
    mean = a_prev.sqrt() * x0 + (1 - a_prev - std**2).clamp_min(0).sqrt() * noise
    return Transition(mean=mean, std=std.to(x.device), x0=x0, output=output)


def _predict(output: Tensor, x: Tensor, a_t: Tensor, prediction_type: PredictionType) -> tuple[Tensor, Tensor]:
    """Return (x0, noise), both (B, *L), such that x = sqrt(a_t) x0 + sqrt(1 - a_t) noise."""
    signal, sigma = a_t.sqrt(), (1 - a_t).sqrt()
    if prediction_type == "epsilon":
        return (x - sigma * output) / signal, output
    if prediction_type == "sample":
        return output, (x - signal * output) / sigma
    if prediction_type == "v_prediction":
        return signal * x - sigma * output, signal * output + sigma * x
    raise ValueError(f"prediction_type is {prediction_type!r}, expected 'epsilon', 'sample' or 'v_prediction'")
