"""What a recording scheduler does with each stochastic step: draw and store it, or stop at it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from stepcredit.maths import Transition, gaussian


class Tape(Protocol):
    """Takes one transition of the walk and returns the next latents."""

    eta: float
    only_step: int | None

    def take(self, transition: Transition, sample: Tensor, timestep: Tensor | int) -> Tensor: ...


class Recorder:
    """Draws every step from its Gaussian and keeps what training needs.

    The mathematics is float32; what is stored, and what the log-probability is taken of, is the latent rounded to the
    dtype that the pipeline consumes, so that a half-precision replay sees the same numbers.
    """

    only_step: int | None = None

    def __init__(self, eta: float, generators: Sequence[torch.Generator], keep_x0: bool) -> None:
        self.eta = eta
        self.generators = list(generators)
        self.keep_x0 = keep_x0
        self.latents: list[Tensor] = []
        self.timesteps: list[Tensor] = []
        self.log_probs: list[Tensor] = []
        self.stochastic: list[Tensor] = []
        self.x0: list[Tensor] = []

    def take(self, transition: Transition, sample: Tensor, timestep: Tensor | int) -> Tensor:
        noise = randn_tensor(
            transition.mean.shape, generator=self.generators, device=transition.mean.device, dtype=transition.mean.dtype
        )
        following = gaussian.sample(transition, noise).to(sample.dtype)
        if not self.latents:
            self.latents.append(sample)
        self.latents.append(following)
        self.timesteps.append(torch.as_tensor(timestep))
        self.log_probs.append(gaussian.log_prob(following, transition.mean, transition.std))
        self.stochastic.append((transition.std > 0).all())
        if self.keep_x0:
            self.x0.append(transition.x0)
        return following


class StepReached(Exception):
    """Ends a replay inside `scheduler.step`, carrying the transition of the step asked for."""

    def __init__(self, transition: Transition) -> None:
        super().__init__("replay reached its step")
        self.transition = transition


class Replayer:
    """Stops the walk at its first transition, before anything is drawn."""

    def __init__(self, eta: float, step: int) -> None:
        self.eta = eta
        self.only_step: int | None = step

    def take(self, transition: Transition, sample: Tensor, timestep: Tensor | int) -> Tensor:
        raise StepReached(transition)
