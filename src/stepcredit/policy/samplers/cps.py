"""Coefficients-preserving sampling: noise is replaced, its amount stays."""

import math

import torch
from torch import Tensor

from stepcredit.maths import Transition
from stepcredit.maths.flow import FlowStep
from stepcredit.policy.samplers import register_sampler, require_noise_level


@register_sampler("cps")
def cps(step: FlowStep, noise_level: float) -> Transition:
    """The step of Flow-CPS: fresh noise replaces a share of the noise, and the next latent has the noise level s'.

        std = s' sin(noise_level pi / 2),   mean = (1 - s') x0 + s' cos(noise_level pi / 2) x1

    This corresponds to DDIM's eta. The SDEs leave more noise than s'.

    It is trained on log p = -(x - mean)^2 without the constants of the Gaussian, as in the released code. This is the
    density of a Gaussian with standard deviation sqrt(1/2). With the true density (`cps-gaussian`), nearly the whole
    gradient comes from one step. With T = 10 steps and a shift of 3, that step has 99.8% of the squared gradient; here
    no step has more than 21.5%.

    Source: Flow-CPS, arXiv 2509.05952, and its released code.
    Degenerate case: the last step, to s' = 0, has std exactly 0 and mean exactly x0. Noise level 0 is the Euler step up
    to rounding.

    Args:
        noise_level: in [0, 1]; 1 replaces all noise.

    Raises:
        ValueError: noise_level outside [0, 1].
    """
    coefficient, std = cps_step(step, noise_level)
    return step.mix(coefficient, std, torch.where(std > 0, math.sqrt(0.5), 0.0))


def cps_step(step: FlowStep, noise_level: float) -> tuple[Tensor, Tensor]:
    """(coefficient of x1, std) of the step; see `cps`."""
    require_noise_level(noise_level, 1.0)
    angle = noise_level * math.pi / 2
    return step.sigma_next * math.cos(angle), step.sigma_next * math.sin(angle)
