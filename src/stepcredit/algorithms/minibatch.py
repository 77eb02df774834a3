"""The experience of an epoch, cut into updates and forwards."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from stepcredit.algorithms.old_weights import OldWeights
from stepcredit.algorithms.step_sampling import SampledSteps
from stepcredit.config import TrainSection
from stepcredit.distributed.partition import Partition
from stepcredit.errors import InputError
from stepcredit.maths import schedules
from stepcredit.maths.indexing import entries, filled
from stepcredit.types import Policy, Trajectory, Transition


@dataclass(frozen=True)
class Experience:
    """What an epoch trains on, of the images of this process.

    Attributes:
        trajectory: B recorded trajectories.
        step_advantages: (B, T), M of every step.
        partition: which images of the epoch these are.
        sampled: the steps to train on; None is all of them.
        advantages: (B,), A of every image.
        credit_profile: (T,), mean |M| over all images of the epoch, with mean 1 over the trained steps; None is 1.
        seeds: B seeds for what the algorithm draws; images of one prompt have the same.
        old_weights: the weights at the rollout, for an algorithm that needs them.
        kept: (N,) bool, which images of the epoch, of all processes, are trained; None is all of them.
    """

    trajectory: Trajectory
    step_advantages: Tensor
    partition: Partition
    sampled: SampledSteps | None = None
    advantages: Tensor | None = None
    credit_profile: Tensor | None = None
    seeds: Sequence[int] = ()
    old_weights: OldWeights | None = None
    kept: Tensor | None = None

    @cached_property
    def trained_steps(self) -> list[int]:
        """The steps that are trained; InputError if there are none."""
        steps: list[int] = self.trajectory.trainable.nonzero().flatten().tolist()
        if not steps:
            raise InputError(
                "no step is trained: those that draw noise have zero variance, or train.timestep_fraction and the "
                "sample.sde_window keys leave them out"
            )
        return steps

    def part(self, group: Tensor, *, mixed: bool, first: bool) -> UpdatePart:
        """This process's part of the update on the images `group`, as far as they are kept.

        Args:
            mixed: whether a forward may hold several steps. Otherwise all images of the group share their drawn steps.
            first: whether no update was made since the rollout.
        """
        group = group if self.kept is None else group[self.kept[group]]
        if not len(group):
            return UpdatePart(group, 0)
        weights = self.sampled.weights(group, shared=not mixed)[self.partition.rows] if self.sampled else None
        equal_forwards = self.partition.largest_part(group) if self.partition.processes.sharded else 0
        return UpdatePart(self.partition.local_rows(group), len(group), weights, equal_forwards, first)

    def batch(self, part: UpdatePart, rows: Tensor, steps: Tensor, size: int) -> StepBatch:
        """The pairs (rows[n], steps[n]) of an update, to be computed in a forward of `size`."""
        return StepBatch(self, rows, steps, size, part.weights, part.first)


@dataclass(frozen=True)
class Replayed:
    """An earlier epoch that is trained again.

    Attributes:
        experience: what is trained.
        groups: its images of each update of an epoch.
    """

    experience: Experience
    groups: Sequence[Tensor]


@dataclass(frozen=True)
class UpdatePart:
    """What this process trains in one update.

    Attributes:
        rows: (n,), its images, as rows of the trajectory.
        images: how many images the update has on all processes together.
        weights: (B, T) on the CPU, how often a step counts. Steps of weight 0 are left out; None counts all once.
        equal_forwards: make as many forwards as for this many images, where ranks have to forward together.
        first: whether no update was made since the rollout.
    """

    rows: Tensor
    images: int
    weights: Tensor | None = None
    equal_forwards: int = 0
    first: bool = False


@dataclass(frozen=True)
class StepBatch:
    """n (image, step) pairs of one forward, and what was recorded of them.

    Latents are looked up or computed at every access, because all batches of an update are alive at once.

    Attributes:
        rows, steps: (n,), image and step of each pair.
        size: the batch size of the forward, at least n. A short batch is filled with copies, whose outputs are dropped.
        all_weights: (B, T) on the CPU, see `UpdatePart.weights`.
        first: whether no update was made since the rollout.
    """

    experience: Experience
    rows: Tensor
    steps: Tensor
    size: int
    all_weights: Tensor | None
    first: bool

    def __len__(self) -> int:
        return len(self.rows)

    def replay(self, policy: Policy) -> Transition:
        """The transitions of the recorded steps under the present weights."""
        steps, rows = filled(self.steps, self.size), filled(self.rows, self.size)
        return policy.replay(self._trajectory, steps, rows).head(len(self))

    def predict(self, policy: Policy, latents: Tensor, *, guided: bool = True) -> Transition:
        """The transitions from `latents` (n, *L) at the pairs' steps and prompts."""
        steps, rows = filled(self.steps, self.size), filled(self.rows, self.size)
        found = policy.predict(self._trajectory, filled(latents, self.size), steps, rows, guided=guided)
        return found.head(len(self))

    def weighted(self, values: Tensor) -> Tensor:
        """`values` (n,), each multiplied by how often its pair counts."""
        return values if self.weights is None else values * self.weights

    @cached_property
    def weights(self) -> Tensor | None:
        """(n,), how often each pair counts; None counts all once."""
        if self.all_weights is None:
            return None
        device = self._trajectory.latents.device
        return self.all_weights[self.rows, self.steps].to(device, non_blocking=device.type == "cuda")

    @property
    def next_latents(self) -> Tensor:
        """(n, *L), the latents that each step went to."""
        return entries(self._trajectory.latents, self.rows, self.steps + 1)

    @cached_property
    def old_log_probs(self) -> Tensor:
        """(n,), log-probabilities of the steps at the rollout."""
        return entries(self._trajectory.log_probs, self.rows, self.steps)

    @cached_property
    def step_advantages(self) -> Tensor:
        """(n,), M."""
        return entries(self.experience.step_advantages, self.rows, self.steps)

    @cached_property
    def advantages(self) -> Tensor:
        """(n,), A of the pairs' images."""
        advantages = self.experience.advantages
        assert advantages is not None
        return advantages[self.rows.to(advantages.device)]

    @cached_property
    def credit_profile(self) -> Tensor:
        """(n,), the epoch's credit of the pairs' steps, see `Experience.credit_profile`."""
        profile = self.experience.credit_profile
        if profile is None:
            return torch.ones(len(self), device=self._trajectory.latents.device)
        return profile[self.steps].to(self._trajectory.latents.device)

    @property
    def final_latents(self) -> Tensor:
        """(n, *L), the clean latents that the pairs' images were decoded from."""
        final = self._trajectory.final
        return final[self.rows.to(final.device)]

    @property
    def noised_latents(self) -> Tensor:
        """(n, *L), the final latents noised to the level of each pair's step: alpha_i x_final + sigma_i eps.

        eps is a function of the image's seed and the step alone, so it does not depend on batches or processes, and is
        the same in every inner epoch. Images of one prompt share it. With group advantages, which sum to 0, this
        cancels much of its effect on the gradient.
        """
        final, schedule = self.final_latents, self._trajectory.schedule
        noise = torch.stack([self._noise(row, step) for row, step in self._pairs()]).to(final.device)
        alpha, sigma = (level[self.steps].to(final.device) for level in (schedule.alphas, schedule.sigmas))
        return schedules.noised(final, noise, alpha, sigma).to(final.dtype)

    @property
    def sigmas(self) -> Tensor:
        """(n,), the standard deviation of the noise at the level of each pair's step."""
        return self._trajectory.schedule.sigmas[self.steps].to(self._trajectory.latents.device)

    @property
    def old_weights(self) -> OldWeights:
        """The weights at the rollout; only for an algorithm that needs them."""
        assert self.experience.old_weights is not None
        return self.experience.old_weights

    @property
    def _trajectory(self) -> Trajectory:
        return self.experience.trajectory

    def _pairs(self) -> list[tuple[int, int]]:
        return list(zip(self.rows.tolist(), self.steps.tolist(), strict=True))

    def _noise(self, row: int, step: int) -> Tensor:
        seed = np.random.SeedSequence([self.experience.seeds[row], step]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(seed >> np.uint64(1)))
        return torch.randn(self._trajectory.latents.shape[2:], generator=generator)


