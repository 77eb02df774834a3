"""What a recording scheduler does with each step of a trajectory: draw and store it, pass it by, or stop at it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from stepcredit.maths import Transition, gaussian
from stepcredit.policy.replay.trajectory_buffer import TrajectoryBuffer


class StepHook(Protocol):
    """Takes the transitions of a trajectory in turn.

    Attributes:
        position: index of the step that comes next.
        only: cut the trajectory down to this one step, or None for all of it.
    """

    position: int
    only: int | None

    @property
    def noise(self) -> float:
        """The noise scale of the step at `position`; 0 is deterministic."""
        ...

    def steps(self, count: int) -> list[int]:
        """The step that each of `count` rows is at."""
        ...

    def passes(self) -> bool:
        """Whether the step at `position` is passed by; the trajectory then goes on from the latents it came with."""
        ...

    def take(self, transition: Transition, sample: Tensor, timestep: Tensor | int) -> Tensor:
        """The next latents."""
        ...


class RecordingHook:
    """Draws every step from its Gaussian and stores what training needs.

    The mathematics is float32; what is stored, and what the log-probability is taken of, is the latent rounded to the
    dtype that the pipeline consumes, so that a half-precision replay sees the same numbers.

    Args:
        noises: the noise scale of every step.
        generators: one per sample of the batch.
        trajectories: where to store it.
        rows: the samples there that these are; a batch may hold more, which are not stored.
    """

    only: int | None = None

    def __init__(
        self,
        noises: Sequence[float],
        generators: Sequence[torch.Generator],
        trajectories: TrajectoryBuffer,
        rows: slice,
    ) -> None:
        self.noises = tuple(noises)
        self.generators = list(generators)
        self.position = 0
        self._buffer = trajectories
        self._rows = rows

    @property
    def noise(self) -> float:
        return self.noises[self.position]

    def steps(self, count: int) -> list[int]:
        return [self.position] * count

    def passes(self) -> bool:
        return False

    def take(self, transition: Transition, sample: Tensor, timestep: Tensor | int) -> Tensor:
        following = gaussian.sample(transition, self._noise(transition.mean)).to(sample.dtype)
        if self.position == 0:
            self._buffer.begin(self._rows, sample)
        self._buffer.add(self._rows, self.position, following, transition, timestep)
        self.position += 1
        return following

    def _noise(self, like: Tensor) -> Tensor:
        """As diffusers' randn_tensor draws it, row by row on the CPU; but nobody waits until it is on the device."""
        rows = [torch.randn(1, *like.shape[1:], generator=each, dtype=like.dtype) for each in self.generators]
        return torch.cat(rows).to(like.device, non_blocking=like.is_cuda)


class StepReached(Exception):
    """Ends a replay inside `scheduler.step`, carrying the transition of the step asked for."""

    def __init__(self, transition: Transition) -> None:
        super().__init__("replay reached its step")
        self.transition = transition


class ReplayHook:
    """Stops the trajectory at the steps wanted, before anything is drawn.

    Args:
        noises: the noise scale of every step.
        steps: the step wanted of each row; several of them, which must have one noise scale, stand for the first.
        whole: trajectory there past all steps before, instead of beginning at it; for all rows alike.
    """

    def __init__(self, noises: Sequence[float], steps: Sequence[int], whole: bool) -> None:
        self.noises = tuple(noises)
        self.wanted = list(steps)
        self.only = None if whole else steps[0]
        self.position = 0 if whole else steps[0]

    @property
    def noise(self) -> float:
        return self.noises[self.position]

    def steps(self, count: int) -> list[int]:
        return self.wanted

    def passes(self) -> bool:
        return self.position < self.wanted[0]

    def take(self, transition: Transition, sample: Tensor, timestep: Tensor | int) -> Tensor:
        raise StepReached(transition)
