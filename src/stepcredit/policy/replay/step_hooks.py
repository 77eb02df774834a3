"""What a recording scheduler does with each step: sample and record it, skip it, or stop at it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from stepcredit.maths import Transition, gaussian
from stepcredit.policy.replay.trajectory_buffer import TrajectoryBuffer


class TransitionModel(Protocol):
    """A scheduler as the hooks see it."""

    def transition(self, model_output: Tensor, steps: Sequence[int], sample: Tensor, noise: float) -> Transition:
        """p(x_next | x), where row n is at step `steps[n]` of the schedule."""
        ...


class StepHook(Protocol):
    """Replaces `scheduler.step`.

    Attributes:
        steps: the part of the schedule that the pipeline's loop runs over.
    """

    steps: slice

    def step(
        self, scheduler: TransitionModel, model_output: Tensor, timestep: Tensor | float, sample: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(next latents, predicted clean latents)."""
        ...


class RecordingHook:
    """Samples every step from its Gaussian and records it.

    The arithmetic is float32. What is recorded, and what the log-probability is computed for, is the latent after
    rounding to the pipeline's dtype, so that a half-precision replay sees the same numbers.

    Args:
        noises: the noise scale of every step.
        generators: one per image of the batch.
        buffer: where to record.
        rows: the rows of the buffer that belong to this batch. If the batch is longer, its tail is not recorded.

    Attributes:
        position: index of the next step.
    """

    steps = slice(None)

    def __init__(
        self,
        noises: Sequence[float],
        generators: Sequence[torch.Generator],
        buffer: TrajectoryBuffer,
        rows: slice,
    ) -> None:
        self.noises = tuple(noises)
        self.generators = list(generators)
        self.position = 0
        self._buffer = buffer
        self._rows = rows

    def step(
        self, scheduler: TransitionModel, model_output: Tensor, timestep: Tensor | float, sample: Tensor
    ) -> tuple[Tensor, Tensor]:
        steps = [self.position] * len(sample)
        transition = scheduler.transition(model_output, steps, sample, self.noises[self.position])
        next_sample = gaussian.sample(transition, self._noise(transition.mean)).to(sample.dtype)
        if self.position == 0:
            self._buffer.begin(self._rows, sample)
        self._buffer.add(self._rows, self.position, next_sample, transition, timestep)
        self.position += 1
        return next_sample, transition.x0

    def _noise(self, like: Tensor) -> Tensor:
        """Row by row on the CPU, as diffusers' randn_tensor draws it. The copy to the device does not synchronize."""
        rows = [torch.randn(1, *like.shape[1:], generator=each, dtype=like.dtype) for each in self.generators]
        return torch.cat(rows).to(like.device, non_blocking=like.is_cuda)


class StepReached(Exception):
    """Leaves the pipeline from inside `scheduler.step` with the requested transition."""

    def __init__(self, transition: Transition) -> None:
        super().__init__("the pipeline reached the requested step")
        self.transition = transition


class ReplayHook:
    """Stops the pipeline at the requested step, before anything is sampled.

    Args:
        noises: the noise scale of every step.
        steps: the requested step of each row.
        full_loop: whether the loop starts at step 0 and skips the steps before the requested one, which must then be
            the same for all rows. Otherwise the loop starts at the step of the first row.

    Attributes:
        position: index of the next step.
    """

    def __init__(self, noises: Sequence[float], steps: Sequence[int], full_loop: bool) -> None:
        self.noises = tuple(noises)
        self.requested = list(steps)
        self.position = 0 if full_loop else steps[0]
        self.steps = slice(None) if full_loop else slice(steps[0], steps[0] + 1)

    @property
    def skips(self) -> bool:
        """Whether the step at `position` comes before the requested one."""
        return self.position < self.requested[0]

    def step(
        self, scheduler: TransitionModel, model_output: Tensor, timestep: Tensor | float, sample: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.skips:
            self.position += 1
            return sample, sample
        noises = [self.noises[step] for step in self.requested]
        raise StepReached(_transition(scheduler, model_output, self.requested, sample, noises))


class NoStepsHook:
    """Empties the denoising loop: the pipeline decodes the latents that it starts from."""

    steps = slice(0)

    def step(
        self, scheduler: TransitionModel, model_output: Tensor, timestep: Tensor | float, sample: Tensor
    ) -> tuple[Tensor, Tensor]:
        raise RuntimeError("the pipeline took a denoising step although its schedule has none")


def _transition(
    scheduler: TransitionModel, model_output: Tensor, steps: Sequence[int], sample: Tensor, noises: Sequence[float]
) -> Transition:
    """The transitions of rows whose noise scales `noises` may differ."""
    groups = {noise: [row for row, each in enumerate(noises) if each == noise] for noise in noises}
    if len(groups) == 1:
        return scheduler.transition(model_output, steps, sample, noises[0])
    parts = [
        scheduler.transition(model_output[rows], [steps[row] for row in rows], sample[rows], noise)
        for noise, rows in groups.items()
    ]
    order = torch.tensor([row for rows in groups.values() for row in rows]).argsort().to(sample.device)
    return Transition(*(torch.cat(values)[order] for values in zip(*map(_fields, parts), strict=True)))


def _fields(transition: Transition) -> tuple[Tensor, ...]:
    return (
        transition.mean,
        transition.std,
        transition.x0,
        transition.output,
        transition.density_std,
        transition.diffusion,
    )
