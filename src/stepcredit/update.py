"""One epoch of policy-gradient updates on recorded trajectories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from stepcredit.config import TrainSection
from stepcredit.errors import InputError
from stepcredit.faults import Guard
from stepcredit.maths import gaussian, loss
from stepcredit.plans import entries, filled, image_groups, microbatch, pair_batches
from stepcredit.processes import whole_tensor
from stepcredit.sharing import Share, alone
from stepcredit.step_draw import StepDraw
from stepcredit.types import Policy, Trajectory, Transition
from stepcredit.update_statistics import UpdateStatistics, everywhere

Tick = Callable[[int, int], None]


def update_policy(
    policy: Policy,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    trajectory: Trajectory,
    advantages: Tensor,
    section: TrainSection,
    rng: np.random.Generator,
    tick: Tick = lambda done, total: None,
    guard: Guard | None = None,
    share: Share | None = None,
    draw: StepDraw | None = None,
) -> dict[str, float]:
    """Train on every trainable (image, step) of `trajectory`, or those of `draw`, `section.inner_epochs` times.

    Loss of an update: the mean over its images and trainable steps of

        max(-M rho, -M clip(rho, 1 - c, 1 + c)) + kl_weight KL(policy || reference),   rho = exp(log p - log p_old)

    The KL is `gaussian.kl`, or `loss.prediction_kl` if `section.kl_space` says so. With a `draw` each drawn step counts
    as many times as its weight says, in the loss and in its figures, and those not drawn are not replayed.

    Args:
        advantages: (B, T), M of every step.
        rng: shuffles the epoch's images into `section.updates_per_epoch` groups.
        tick: called with (updates done, updates in all).
        guard: halves the micro-batch where memory runs out, and ends a row of updates that are not finite.
        share: which images of the epoch the trajectory holds; by default all.
        draw: the steps to train on; None is all of them.

    Returns:
        the summary of `UpdateStatistics`, of all processes.

    Raises:
        Stopped: `guard` has seen enough.
    """
    statistics = UpdateStatistics()
    guard, share = guard or Guard(), share or alone(len(trajectory))
    processes, size = share.processes, microbatch(section, share.size)
    done, total = 0, section.inner_epochs * section.updates_per_epoch
    for _ in range(section.inner_epochs):
        for group in image_groups(share.total, section.updates_per_epoch, rng):
            weights = draw.weights(group, shared=not policy.mixes_steps)[share.rows] if draw else None
            gradient = partial(
                accumulate_gradient,
                policy,
                scaler,
                trajectory,
                advantages,
                share.among(group),
                section,
                first=done == 0,
                weights=weights,
                images=len(group),
                largest=share.largest(group) if processes.in_step else 0,
            )
            found = guard.in_memory(gradient, optimiser.zero_grad, size)
            processes.add_gradients(policy.parameters())
            scaler.unscale_(optimiser)
            norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), section.max_grad_norm)
            found.grad_norm.append(whole_tensor(norm.detach()))
            if processes.all(found.finite()):
                scaler.step(optimiser)
                statistics.add(found)
                guard.stepped()
            else:
                statistics.skip(found)
                guard.skipped(scaler)
            scaler.update()
            optimiser.zero_grad(set_to_none=True)
            done += 1
            tick(done, total)
    return everywhere(statistics, processes).summary()


def accumulate_gradient(
    policy: Policy,
    scaler: torch.amp.GradScaler,
    trajectory: Trajectory,
    advantages: Tensor,
    group: Tensor,
    section: TrainSection,
    size: int,
    *,
    first: bool = False,
    weights: Tensor | None = None,
    images: int | None = None,
    largest: int = 0,
) -> UpdateStatistics:
    """Backpropagate the loss of one group: many images and steps per forward, one graph alive at a time.

    Args:
        group: images, as rows of the trajectory.
        size: (image, step) pairs per forward.
        first: whether no update was made since the rollout.
        weights: (B, T) on the CPU, how often a step counts; those of weight 0 are left out. None is all once.
        images: of the update, with those of other processes; by default those of `group`.
        largest: as many forwards are made as for a group of so many images, more than are needed to no effect.
    """
    steps: list[int] = trajectory.trainable.nonzero().flatten().tolist()
    if not steps:
        raise InputError("every step of the walk has zero variance: nothing can be trained")
    statistics = UpdateStatistics()
    chosen = None if weights is None else weights > 0
    batches = list(pair_batches(group, steps, size, mixed=policy.mixes_steps, chosen=chosen))
    idle = [_first_pair(steps)] * (forwards(largest, steps, size, policy.mixes_steps) - len(batches))
    anchors: list[Tensor | None] = [None] * len(batches)
    if section.kl_weight:
        anchors = reference_anchors(policy, trajectory, [*batches, *idle], size, section)[: len(batches)]
    count = (images or len(group)) * len(steps)
    for (rows, at), anchor in zip(batches, anchors, strict=True):
        transition = replay(policy, trajectory, rows, at, size)
        counted = None if weights is None else weights[rows, at]
        value = pair_loss(transition, trajectory, advantages, rows, at, section, statistics, anchor, first, counted)
        scaler.scale(value.sum() / count).backward()
    for rows, at in idle:
        (replay(policy, trajectory, rows, at, size).mean.sum() * 0).backward()
    return statistics


def forwards(images: int, steps: Sequence[int], size: int, mixed: bool) -> int:
    """How many forwards `accumulate_gradient` makes for a group of so many images."""
    return len(list(pair_batches(torch.arange(images), steps, size, mixed=mixed)))


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
    weights: Tensor | None = None,
) -> Tensor:
    """Loss (len(rows),) of some images, each at its step, indexed by the true step; with KL if there is a reference.

    `weights` (len(rows),), on the CPU, say how often each of them counts.
    """
    statistics.pairs.append(len(rows) if weights is None else float(weights.sum()))
    following, old = entries(trajectory.latents, rows, steps + 1), entries(trajectory.log_probs, rows, steps)
    log_prob = gaussian.log_prob(following, transition.mean, transition.std)
    if weights is not None:
        weights = weights.to(log_prob.device, non_blocking=log_prob.device.type == "cuda")
    value = loss.clipped_surrogate(log_prob, old, entries(advantages, rows, steps), section.clip_range)
    if reference is not None:
        divergence = divergence_from(reference, transition, section)
        statistics.reference_kl.append(loss.average(divergence.detach(), weights))
        value = value + section.kl_weight * divergence
    with torch.no_grad():
        statistics.loss.append(loss.average(value.detach(), weights))
        statistics.approx_kl.append(loss.approx_kl(log_prob, old, weights))
        statistics.clip_fraction.append(loss.clip_fraction(log_prob, old, section.clip_range, weights))
        if first:
            statistics.first_ratio.append(loss.ratio_max_deviation(log_prob, old))
    return value if weights is None else value * weights


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


def _first_pair(steps: Sequence[int]) -> tuple[Tensor, Tensor]:
    """What is replayed to no effect, where other processes have more to replay."""
    return torch.zeros(1, dtype=torch.long), torch.tensor(steps[:1])
