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
from stepcredit.types import Policy, Trajectory

Tick = Callable[[int, int], None]


@dataclass
class UpdateStatistics:
    """Figures of every forward of an epoch; tensors until `summary`, so that no step waits for the device."""

    approx_kl: list[Tensor] = field(default_factory=list)
    clip_fraction: list[Tensor] = field(default_factory=list)
    reference_kl: list[Tensor] = field(default_factory=list)
    loss: list[Tensor] = field(default_factory=list)
    grad_norm: list[Tensor] = field(default_factory=list)
    first_ratio: list[Tensor] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """Means over the epoch; `ratio_max_deviation` is max |ratio - 1| before the first update."""
        means = {
            name: float(torch.stack(getattr(self, name)).mean())
            for name in ("loss", "approx_kl", "clip_fraction", "reference_kl", "grad_norm")
            if getattr(self, name)
        }
        return {"ratio_max_deviation": float(torch.stack(self.first_ratio).max()), **means}


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
    """Backpropagate the loss of one group: many images at one step per forward, one graph alive at a time."""
    steps: list[int] = trajectory.trainable.nonzero().flatten().tolist()
    if not steps:
        raise InputError("every step of the walk has zero variance: nothing can be trained")
    terms = len(group) * len(steps)
    for rows in group.split(section.microbatch or len(group)):
        reference = reference_means(policy, trajectory, steps, rows) if section.kl_weight else {}
        for step in steps:
            value = step_loss(
                policy, trajectory, advantages, step, rows, section, statistics, reference.get(step), first
            )
            scaler.scale(value.sum() / terms).backward()


@torch.no_grad()
def reference_means(policy: Policy, trajectory: Trajectory, steps: Sequence[int], rows: Tensor) -> dict[int, Tensor]:
    """Each step's mean under the reference; all at once, because to swap the weights of a full adapter is slow."""
    with policy.reference():
        return {step: policy.replay(trajectory, step, _selection(trajectory, rows)).mean for step in steps}


def step_loss(
    policy: Policy,
    trajectory: Trajectory,
    advantages: Tensor,
    step: int,
    rows: Tensor,
    section: TrainSection,
    statistics: UpdateStatistics,
    reference_mean: Tensor | None,
    first: bool,
) -> Tensor:
    """Loss (len(rows),) of some images at one step, indexed by the true step; with KL if there is a reference."""
    transition = policy.replay(trajectory, step, _selection(trajectory, rows))
    following, old = trajectory.latents[rows, step + 1], trajectory.log_probs[rows, step]
    log_prob = gaussian.log_prob(following, transition.mean, transition.std)
    value = loss.clipped_surrogate(log_prob, old, advantages[rows, step], section.clip_range)
    if reference_mean is not None:
        divergence = gaussian.kl(transition.mean, reference_mean, transition.std)
        statistics.reference_kl.append(divergence.detach().mean())
        value = value + section.kl_weight * divergence
    with torch.no_grad():
        statistics.loss.append(value.detach().mean())
        statistics.approx_kl.append(loss.approx_kl(log_prob, old))
        statistics.clip_fraction.append(loss.clip_fraction(log_prob, old, section.clip_range))
        if first:
            statistics.first_ratio.append(loss.ratio_max_deviation(log_prob, old))
    return value


def _selection(trajectory: Trajectory, rows: Tensor) -> Tensor | None:
    """`rows` for `Policy.replay`; None, which replays exactly, where ascending rows are all there are."""
    return None if len(rows) == len(trajectory) else rows
