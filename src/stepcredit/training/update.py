"""One epoch of updates on recorded trajectories."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from stepcredit.algorithms.base import Algorithm
from stepcredit.algorithms.gradient import accumulate_gradient
from stepcredit.algorithms.metrics import UpdateMetrics, gather_metrics
from stepcredit.algorithms.minibatch import Experience, Replayed, UpdatePart, image_groups, microbatch
from stepcredit.config import TrainSection
from stepcredit.distributed.optimizer import TrainingOptimizer
from stepcredit.training.recovery import Recovery
from stepcredit.types import Policy

Tick = Callable[[int, int], None]


def update_policy(
    algorithm: Algorithm,
    policy: Policy,
    optimizer: TrainingOptimizer,
    experience: Experience,
    section: TrainSection,
    rng: np.random.Generator,
    tick: Tick = lambda done, total: None,
    recovery: Recovery | None = None,
    replayed: Sequence[Replayed] = (),
) -> dict[str, float]:
    """Train on every trained (image, step) of `experience`, or the drawn ones, `section.inner_epochs` times.

    Args:
        rng: shuffles the epoch's images into `section.updates_per_epoch` groups.
        tick: called with (updates done, updates in all).
        replayed: earlier epochs. Each counts as much as `experience` in every update.
        recovery: halves the micro-batch where memory runs out, and stops after too many updates that are not finite.

    Returns:
        the summary of `UpdateMetrics`, of all processes. If no update has an image that is kept, only `loss` and
        `grad_norm`, which are NaN, and `skipped_updates`.

    Raises:
        ResumableError: `recovery` gave up.
    """
    metrics, recovery = UpdateMetrics(), recovery or Recovery()
    partition, updates, begun = experience.partition, section.inner_epochs * section.updates_per_epoch, False
    for done, group in enumerate(_groups(partition.total, section, rng)):
        pairs = [(experience, group)] + [(one.experience, one.groups[done % len(one.groups)]) for one in replayed]
        parts = [(one, one.part(rows, mixed=policy.mixes_steps, first=not begun)) for one, rows in pairs]
        parts = [(one, part) for one, part in parts if part.images]  # the same on all processes
        if not parts:
            tick(done + 1, updates)
            continue
        begun = True
        gradient = partial(_gradient, algorithm, policy, optimizer.scaler, parts)
        update = recovery.retry_out_of_memory(gradient, optimizer.clear, microbatch(section, partition.size))
        step = optimizer.step(update.means.get("loss", []))
        if step.made:
            update.grad_norm.append(step.norm)
            metrics.add(update)
            recovery.stepped()
        else:
            metrics.skip(update)
            recovery.skipped(optimizer.scaler)
        optimizer.scaler.update()
        optimizer.clear()
        tick(done + 1, updates)
    return {"loss": math.nan} | gather_metrics(metrics, partition.processes).summary()


def _gradient(
    algorithm: Algorithm,
    policy: Policy,
    scaler: torch.amp.GradScaler,
    parts: Sequence[tuple[Experience, UpdatePart]],
    size: int,
) -> UpdateMetrics:
    """The gradient of the mean over the parts."""
    metrics = UpdateMetrics()
    for experience, part in parts:
        metrics.add(accumulate_gradient(algorithm, policy, scaler, experience, part, size, 1 / len(parts)))
    return metrics


def _groups(images: int, section: TrainSection, rng: np.random.Generator) -> Iterator[Tensor]:
    """The images of each update, shuffled again in every inner epoch."""
    for _ in range(section.inner_epochs):
        yield from image_groups(images, section.updates_per_epoch, rng)
