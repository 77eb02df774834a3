"""Flow-matching steps as Gaussian transitions: the ODE, and three ways to make it stochastic.

A latent at noise level s is x = (1 - s) x0 + s x1, with x0 clean and x1 standard normal; the model predicts the
velocity v = x1 - x0. So every step knows both ends,

    x0 = x - s v,   x1 = x + (1 - s) v

and goes from s to s' < s by mixing them anew:

    mean = (1 - s') x0 + c x1,   std

The ODE has c = s' and std = 0. A sampler takes noise out of x1 and adds fresh noise; the latent keeps the noise level
s' that the model expects next if c^2 + std^2 = s'^2:

| sampler | c | std | c^2 + std^2 |
|---|---|---|---|
| `flow_sde` | s' - k^2 (s - s') / (2 s) | k sqrt(s - s'), k = a sqrt(s / (1 - s)) | above s'^2 |
| `dance_sde` | s' - a^2 (s - s') / (2 s) | a sqrt(s - s') | above s'^2 |
| `cps` | s' cos(a pi / 2) | s' sin(a pi / 2) | s'^2 |

with a = noise_level. For the two SDEs c^2 + std^2 = s'^2 + std^2 (s - s') / s + std^4 / (4 s^2): they leave more noise
than the next step expects, the more the longer the step, and noise in the finished image when s' = 0. That is what
`cps` repairs.

Noise levels `sigma` and `sigma_next` are floats, 0-d tensors (as diffusers' `scheduler.sigmas` holds them) or (B,),
with 0 <= sigma_next < sigma <= 1. They are compared where they lie, so give them on the CPU: a call would wait for an
accelerator that holds them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stepcredit.maths._checks import per_sample, require_dims, require_shape, upcast
from stepcredit.maths.transition import Transition

SamplerName = Literal["flow-sde", "dance-sde", "cps"]
Sampler = Callable[[Tensor, Tensor, float | Tensor, float | Tensor, float], Transition]

_ROUNDING = 1e-6
"""Noise levels nearer to 1 than this are 1: schedules that are computed reach it only up to rounding."""


def transition(
    velocity: Tensor,
    sample: Tensor,
    sigma: float | Tensor,
    sigma_next: float | Tensor,
    noise_level: float,
    sampler: SamplerName = "flow-sde",
    sigma_max: float | Tensor | None = None,
) -> Transition:
    """One step of the named sampler; exactly `euler` where `noise_level` is 0.

    Args:
        velocity: (B, *L), the guided model output.
        sample: (B, *L), the current latent.
        sigma: noise level of this step.
        sigma_next: noise level of the next, cleaner step.
        noise_level: >= 0, at most 1 for "cps".
        sampler: a key of `SAMPLERS`.
        sigma_max: see `flow_sde`; the others do not need it.

    Returns:
        A Transition; `std` is 0-d if both noise levels are scalars, else (B, 1, ...).

    Raises:
        ValueError: an unknown sampler, or what the sampler refuses.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler is {sampler!r}, expected one of {', '.join(map(repr, SAMPLERS))}")
    _require_noise_level(noise_level, 1.0 if sampler == "cps" else math.inf)
    if noise_level == 0:
        return euler(velocity, sample, sigma, sigma_next)
    if sampler == "flow-sde":
        return flow_sde(velocity, sample, sigma, sigma_next, noise_level, sigma_max)
    return SAMPLERS[sampler](velocity, sample, sigma, sigma_next, noise_level)


def euler(velocity: Tensor, sample: Tensor, sigma: float | Tensor, sigma_next: float | Tensor) -> Transition:
    """The deterministic step of the probability-flow ODE.

        mean = x + (sigma_next - sigma) v,   std = 0

    In float32 the mean is bit for bit what diffusers' `FlowMatchEulerDiscreteScheduler.step` returns, given sigmas as
    the scheduler holds them. Half-precision input is computed, and returned, in float32, where diffusers would round
    the product and the result to half precision.

    Args:
        velocity: (B, *L), the guided model output.
        sample: (B, *L), the current latent.
        sigma: noise level of this step.
        sigma_next: noise level of the next, cleaner step.

    Returns:
        A Transition; `std` is 0-d if both noise levels are scalars, else (B, 1, ...).

    Raises:
        ValueError: shapes differ, a noise level is neither scalar nor (B,), or not 0 <= sigma_next < sigma <= 1.

    Degenerate: sigma_next = 0 gives x0 up to rounding.
    """
    step = _step(velocity, sample, sigma, sigma_next)
    change = step.sigma_next - step.sigma
    return Transition(step.sample + change * step.velocity, (0 * change).to(step.sample.device), step.x0, step.velocity)


