"""The schedule of a trajectory, noising to its levels, and step weights computed from it.

The weights serve credit rules that need no image: at step i such a rule scales the advantage of every trajectory by the
same factor M_i / A. `mean_one` turns weights into these factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stepcredit.maths._checks import per_sample, require_dims, require_shape, upcast
from stepcredit.maths.transition import Transition


@dataclass(frozen=True)
class Schedule:
    """The properties of each step that are known before anything is sampled; the same for all trajectories.

    The noise level before step i is that of x_i = alphas[i] x0 + sigmas[i] eps, with eps standard normal; index T is
    the level after the last step. DDIM has sqrt(alpha_bar) and sqrt(1 - alpha_bar), a flow 1 - s and s.

    Attributes:
        stds: (T,), standard deviation of the step's noise; 0 is a deterministic step.
        output_scales: (T,), |d mean / d model output|, see `of_units`.
        step_sizes: (T,), the part of the schedule that the step covers: for a flow the difference of the noise levels,
            for DDIM the difference of the timesteps divided by their number (so that all are equal).
        alphas: (T + 1,) float32, the coefficient of the clean latent in x_0 to x_T.
        sigmas: (T + 1,) float32, the standard deviation of the noise in x_0 to x_T.
        density_stds: (T,), standard deviation of the density that is trained on; None for `stds`.
    """

    stds: Tensor
    output_scales: Tensor
    step_sizes: Tensor
    alphas: Tensor
    sigmas: Tensor
    density_stds: Tensor | None = None

    @property
    def native_scales(self) -> Tensor:
        """(T,), how strongly the model output changes the log-probability of each step: |d mean / d output| / std.

        The gradient of log N(x; mean, std) by the model output is z (d mean / d output) / std with z standard normal.
        If the density that is trained on has another standard deviation r, it is z std (d mean / d output) / r^2.
        The native scale is its root mean square per latent element. It depends on the sampler only, and scales every
        policy gradient independently of the credit. Source: w(t) = C(t) / sigma_t of PCPO (arXiv 2509.25774),
        proposition 1.

        Degenerate: 0 for a step without noise, which has no density.
        """
        noisy = self.stds > 0
        stds = self.stds.masked_fill(~noisy, 1)
        divisor = stds if self.density_stds is None else self.density_stds**2 / stds
        return torch.where(noisy, self.output_scales / divisor.masked_fill(~noisy, 1), 0)

    def gradient_shares(self, trainable: Tensor) -> Tensor:
        """(T,), each trained step's share of the expected squared policy gradient by the model output, before credit.

            native_i^2 / sum_j native_j^2

        Degenerate: 0 at steps that are not trained or whose native scale is infinite; all 0 if there are no others.
        """
        native = self.native_scales.double()
        squared = torch.where(trainable & native.isfinite(), native, 0) ** 2
        return squared / squared.sum().clamp_min(torch.finfo(squared.dtype).tiny)


def of_units(units: Sequence[Transition], step_sizes: Sequence[float], alphas: Tensor, sigmas: Tensor) -> Schedule:
    """The schedule from one unit transition per step: its model output is 1 and its latent 0, both (1, 1).

    The mean of every sampler is linear, mean = p x + q output. The mean of a unit transition is q = d mean / d output:

    | step | q |
    |---|---|
    | DDIM, epsilon | r - sqrt(a' (1 - a) / a), r = sqrt(1 - a' - std^2) |
    | DDIM, sample | sqrt(a') - r sqrt(a / (1 - a)) |
    | DDIM, v_prediction | r sqrt(a) - sqrt(a' (1 - a)) |
    | flow, with c as in `maths.flow` | c (1 - s) - s (1 - s') |

    Args:
        units: T transitions in float64, because q is a small difference of larger numbers.
        step_sizes: T numbers, see `Schedule`.
        alphas, sigmas: (T + 1,), see `Schedule`.

    Returns:
        float32, on the CPU.

    Degenerate: q is infinite for epsilon prediction at a = 0.
    """
    densities = [unit.density_std for unit in units]
    return Schedule(
        stds=_stacked([unit.std for unit in units]),
        output_scales=torch.stack([unit.mean.abs().amax().cpu() for unit in units]).float(),
        step_sizes=torch.tensor(step_sizes, dtype=torch.float32),
        alphas=alphas.cpu().float(),
        sigmas=sigmas.cpu().float(),
        density_stds=None if all(unit.density_std is unit.std for unit in units) else _stacked(densities),
    )


def _stacked(stds: Sequence[Tensor]) -> Tensor:
    return torch.stack([std.amax().cpu() for std in stds]).float()


def noised(x0: Tensor, noise: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
    """alpha x0 + sigma noise: the clean latents `x0` taken to a noise level of the forward process.

    Args:
        x0: (B, *L), clean latents.
        noise: (B, *L), standard normal.
        alpha: coefficient of `x0`, see `Schedule`: a float, a 0-d tensor or (B,).
        sigma: coefficient of `noise`: a float, a 0-d tensor or (B,).

    Returns:
        (B, *L), in float32 or float64.

    Raises:
        ValueError: the shapes differ, or a coefficient is neither scalar nor (B,).

    Degenerate: alpha 1 and sigma 0 return `x0`.
    """
    require_shape("noise", noise, tuple(x0.shape), "draw one noise value per latent element")
    clean = upcast(x0)
    return per_sample("alpha", alpha, clean) * clean + per_sample("sigma", sigma, clean) * upcast(noise)


def mean_one(weights: Tensor, trainable: Tensor) -> Tensor:
    """Scale weights to mean 1 over the trained steps.

        m_i = w_i / (mean of w over the trained steps),   0 at the others

    Args:
        weights: (T,) or (B, T), non-negative.
        trainable: (T,) bool.

    Returns:
        The shape of `weights`.

    Raises:
        ValueError: the shapes do not match.

    Degenerate: if all weights of the trained steps are 0, they become 1 (see `weightless_rows`).
    """
    require_shape("trainable", trainable, (weights.shape[-1],), "give one flag per step")
    kept = torch.where(trainable, upcast(weights), 0)
    mean = kept.sum(-1, keepdim=True) / trainable.sum().clamp_min(1)
    empty = mean == 0
    return torch.where(empty, trainable.to(kept.dtype), kept / mean.masked_fill(empty, 1))


def weightless_rows(weights: Tensor, trainable: Tensor) -> Tensor:
    """(B,) bool: the rows of weights (B, T) that are 0 at all trained steps; `mean_one` makes their weights equal."""
    return ~torch.where(trainable, weights, 0).any(-1)


def discount_weights(steps: int, gamma: float) -> Tensor:
    """gamma^i, (T,), with i = 0 the noisiest step: early steps get more weight.

    Source: the discounted log-ratios of the dense-reward view (arXiv 2402.08265), with gamma = 0.9.

    Raises:
        ValueError: gamma outside (0, 1], or steps < 1.

    Degenerate: gamma = 1 is no step credit.
    """
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma is {gamma}, expected above 0 and at most 1: 1 is no discount")
    if steps < 1:
        raise ValueError(f"steps is {steps}, expected at least 1")
    return torch.full((steps,), gamma).pow(torch.arange(steps))


def step_size_weights(schedule: Schedule) -> Tensor:
    """d_i / (native scale of i), (T,), with d the step sizes: the effect of a step is proportional to its size.

    Source: PCPO (arXiv 2509.25774), which makes the native scale proportional to d_i. For flows it does so by these
    weights (proposition 2), for diffusion models, where all d_i are equal, by a different noise schedule. Here weights
    serve both.

    Degenerate: 0 where `inverse_scale_weights` is.
    """
    return schedule.step_sizes * inverse_scale_weights(schedule)


def inverse_scale_weights(schedule: Schedule) -> Tensor:
    """1 / native scale, (T,): all steps have the same effect on the policy.

    Degenerate: 0 for a step without noise, and where the native scale is 0 or infinite.
    """
    native = schedule.native_scales
    usable = native > 0
    return torch.where(usable, 1 / native.masked_fill(~usable, 1), 0)


def relative_changes(latents: Tensor) -> Tensor:
    """|x_{i+1} - x_i| / |x_i| in the L1 norm, (B, T): the relative change of the latent at each step.

    Source: GCPO (arXiv 2510.21583) splits trajectories by this distance. Its use as a step weight is new here.

    Args:
        latents: (B, T + 1, *L).

    Raises:
        ValueError: no step, or no latent dimensions.

    Degenerate: 0 where x_i is 0.
    """
    require_dims("latents", latents, 3, "(B, T + 1, *L)", exact=False)
    if latents.shape[1] < 2:
        raise ValueError(f"latents has shape {tuple(latents.shape)}, expected at least two latents: one step")
    changes = []
    for before, after in zip(latents.unbind(1)[:-1], latents.unbind(1)[1:], strict=True):
        start, end = upcast(before).flatten(1), upcast(after).flatten(1)
        size = start.abs().sum(1)
        changes.append(torch.where(size > 0, (end - start).abs().sum(1) / size.masked_fill(size == 0, 1), 0))
    return torch.stack(changes, dim=1)


def kept_steps(trainable: Tensor, dropped: int) -> Tensor:
    """(T,): 1 for the trained steps except the last `dropped` of them, 0 for all others.

    Raises:
        ValueError: `dropped` is negative or leaves no trained step.
    """
    count = int(trainable.sum())
    if not 0 <= dropped < count:
        raise ValueError(f"{dropped} of {count} trained steps cannot be dropped: give 0 to {count - 1}")
    position = trainable.cumsum(0)
    return (trainable & (position <= count - dropped)).float()
