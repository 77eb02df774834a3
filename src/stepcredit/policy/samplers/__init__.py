"""Flow samplers: how a flow-matching step draws noise, so that it has a density to train on.

To add a sampler, add one file here, or decorate a function in your own code; see `register_sampler`. The arithmetic
that samplers share is in `maths.flow`. DDIM models have their own noise (`sample.eta`) and use none of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from stepcredit.config import SampleSection
from stepcredit.errors import InputError
from stepcredit.maths import Transition
from stepcredit.maths.flow import FlowStep, flow_step
from stepcredit.registry import Registered, Registry

__all__ = ["SAMPLERS", "FlowSampler", "build_sampler", "register_sampler", "require_noise_level"]

FlowSampler = Callable[[FlowStep, float], Transition]
"""(step, noise level) -> p(next latent | latent)."""

SAMPLERS: Registry[FlowSampler] = Registry("sampler", "stepcredit.policy.samplers")


def register_sampler(name: str) -> Callable[[Registered], Registered]:
    """Decorator that makes a function available as `sample.sampler`.

    The function takes a `maths.flow.FlowStep` and `sample.noise_level`, and returns a `maths.Transition`, usually from
    `step.mix` or `step.diffuse`. It must be linear in the velocity, and it raises ValueError for a noise level that it
    does not allow. Deterministic steps are not its business: where no noise is asked for, the step is `step.euler`.

    >>> @register_sampler("constant-noise")
    ... def constant_noise(step, noise_level):
    ...     return step.mix(step.sigma_next, torch.full_like(step.sigma_next, noise_level))

    Raises:
        InputError: another sampler has the name.
    """
    return SAMPLERS.register(name)


def build_sampler(section: SampleSection, plugins: Iterable[str] = ()) -> FlowSampler:
    """The sampler that `sample.sampler` names, after a trial step with `sample.noise_level`.

    Args:
        plugins: loaded if no sampler has the name.

    Raises:
        InputError: no such sampler, or the sampler refuses the noise level or does not return a Transition.
    """
    sampler = SAMPLERS.get(section.sampler, plugins)
    step = flow_step(torch.zeros(1, 1), torch.zeros(1, 1), 0.6, 0.5)
    try:
        result = sampler(step, section.noise_level)
    except (TypeError, ValueError) as error:
        raise InputError(f"sample.sampler={section.sampler}: {' '.join(str(error).split())}") from error
    if not isinstance(result, Transition):
        raise InputError(
            f"sample.sampler={section.sampler} returned a {type(result).__name__}, expected a Transition, as from "
            "step.mix(coefficient, std)"
        )
    return sampler


def require_noise_level(noise_level: float, maximum: float = float("inf")) -> None:
    """ValueError unless 0 <= noise_level <= maximum."""
    if not 0 <= noise_level <= maximum:
        expected = "a number >= 0" if maximum == float("inf") else f"a number in [0, {maximum:g}]"
        raise ValueError(f"noise_level is {noise_level}, expected {expected}")