def flow_sde(
    velocity: Tensor,
    sample: Tensor,
    sigma: float | Tensor,
    sigma_next: float | Tensor,
    noise_level: float,
    sigma_max: float | Tensor | None = None,
) -> Transition:
    """The stochastic step of Flow-GRPO: with k = noise_level sqrt(sigma / (1 - sigma)) and d = sigma - sigma_next,

        std  = k sqrt(d)
        mean = x (1 - k^2 d / (2 sigma)) - v (1 + k^2 (1 - sigma) / (2 sigma)) d
             = (1 - sigma_next) x0 + (sigma_next - k^2 d / (2 sigma)) x1

    Source: Flow-GRPO (arXiv 2505.05470), the sampler of its released code, with noise_level 0.7. The second form is
    what is computed.

    Args:
        velocity: (B, *L), the guided model output.
        sample: (B, *L), the current latent.
        sigma: noise level of this step.
        sigma_next: noise level of the next, cleaner step.
        noise_level: >= 0.
        sigma_max: in [0, 1), stands for sigma in 1 - sigma where sigma is 1, in the released code the schedule's
            second noise level. None is `sigma_next`, which is the same number: the step from sigma = 1 leads there.

    Returns:
        A Transition; `std` is 0-d if all noise levels are scalars, else (B, 1, ...).

    Raises:
        ValueError: shapes differ, a noise level is neither scalar nor (B,), not 0 <= sigma_next < sigma <= 1,
            sigma_max not in [0, 1), or noise_level < 0.

    Degenerate: the noise after the step always exceeds sigma_next (.516 for .6 to .5 at noise level .7), because c^2 is
    cut by less than std^2 adds. The step to sigma_next = 0 leaves at least noise_level sigma / sqrt(1 - sigma) in
    the finished latent. A trajectory of one step, sigma = 1 to 0, has sigma_max = 0, k = noise_level and is finite.
    Large noise turns the coefficient of x1 negative. noise_level = 0 is `euler` up to rounding.
    """
    _require_noise_level(noise_level)
    step = _step(velocity, sample, sigma, sigma_next)
    second = sigma_next if sigma_max is None else sigma_max
    highest = torch.as_tensor(second)
    if not bool(((highest >= 0) & (highest < 1 - _ROUNDING)).all()) and bool(
        (torch.as_tensor(sigma) > 1 - _ROUNDING).any()
    ):
        raise ValueError(
            f"sigma_max is {highest.tolist()}, expected a number in [0, 1): the noise level after the first"
        )
    top = per_sample("sigma_max", second, step.sample)
    clean = 1 - torch.where(step.sigma > 1 - _ROUNDING, top, step.sigma)
    return step.diffused(noise_level * (step.sigma / clean).sqrt())


def dance_sde(
    velocity: Tensor,
    sample: Tensor,
    sigma: float | Tensor,
    sigma_next: float | Tensor,
    noise_level: float,
) -> Transition:
    """The stochastic step of DanceGRPO, whose diffusion is constant: with d = sigma - sigma_next,

        std  = noise_level sqrt(d)
        mean = x - (v + noise_level^2 (x - (1 - sigma) x0) / (2 sigma^2)) d
             = (1 - sigma_next) x0 + (sigma_next - noise_level^2 d / (2 sigma)) x1

    Source: DanceGRPO (arXiv 2505.07818) and its released code. The second form is what is computed.

    Args:
        velocity: (B, *L), the guided model output.
        sample: (B, *L), the current latent.
        sigma: noise level of this step.
        sigma_next: noise level of the next, cleaner step.
        noise_level: >= 0; eta there.

    Returns:
        A Transition; `std` is 0-d if both noise levels are scalars, else (B, 1, ...).

    Raises:
        ValueError: shapes differ, a noise level is neither scalar nor (B,), not 0 <= sigma_next < sigma <= 1, or
            noise_level < 0.

    Degenerate: the noise after the step always exceeds sigma_next, most at the cleanest steps, and the step to
    sigma_next = 0 leaves at least noise_level sqrt(sigma) in the finished latent. Large noise turns the coefficient of
    x1 negative; everything stays finite. noise_level = 0 is `euler` up to rounding.
    """
    _require_noise_level(noise_level)
    step = _step(velocity, sample, sigma, sigma_next)
    return step.diffused(torch.full_like(step.sigma, noise_level))


