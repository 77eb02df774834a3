"""Coefficients-preserving sampling, trained on its true density."""

from stepcredit.maths import Transition
from stepcredit.maths.flow import FlowStep
from stepcredit.policy.samplers import register_sampler
from stepcredit.policy.samplers.cps import cps_step


@register_sampler("cps-gaussian")
def cps_gaussian(step: FlowStep, noise_level: float) -> Transition:
    """The step of `cps`, trained on the density that it is drawn from.

    This is what version 0.1 called `cps`.

    Source: Flow-CPS, arXiv 2509.05952.
    Degenerate case: the std of the last step with noise is tiny if the schedule ends near 0, and nearly the whole
    gradient then comes from it.

    Args:
        noise_level: in [0, 1]; 1 replaces all noise.

    Raises:
        ValueError: noise_level outside [0, 1].
    """
    return step.mix(*cps_step(step, noise_level))
