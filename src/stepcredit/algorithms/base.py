"""The protocol of an algorithm: what it needs from a rollout, and the loss of recorded (image, step) pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from stepcredit.algorithms.minibatch import StepBatch
from stepcredit.types import Policy, Trajectory


@dataclass(frozen=True)
class Needs:
    """What an algorithm needs from a rollout.

    Attributes:
        density: log-probabilities of the steps, so that rollouts draw noise and only steps with a density are trained.
            Otherwise every step is trained, and rollouts are deterministic unless `sample.stochastic` is true.
        old_weights: the trained weights as they were at the rollout, see `StepBatch.old_weights`.
        replay_epochs: how many earlier epochs are trained again in each epoch, see `training.replay_buffer`. It needs a
            loss of the final latents alone.
        replay_tolerance: by how much a log-probability may differ when it is replayed. The self-check refuses more.
    """

    density: bool
    old_weights: bool = False
    replay_epochs: int = 0
    replay_tolerance: float = math.inf


@dataclass(frozen=True)
class LossOutput:
    """The loss of n (image, step) pairs, and figures of them.

    Attributes:
        loss: (n,), with gradients.
        means: single numbers without gradients, each a mean over the pairs by their weights. An epoch reports the mean.
        maxima: likewise, of which an epoch reports the largest, also of updates that were skipped.
    """

    loss: Tensor
    means: Mapping[str, Tensor] = field(default_factory=dict)
    maxima: Mapping[str, Tensor] = field(default_factory=dict)


class Algorithm(Protocol):
    """How the weights follow from a rollout and the advantages of its steps.

    An update is the gradient of the mean of `loss` over its images and trained steps. Instances are immutable: options
    are fields of a frozen dataclass, and what changes during a run is in the policy.
    """

    @property
    def needs(self) -> Needs:
        """What the rollout has to record."""
        ...

    @property
    def console(self) -> Mapping[str, str]:
        """Figures to print after each epoch, with their format, such as {"clip_fraction": "clipped {:.0%}"}."""
        ...

    def anchors(self, policy: Policy, batches: Sequence[StepBatch]) -> list[Any]:
        """What each batch's loss is compared with, computed without gradients before the update's first forward.

        All batches of an update at once, because to swap the weights of a full adapter is slow. None where a loss needs
        nothing.
        """
        ...

    def loss(self, policy: Policy, batch: StepBatch, anchor: Any) -> LossOutput:
        """The loss of the pairs of `batch`, whose entry of `anchors` is `anchor`."""
        ...

    def step_scores(self, trajectory: Trajectory, step_advantages: Tensor) -> Tensor:
        """(B, T) float64 on the CPU: how much each step matters, which `train.sampled_steps` draws in proportion to."""
        ...

    def unregularized(self) -> Algorithm:
        """This algorithm without its penalty towards the reference."""
        ...

    def warnings(self, metrics: Mapping[str, float], tolerance: float) -> list[str]:
        """What the user should know of an epoch with these `metrics`.

        Args:
            tolerance: by how much a log-probability may differ when it is replayed.
        """
        ...