def microbatch(train: TrainSection, images: int) -> int:
    """(image, step) pairs per training forward of an epoch of `images` images: `train.microbatch`, at most `images`.

    By default, the images of the largest update at one step. Raises InputError for `auto`, which the caller has to
    replace with a measured number first.
    """
    if train.microbatch == "auto":
        raise InputError("train.microbatch=auto has to be measured first: `stepcredit train` does; give a number")
    return min(train.microbatch or largest_update(train, images), images)


def largest_update(train: TrainSection, images: int) -> int:
    """Images of the largest update of an epoch of `images` images."""
    return -(-images // train.updates_per_epoch)


def image_groups(count: int, updates: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """A random partition of `count` images into `updates` groups that differ in size by at most one, rows ascending."""
    if updates > count:
        raise InputError(f"train.updates_per_epoch is {updates} but the epoch has only {count} images")
    for rows in np.array_split(rng.permutation(count), updates):
        yield torch.from_numpy(np.sort(rows))


def pair_batches(
    rows: Tensor, steps: Sequence[int], size: int, *, mixed: bool, chosen: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """All pairs of `rows` and `steps` as (rows (n,), steps (n,)), n <= `size`, step by step.

    Args:
        mixed: whether a batch may hold several steps. Otherwise every step may end in a short batch.
        chosen: (B, T) bool, which pairs to take; None takes all of them.
    """
    at, images = torch.cartesian_prod(torch.tensor(steps), rows).view(-1, 2).unbind(1)
    if chosen is not None:
        kept = chosen[images, at]
        at, images = at[kept], images[kept]
    if mixed:
        yield from zip(images.split(size), at.split(size), strict=True) if len(images) else ()
        return
    for step in steps:
        for batch in images[at == step].split(size):
            if len(batch):
                yield batch, torch.full_like(batch, step)


def forward_count(images: int, steps: Sequence[int], size: int, mixed: bool) -> int:
    """How many batches `pair_batches` makes of a group of `images` images."""
    return math.ceil(images * len(steps) / size) if mixed else len(steps) * math.ceil(images / size)
