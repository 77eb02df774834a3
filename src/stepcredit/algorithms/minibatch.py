"""What an epoch of updates trains on: recorded trajectories and what every step of them was worth."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from stepcredit.algorithms.step_sampling import SampledSteps
from stepcredit.distributed.partition import Partition
from stepcredit.training.sampling_plan import entries
from stepcredit.types import Trajectory


@dataclass(frozen=True)
class Part:
    """What this process trains of one update.

    Attributes:
        rows: (n,), its images, as rows of the trajectory.
        images: how many the update has on all processes together.
        weights: (B, T) on the CPU, how often a step counts; those of weight 0 are left out. None is all once.
        largest: as many forwards are made as for so many images, more than are needed to no effect.
        first: whether no update was made since the rollout.
    """

    rows: Tensor
    images: int
    weights: Tensor | None = None
    largest: int = 0
    first: bool = False


@dataclass(frozen=True)
class Pairs:
    """What is recorded of n (image, step) pairs.

    Attributes:
        following: (n, *L), the latents that each step went to.
        log_probs: (n,), of going there at the rollout.
        advantages: (n,), M.
        weights: (n,), how often each counts; None is once.
    """

    following: Tensor
    log_probs: Tensor
    advantages: Tensor
    weights: Tensor | None

    def weighted(self, values: Tensor) -> Tensor:
        """`values` (n,), each as often as its pair counts."""
        return values if self.weights is None else values * self.weights


@dataclass(frozen=True)
class Experience:
    """The trajectories of an epoch, and the advantages of their steps.

    Attributes:
        trajectory: the trajectories of this process's images.
        advantages: (B, T), M of every step of them.
        share: which images of the epoch those are.
        draw: the steps to train on; None is all of them.
    """

    trajectory: Trajectory
    advantages: Tensor
    partition: Partition
    draw: SampledSteps | None = None

    def part(self, group: Tensor, *, mixed: bool, first: bool) -> Part:
        """This process's part of the update on the images `group`.

        Args:
            mixed: whether a forward may hold several steps; otherwise all images have the same steps drawn.
        """
        weights = self.draw.weights(group, shared=not mixed)[self.partition.rows] if self.draw else None
        largest = self.partition.largest_part(group) if self.partition.processes.sharded else 0
        return Part(self.partition.local_rows(group), len(group), weights, largest, first)

    def pairs(self, rows: Tensor, steps: Tensor, weights: Tensor | None) -> Pairs:
        """What is recorded of the images `rows` at `steps` (n,), with those entries of `weights` (B, T)."""
        trajectory = self.trajectory
        counted = None if weights is None else weights[rows, steps]
        if counted is not None:
            counted = counted.to(trajectory.latents.device, non_blocking=trajectory.latents.device.type == "cuda")
        return Pairs(
            entries(trajectory.latents, rows, steps + 1),
            entries(trajectory.log_probs, rows, steps),
            entries(self.advantages, rows, steps),
            counted,
        )
