"""DanceGRPO's sampler: an SDE with constant noise."""

import torch

from stepcredit.maths import Transition
from stepcredit.maths.flow import FlowStep
from stepcredit.policy.samplers import register_sampler, require_noise_level


@register_sampler("dance-sde")
def dance_sde(step: FlowStep, noise_level: float) -> Transition:
    """The stochastic step of DanceGRPO, whose diffusion coefficient is constant.

        d = s - s',   std = noise_level sqrt(d),
        mean = x - (v + noise_level^2 (x - (1 - s) x0) / (2 s^2)) d
             = (1 - s') x0 + (s' - noise_level^2 d / (2 s)) x1

    computed in the second form.

    Source: DanceGRPO, arXiv 2505.07818, and its released code, where noise_level is eta.
    Degenerate case: the next latent always has more noise than s', most at the cleanest steps, and the step to s' = 0
    leaves at least noise_level sqrt(s) in the finished latent. Noise level 0 is the Euler step up to rounding.

    Args:
        noise_level: at least 0.

    Raises:
        ValueError: noise_level < 0.
    """
    require_noise_level(noise_level)
    return step.diffuse(torch.full_like(step.sigma, noise_level))
