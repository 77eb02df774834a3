"""One epoch of policy-gradient updates on recorded trajectories."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from torch import Tensor

from stepcredit.algorithms.metrics import UpdateMetrics, gather_metrics
from stepcredit.algorithms.minibatch import Experience
from stepcredit.algorithms.ppo import accumulate_gradient
from stepcredit.config import TrainSection
from stepcredit.distributed.optimizer import TrainingOptimizer
from stepcredit.training.recovery import Recovery
from stepcredit.training.sampling_plan import image_groups, microbatch
from stepcredit.types import Policy

Tick = Callable[[int, int], None]


def update_policy(
    policy: Policy,
    optimizer: TrainingOptimizer,
    experience: Experience,
    section: TrainSection,
    rng: np.random.Generator,
    tick: Tick = lambda done, total: None,
    guard: Recovery | None = None,
) -> dict[str, float]:
    """Train on every trainable (image, step) of `experience`, or those it has drawn, `section.inner_epochs` times.

    Loss of an update: the mean over its images and trainable steps of

        max(-M rho, -M clip(rho, 1 - c, 1 + c)) + kl_weight KL(policy || reference),   rho = exp(log p - log p_old)

    The KL is `gaussian.kl`, or `loss.prediction_kl` if `section.kl_space` says so. Where steps are drawn each counts as
    many times as its weight says, in the loss and in its figures, and the others are not replayed.

    Args:
        rng: shuffles the epoch's images into `section.updates_per_epoch` groups.
        tick: called with (updates done, updates in all).
        guard: halves the micro-batch where memory runs out, and ends a row of updates that are not finite.

    Returns:
        the summary of `UpdateMetrics`, of all processes.

    Raises:
        ResumableError: `guard` has seen enough.
    """
    statistics, guard = UpdateMetrics(), guard or Recovery()
    partition, updates = experience.partition, section.inner_epochs * section.updates_per_epoch
    for done, group in enumerate(groups(partition.total, section, rng)):
        part = experience.part(group, mixed=policy.mixes_steps, first=done == 0)
        gradient = partial(accumulate_gradient, policy, optimizer.scaler, experience, part, section)
        found = guard.retry_out_of_memory(gradient, optimizer.clear, microbatch(section, partition.size))
        step = optimizer.step(found.loss)
        if step.made:
            found.grad_norm.append(step.norm)
            statistics.add(found)
            guard.stepped()
        else:
            statistics.skip(found)
            guard.skipped(optimizer.scaler)
        optimizer.scaler.update()
        optimizer.clear()
        tick(done + 1, updates)
    return gather_metrics(statistics, partition.processes).summary()


def groups(images: int, section: TrainSection, rng: np.random.Generator) -> Iterator[Tensor]:
    """The images of each update, shuffled again in every inner epoch."""
    for _ in range(section.inner_epochs):
        yield from image_groups(images, section.updates_per_epoch, rng)