def cps(
    velocity: Tensor,
    sample: Tensor,
    sigma: float | Tensor,
    sigma_next: float | Tensor,
    noise_level: float,
) -> Transition:
    """Coefficients-preserving sampling: a share of the noise is swapped for fresh noise, its amount is kept.

        std  = sigma_next sin(noise_level pi / 2)
        mean = (1 - sigma_next) x0 + sigma_next cos(noise_level pi / 2) x1

    Source: Flow-CPS (arXiv 2509.05952). The flow counterpart of DDIM's eta: c^2 + std^2 = sigma_next^2 exactly, which
    the two SDEs exceed.

    Args:
        velocity: (B, *L), the guided model output.
        sample: (B, *L), the current latent.
        sigma: noise level of this step.
        sigma_next: noise level of the next, cleaner step.
        noise_level: in [0, 1]; 1 replaces all noise.

    Returns:
        A Transition; `std` is 0-d if both noise levels are scalars, else (B, 1, ...).

    Raises:
        ValueError: shapes differ, a noise level is neither scalar nor (B,), not 0 <= sigma_next < sigma <= 1, or
            noise_level outside [0, 1].

    Degenerate: sigma_next = 0, the last step, has std exactly 0 and mean exactly x0. noise_level = 0 is `euler` up to
    rounding.
    """
    _require_noise_level(noise_level, 1.0)
    step = _step(velocity, sample, sigma, sigma_next)
    angle = noise_level * math.pi / 2
    return step.mixed(step.sigma_next * math.cos(angle), step.sigma_next * math.sin(angle))


SAMPLERS: Mapping[SamplerName, Sampler] = {"flow-sde": flow_sde, "dance-sde": dance_sde, "cps": cps}
"""The stochastic samplers by name."""


@dataclass(frozen=True)
class _Step:
    """The checked inputs of a step, in one precision; noise levels are 0-d or (B, 1, ...)."""

    velocity: Tensor
    sample: Tensor
    sigma: Tensor
    sigma_next: Tensor

    @property
    def x0(self) -> Tensor:
        return self.sample - self.sigma * self.velocity

    @property
    def x1(self) -> Tensor:
        return self.sample + (1 - self.sigma) * self.velocity

    def mixed(self, coefficient: Tensor, std: Tensor) -> Transition:
        """(1 - s') x0 + coefficient x1, and fresh noise of `std`."""
        x0 = self.x0
        mean = (1 - self.sigma_next) * x0 + coefficient * self.x1
        return Transition(mean, std.to(mean.device), x0, self.velocity)

    def diffused(self, diffusion: Tensor) -> Transition:
        """One Euler-Maruyama step of the SDE that has the marginals of the flow and this `diffusion`."""
        length = self.sigma - self.sigma_next
        coefficient = self.sigma_next - diffusion**2 * length / (2 * self.sigma)
        return self.mixed(coefficient, diffusion * length.sqrt())


def _step(velocity: Tensor, sample: Tensor, sigma: float | Tensor, sigma_next: float | Tensor) -> _Step:
    require_dims("sample", sample, 2, "(B, *L)", exact=False)
    require_shape("velocity", velocity, tuple(sample.shape), "one velocity element per latent element")
    x, level, following = upcast(sample), torch.as_tensor(sigma), torch.as_tensor(sigma_next)
    scaled = per_sample("sigma", sigma, x), per_sample("sigma_next", sigma_next, x)
    if not bool(((following >= 0) & (following < level) & (level <= 1 + _ROUNDING)).all()):
        raise ValueError(
            f"sigma is {sigma} and sigma_next {sigma_next}, expected 0 <= sigma_next < sigma <= 1: noise levels fall"
        )
    return _Step(upcast(velocity), x, *scaled)


def _require_noise_level(noise_level: float, most: float = math.inf) -> None:
    if not 0 <= noise_level <= most:
        allowed = "a number >= 0" if math.isinf(most) else f"a number in [0, {most:g}]"
        raise ValueError(f"noise_level is {noise_level}, expected {allowed}: 0 is deterministic")
