"""Tensors that a rollout fills step by step."""

from __future__ import annotations

import torch
from torch import Tensor

from stepcredit.maths import Transition, gaussian


class TrajectoryBuffer:
    """The tensors of a rollout of N images and T steps. They are allocated at the first step and filled in place.

    Attributes:
        latents: (N, T+1, *L), in the pipeline's dtype.
        log_probs: (N, T).
        x0: (N, T, *L), or None if `keep_x0` is False.
        timesteps: (T,).
        stds: (T,), the smallest standard deviation of each step.
    """

    latents: Tensor
    log_probs: Tensor
    x0: Tensor | None
    timesteps: Tensor
    stds: Tensor

    def __init__(self, count: int, steps: int, keep_x0: bool) -> None:
        self.count = count
        self.steps = steps
        self.keep_x0 = keep_x0
        self._allocated = False

    def begin(self, rows: slice, sample: Tensor) -> None:
        """Store the initial latents of some images."""
        if not self._allocated:
            self.latents = sample.new_empty(self.count, self.steps + 1, *sample.shape[1:])
        self.latents[rows, 0] = sample[: rows.stop - rows.start]

    def add(
        self, rows: slice, step: int, next_latents: Tensor, transition: Transition, timestep: Tensor | float
    ) -> None:
        """Store a step of some images. If the batch is longer than `rows`, its tail is dropped."""
        log_prob = gaussian.step_log_prob(transition, next_latents)
        if not self._allocated:
            self._allocate(log_prob, transition, torch.as_tensor(timestep))
        head = slice(rows.stop - rows.start)
        self.latents[rows, step + 1] = next_latents[head]
        self.log_probs[rows, step] = log_prob[head]
        if self.x0 is not None:
            self.x0[rows, step] = transition.x0[head]
        self.timesteps[step] = timestep
        self.stds[step] = transition.std.amin()

    def _allocate(self, log_prob: Tensor, transition: Transition, timestep: Tensor) -> None:
        shape = (self.count, self.steps)
        self.log_probs = log_prob.new_empty(shape)
        self.x0 = transition.x0.new_empty(*shape, *transition.x0.shape[1:]) if self.keep_x0 else None
        self.timesteps = timestep.new_empty(self.steps)
        self.stds = transition.std.new_empty(self.steps)
        self._allocated = True
