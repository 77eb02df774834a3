"""Coefficients-preserving sampling: noise is replaced, its amount stays."""

import math

from stepcredit.maths import Transition
from stepcredit.maths.flow import FlowStep
from stepcredit.policy.samplers import register_sampler, require_noise_level


@register_sampler("cps")
def cps(step: FlowStep, noise_level: float) -> Transition:
    """The step of Flow-CPS: fresh noise replaces a share of the noise, and the next latent has the noise level s'.

        std = s' sin(noise_level pi / 2),   mean = (1 - s') x0 + s' cos(noise_level pi / 2) x1

    This corresponds to DDIM's eta. The SDEs leave more noise than s'.

    Source: Flow-CPS, arXiv 2509.05952.
    Degenerate case: the last step, to s' = 0, has std exactly 0 and mean exactly x0. Noise level 0 is the Euler step up
    to rounding.

    Args:
        noise_level: in [0, 1]; 1 replaces all noise.

    Raises:
        ValueError: noise_level outside [0, 1].
    """
    require_noise_level(noise_level, 1.0)
    angle = noise_level * math.pi / 2
    return step.mix(step.sigma_next * math.cos(angle), step.sigma_next * math.sin(angle))
