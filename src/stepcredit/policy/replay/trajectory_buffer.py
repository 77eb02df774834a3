"""The store of a rollout: tensors of their final size, filled step by step."""

from __future__ import annotations

import torch
from torch import Tensor

from stepcredit.maths import Transition, gaussian


class TrajectoryBuffer:
    """What a rollout of N images and T steps stores, made when the first step tells its shape and filled in place.

    Attributes:
        latents: (N, T+1, *L), in the dtype that the pipeline consumes.
        log_probs: (N, T).
        x0: (N, T, *L), or None if it is not kept.
        timesteps: (T,).
        stds: (T,), the least standard deviation of each step.
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
        self._made = False

    def begin(self, rows: slice, sample: Tensor) -> None:
        """Store where the trajectories of some images begin."""
        if not self._made:
            self.latents = sample.new_empty(self.count, self.steps + 1, *sample.shape[1:])
        self.latents[rows, 0] = sample[: rows.stop - rows.start]

    def add(self, rows: slice, step: int, following: Tensor, transition: Transition, timestep: Tensor | float) -> None:
        """Store where a step went; of a batch that is longer than `rows`, the head."""
        log_prob = gaussian.log_prob(following, transition.mean, transition.std)
        if not self._made:
            self._make(log_prob, transition, torch.as_tensor(timestep))
        here = slice(rows.stop - rows.start)
        self.latents[rows, step + 1] = following[here]
        self.log_probs[rows, step] = log_prob[here]
        if self.x0 is not None:
            self.x0[rows, step] = transition.x0[here]
        self.timesteps[step] = timestep
        self.stds[step] = transition.std.amin()

    def _make(self, log_prob: Tensor, transition: Transition, timestep: Tensor) -> None:
        shape = (self.count, self.steps)
        self.log_probs = log_prob.new_empty(shape)
        self.x0 = transition.x0.new_empty(*shape, *transition.x0.shape[1:]) if self.keep_x0 else None
        self.timesteps = timestep.new_empty(self.steps)
        self.stds = transition.std.new_empty(self.steps)
        self._made = True
