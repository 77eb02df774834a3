"""Flow-GRPO's sampler: an SDE whose noise grows with the noise level."""

import torch

from stepcredit.maths import Transition
from stepcredit.maths.flow import FlowStep
from stepcredit.policy.samplers import register_sampler, require_noise_level

NEARLY_ONE = 0.99
"""Solvers with flow sigmas begin between this level and 1."""


@register_sampler("flow-sde")
def flow_sde(step: FlowStep, noise_level: float) -> Transition:
    """The stochastic step of Flow-GRPO.

        k = noise_level sqrt(s / (1 - s)),   d = s - s',   std = k sqrt(d),
        mean = x (1 - k^2 d / (2 s)) - v (1 + k^2 (1 - s) / (2 s)) d
             = (1 - s') x0 + (s' - k^2 d / (2 s)) x1

    computed in the second form. At s = 1 the schedule's second noise level stands for s in 1 - s. The same holds for an
    s above NEARLY_ONE that is closer to 1 than to the second level: the released code, whose schedules begin at 1
    exactly, would draw noise with a std of 7 at s = 0.9997, where Sana's own schedule begins.

    Source: Flow-GRPO, arXiv 2505.05470, the sampler of its released code, with noise_level 0.7.
    Degenerate case: the next latent always has more noise than s' (0.516 from 0.6 to 0.5 at noise level 0.7), and the
    step to s' = 0 leaves at least noise_level s / sqrt(1 - s) in the finished latent. A trajectory of one step, from 1
    to 0, has k = noise_level. Noise level 0 is the Euler step up to rounding.

    Args:
        noise_level: at least 0.

    Raises:
        ValueError: noise_level < 0, or s = 1 and the second noise level is not below 1.
    """
    require_noise_level(noise_level)
    if step.sigma_second is None:
        raise ValueError("the schedule's second noise level is 1, expected a number in [0, 1)")
    first = (step.sigma > NEARLY_ONE) & (1 - step.sigma < step.sigma - step.sigma_second)
    clean = 1 - torch.where(first, step.sigma_second, step.sigma)
    return step.diffuse(noise_level * (step.sigma / clean).sqrt())
