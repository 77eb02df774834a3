"""One step of a flow-matching model: what every flow sampler computes with.

A latent at noise level s is x = (1 - s) x0 + s x1, with x0 clean and x1 standard normal. The model predicts the
velocity v = x1 - x0, so a step knows an estimate of both ends:

    x0 = x - s v,   x1 = x + (1 - s) v

A step from s to s' < s is a Gaussian that mixes them anew:

    mean = (1 - s') x0 + c x1,   std

The ODE has c = s' and std = 0. A stochastic sampler takes noise out of x1 (c < s') and adds fresh noise (std > 0). The
next latent has the noise level s' that the model expects if c^2 + std^2 = s'^2. The samplers are in `policy.samplers`,
one per file.

Noise levels are floats, 0-d tensors (as in diffusers' `scheduler.sigmas`) or (B,). They are compared on the device
where they are, so keep them on the CPU: otherwise every step waits for the accelerator.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stepcredit.maths._checks import per_sample, require_dims, require_shape, upcast
from stepcredit.maths.transition import Transition

ROUNDING = 1e-6
"""Noise levels closer to 1 than this count as 1, because computed schedules reach 1 only up to rounding."""


@dataclass(frozen=True)
class FlowStep:
    """The inputs of a step in one precision. Noise levels are 0-d or (B, 1, ...). See `flow_step`.

    Attributes:
        velocity: (B, *L), v, the guided model output.
        sample: (B, *L), x, the current latent.
        sigma: s, the noise level of this step.
        sigma_next: s', the noise level of the next, cleaner step.
        sigma_second: noise level of the schedule's second step, for samplers that are infinite at s = 1. None if s is 1
            and this level is not below 1.
    """

    velocity: Tensor
    sample: Tensor
    sigma: Tensor
    sigma_next: Tensor
    sigma_second: Tensor | None

    @property
    def x0(self) -> Tensor:
        """(B, *L), the predicted clean latent."""
        return self.sample - self.sigma * self.velocity

    @property
    def x1(self) -> Tensor:
        """(B, *L), the predicted noise."""
        return self.sample + (1 - self.sigma) * self.velocity

    def euler(self) -> Transition:
        """The deterministic step of the probability-flow ODE: mean = x + (s' - s) v, std = 0.

        In float32 the mean is bit for bit that of diffusers' `FlowMatchEulerDiscreteScheduler.step`. For half-precision
        input the result is float32, where diffusers rounds to half precision.

        Degenerate: s' = 0 gives x0 up to rounding.
        """
        change = self.sigma_next - self.sigma
        return Transition(
            self.sample + change * self.velocity, (0 * change).to(self.sample.device), self.x0, self.velocity
        )

    def mix(
        self, coefficient: Tensor, std: Tensor, density_std: Tensor | None = None, diffusion: Tensor | None = None
    ) -> Transition:
        """mean = (1 - s') x0 + coefficient x1, with fresh noise of standard deviation `std`.

        Args:
            density_std, diffusion: see `Transition`.
        """
        x0 = self.x0
        mean = (1 - self.sigma_next) * x0 + coefficient * self.x1
        stds = (std, std if density_std is None else density_std, std if diffusion is None else diffusion)
        std, density, rate = (value.to(mean.device) for value in stds)
        return Transition(mean, std, x0, self.velocity, density, rate)

    def diffuse(self, diffusion: Tensor) -> Transition:
        """One Euler-Maruyama step of the SDE with the marginals of the flow and diffusion coefficient k = `diffusion`.

            c = s' - k^2 (s - s') / (2 s),   std = k sqrt(s - s')

        Degenerate: c^2 + std^2 = s'^2 + std^2 (s - s') / s + std^4 / (4 s^2), so the next latent has more noise than
        the model expects, and the finished image has noise left. Large k makes c negative.
        """
        length = self.sigma - self.sigma_next
        coefficient = self.sigma_next - diffusion**2 * length / (2 * self.sigma)
        return self.mix(coefficient, diffusion * length.sqrt(), diffusion=diffusion)


def flow_step(
    velocity: Tensor,
    sample: Tensor,
    sigma: float | Tensor,
    sigma_next: float | Tensor,
    sigma_second: float | Tensor | None = None,
) -> FlowStep:
    """The checked inputs of a step; half precision becomes float32.

    Args:
        velocity: (B, *L), the guided model output.
        sample: (B, *L), the current latent.
        sigma: noise level of this step.
        sigma_next: noise level of the next, cleaner step.
        sigma_second: noise level of the schedule's second step; `sigma_next` by default, which is the same number if
            this is the first step.

    Raises:
        ValueError: shapes differ, a noise level is neither scalar nor (B,), or not 0 <= sigma_next < sigma <= 1.
    """
    require_dims("sample", sample, 2, "(B, *L)", exact=False)
    require_shape("velocity", velocity, tuple(sample.shape), "one velocity element per latent element")
    second = sigma_next if sigma_second is None else sigma_second
    level, following, after_first = (torch.as_tensor(value) for value in (sigma, sigma_next, second))
    x = upcast(sample)
    scaled = per_sample("sigma", sigma, x), per_sample("sigma_next", sigma_next, x)
    if not bool(((following >= 0) & (following < level) & (level <= 1 + ROUNDING)).all()):
        raise ValueError(
            f"sigma is {sigma} and sigma_next {sigma_next}, expected 0 <= sigma_next < sigma <= 1: noise levels fall"
        )
    below_one = bool(((after_first >= 0) & (after_first < 1 - ROUNDING)).all())
    usable = below_one or not bool((level > 1 - ROUNDING).any())
    return FlowStep(upcast(velocity), x, *scaled, per_sample("sigma_second", second, x) if usable else None)
