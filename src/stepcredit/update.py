"""One epoch of policy-gradient updates on recorded trajectories."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from stepcredit.config import TrainSection
from stepcredit.errors import InputError
from stepcredit.maths import gaussian, loss
from stepcredit.plans import filled, microbatch, pair_batches
from stepcredit.types import Policy, Trajectory, Transition

Tick = Callable[[int, int], None]


@dataclass
class UpdateStatistics:
    """Figures of every forward of an epoch; tensors until `summary`, so that no step waits for the device.

    Attributes:
        pairs: how many (image, step) pairs each forward counts for.
        approx_kl, clip_fraction, reference_kl, loss: means over the pairs of each forward.
        grad_norm: of each update.
        first_ratio: max |ratio - 1| of each forward before the first update.
    """

    pairs: list[int] = field(default_factory=list)
    approx_kl: list[Tensor] = field(default_factory=list)
    clip_fraction: list[Tensor] = field(default_factory=list)
    reference_kl: list[Tensor] = field(default_factory=list)
    loss: list[Tensor] = field(default_factory=list)
    grad_norm: list[Tensor] = field(default_factory=list)
    first_ratio: list[Tensor] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """Means over the epoch's images and steps; `ratio_max_deviation` is max |ratio - 1| before the first update."""
        means = {
            name: float(np.average(torch.stack(getattr(self, name)).tolist(), weights=self.pairs))
            for name in ("loss", "approx_kl", "clip_fraction", "reference_kl")
            if getattr(self, name)
        }
        deviation, norm = torch.stack(self.first_ratio).max(), torch.stack(self.grad_norm).mean()
        return {"ratio_max_deviation": float(deviation), **means, "grad_norm": float(norm)}


def update_policy(
    policy: Policy,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    trajectory: Trajectory,
    advantages: Tensor,
    section: TrainSection,
    rng: np.random.Generator,
    tick: Tick = lambda done, total: None,
) -> dict[str, float]:
    """Train on every trainable (image, step) of `trajectory`, `section.inner_epochs` times.

    Loss of an update: the mean over its images and trainable steps of

        max(-M rho, -M clip(rho, 1 - c, 1 + c)) + kl_weight KL(policy || reference),   rho = exp(log p - log p_old)

    The KL is `gaussian.kl`, or `loss.prediction_kl` if `section.kl_space` says so.

    Args:
        advantages: (B, T), M of every step.
        rng: shuffles images into `section.updates_per_epoch` groups.
        tick: called with (updates done, updates in all).

    Returns:
        the summary of `UpdateStatistics`.
    """
    statistics = UpdateStatistics()
    parameters = policy.parameters()
    done, total = 0, section.inner_epochs * section.updates_per_epoch
    for _ in range(section.inner_epochs):
        for group in image_groups(len(trajectory), section.updates_per_epoch, rng):
            accumulate_gradient(policy, scaler, trajectory, advantages, group, section, statistics, first=done == 0)
            scaler.unscale_(optimiser)
            statistics.grad_norm.append(torch.nn.utils.clip_grad_norm_(parameters, section.max_grad_norm).detach())
            scaler.step(optimiser)
            scaler.update()
            optimiser.zero_grad(set_to_none=True)
            done += 1
            tick(done, total)
    return statistics.summary()


def image_groups(count: int, updates: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """A random partition of `count` images into `updates` groups that differ in size by at most one, rows ascending."""
    if updates > count:
        raise InputError(f"train.updates_per_epoch is {updates} but the epoch has only {count} images")
    for rows in np.array_split(rng.permutation(count), updates):
        yield torch.from_numpy(np.sort(rows))


def accumulate_gradient(
    policy: Policy,
    scaler: torch.amp.GradScaler,
    trajectory: Trajectory,
    advantages: Tensor,
    group: Tensor,
    section: TrainSection,
    statistics: UpdateStatistics,
    *,
    first: bool = False,
) -> None:
    """Backpropagate the loss of one group: many images and steps per forward, one graph alive at a time."""
    steps: list[int] = trajectory.trainable.nonzero().flatten().tolist()
    if not steps:
        raise InputError("every step of the walk has zero variance: nothing can be trained")
    size = microbatch(section, len(trajectory))
    batches = list(pair_batches(group, steps, size, mixed=policy.mixes_steps))
    anchors = (
        reference_anchors(policy, trajectory, batches, size, section) if section.kl_weight else [None] * len(batches)
    )
    for (rows, at), anchor in zip(batches, anchors, strict=True):
        transition = replay(policy, trajectory, rows, at, size)
        value = pair_loss(transition, trajectory, advantages, rows, at, section, statistics, anchor, first)
        scaler.scale(value.sum() / (len(group) * len(steps))).backward()


@torch.no_grad()
def reference_anchors(
    policy: Policy, trajectory: Trajectory, batches: Sequence[tuple[Tensor, Tensor]], size: int, section: TrainSection
) -> list[Tensor | None]:
    """What the KL is taken to, by batch: the mean or the output of the reference.

    All batches of a group at once, because to swap the weights of a full adapter is slow.
    """
    with policy.reference():
        return [_anchor(replay(policy, trajectory, rows, at, size), section) for rows, at in batches]


def pair_loss(
    transition: Transition,
    trajectory: Trajectory,
    advantages: Tensor,
    rows: Tensor,
    steps: Tensor,
    section: TrainSection,
    statistics: UpdateStatistics,
    reference: Tensor | None,
    first: bool,
) -> Tensor:
    """Loss (len(rows),) of some images, each at its step, indexed by the true step; with KL if there is a reference."""
    following, old = trajectory.latents[rows, steps + 1], trajectory.log_probs[rows, steps]
    log_prob = gaussian.log_prob(following, transition.mean, transition.std)
    value = loss.clipped_surrogate(log_prob, old, advantages[rows, steps], section.clip_range)
    if reference is not None:
        divergence = divergence_from(reference, transition, section)
        statistics.reference_kl.append(divergence.detach().mean())
        value = value + section.kl_weight * divergence
    with torch.no_grad():
        statistics.pairs.append(len(rows))
        statistics.loss.append(value.detach().mean())
        statistics.approx_kl.append(loss.approx_kl(log_prob, old))
        statistics.clip_fraction.append(loss.clip_fraction(log_prob, old, section.clip_range))
        if first:
            statistics.first_ratio.append(loss.ratio_max_deviation(log_prob, old))
    return value


def divergence_from(reference: Tensor, transition: Transition, section: TrainSection) -> Tensor:
    """(B,): how far a step is from the reference in `section.kl_space`; `reference` is one of `reference_anchors`."""
    if section.kl_space == "prediction":
        return loss.prediction_kl(transition.output, reference)
    return gaussian.kl(transition.mean, reference, transition.std)


def replay(policy: Policy, trajectory: Trajectory, rows: Tensor, steps: Tensor, size: int) -> Transition:
    """The transitions of the images `rows` at `steps`, replayed in a batch of `size`, which is at least as many.

    A short batch is filled up, so that it replays what was recorded at `size`, and the rest is cut off again before
    anything counts it or backpropagates.
    """
    transition = policy.replay(trajectory, filled(steps, size), filled(rows, size))
    return transition if len(rows) == size else transition.head(len(rows))


def _anchor(transition: Transition, section: TrainSection) -> Tensor:
    return transition.output if section.kl_space == "prediction" else transition.mean
